/*
 * PID 1 of the measured virtual machine: from the first file system to the verified root, and nothing else.
 *
 *   1. Mount /dev, /proc, /sys; load the modules that modules.list names, in its order.
 *   2. Map the disk with serial number "root" by the verity descriptor on the (measured) command line; mount it.
 *   3. If there is a disk "inputs": extend its descriptor, the disk's last block, into register 15 of the TPM first,
 *      then map and mount it under /in.
 *   4. Make the root the only file system, harden the kernel, mount bounded tmpfs where the root expects them.
 *   5. Start the one command, wait for it, switch the machine off.
 *
 * Anything unexpected ends PID 1, and with it the kernel ("panic=-1"): there is no shell to fall into. A block that
 * differs from its hash panics the kernel at the moment it is read. Written without a C library, so that the program
 * is a few kilobytes that can be read, and so that the same compiler gives the same bytes. Numbers are parsed only
 * from the measured command line, from the measured descriptor, and from the kernel.
 */

#include <asm/ioctl.h>
#include <asm/unistd.h>
#include <linux/dm-ioctl.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/reboot.h>
#include <linux/resource.h>
#include <linux/time_types.h>

#ifndef __x86_64__
#error "init.c knows the system calls of x86-64 only"
#endif

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

#define BLOCK 4096
#define EEXIST 17
#define ENODEV 19
#define TPM_RC_RETRY 0x922
#define INPUTS_REGISTER 15
#define TRIES 1000
#define PAUSE_NS 10000000
#define PANIC_STATUS 1

static long call(long number, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

/* The compiler may call these for structures and loops. */
void *memset(void *to, int value, u64 count)
{
	u8 *byte = to;
	while (count--)
		*byte++ = (u8)value;
	return to;
}

void *memcpy(void *to, const void *from, u64 count)
{
	u8 *target = to;
	const u8 *source = from;
	while (count--)
		*target++ = *source++;
	return to;
}

static u64 length(const char *text)
{
	u64 count = 0;
	while (text[count])
		count++;
	return count;
}

static int starts(const char *text, const char *prefix)
{
	while (*prefix)
		if (*text++ != *prefix++)
			return 0;
	return 1;
}

static char *put(char *to, const char *text)
{
	while (*text)
		*to++ = *text++;
	*to = 0;
	return to;
}

static char *put_number(char *to, u64 value)
{
	char digits[24];
	int count = 0;
	do
		digits[count++] = (char)('0' + value % 10);
	while (value /= 10);
	while (count)
		*to++ = digits[--count];
	*to = 0;
	return to;
}

static int opened(const char *path, int flags)
{
	return (int)call(__NR_open, (long)path, flags | O_CLOEXEC, 0, 0, 0);
}

/* The kernel's log is the only place to say anything, and only fixed words and names from measured lists go there. */
static void say(const char *what, const char *subject)
{
	char line[512], *end = line;
	int fd = opened("/dev/kmsg", O_WRONLY);
	if (length(what) + length(subject) > 400)
		subject = "(long)";
	end = put(end, "<2>vitrine: ");
	end = put(end, what);
	end = put(end, " ");
	end = put(end, subject);
	if (fd >= 0) {
		call(__NR_write, fd, (long)line, end - line, 0, 0);
		call(__NR_close, fd, 0, 0, 0, 0);
	}
}

static void die(const char *what, const char *subject)
{
	say(what, subject);
	call(__NR_exit_group, PANIC_STATUS, 0, 0, 0, 0);
	for (;;)
		;
}

static void need(long result, const char *what, const char *subject)
{
	if (result < 0)
		die(what, subject);
}

static void pause_once(void)
{
	struct __kernel_timespec time = { 0, PAUSE_NS };
	call(__NR_nanosleep, (long)&time, 0, 0, 0, 0);
}

/* Reads a whole small file; the number of bytes, or a negative error. A zero byte ends what was read. */
static long slurp(const char *path, char *into, u64 size)
{
	long done = 0, got;
	int fd = opened(path, O_RDONLY);
	if (fd < 0)
		return fd;
	while ((got = call(__NR_read, fd, (long)(into + done), (long)(size - 1 - (u64)done), 0, 0)) > 0)
		done += got;
	call(__NR_close, fd, 0, 0, 0, 0);
	into[done] = 0;
	return got < 0 ? got : done;
}

static void write_file(const char *path, const char *text)
{
	int fd = opened(path, O_WRONLY);
	if (fd < 0 || call(__NR_write, fd, (long)text, (long)length(text), 0, 0) < 0)
		say("could not set", path);
	if (fd >= 0)
		call(__NR_close, fd, 0, 0, 0, 0);
}

static void mounted(const char *source, const char *target, const char *type, long flags, const char *options)
{
	need(call(__NR_mount, (long)source, (long)target, (long)type, flags, (long)options), "cannot mount", target);
}

/* Modules. */

static char list[8192];

static void load_modules(void)
{
	char path[256], *line = list, *next;
	need(slurp("/modules.list", list, sizeof list), "cannot read", "modules.list");
	for (; *line; line = next) {
		int fd;
		long result;
		for (next = line; *next && *next != '\n'; next++)
			;
		if (*next)
			*next++ = 0;
		put(put(path, "/modules/"), line);
		fd = opened(path, O_RDONLY);
		need(fd, "cannot open the module", line);
		result = call(__NR_finit_module, fd, (long)"", 0, 0, 0);
		/* ENODEV: a driver of hardware that this machine has not, such as a guest's door to its processor. */
		if (result != -EEXIST && result != -ENODEV)
			need(result, "cannot load the module", line);
		call(__NR_close, fd, 0, 0, 0, 0);
	}
}

/* Disks are told apart by the serial number that the host gave them; whether it told the truth, verity decides. */

static int find_disk(const char *serial, char *device)
{
	char path[64] = "/sys/block/vd?/serial", found[64];
	for (char letter = 'a'; letter <= 'h'; letter++) {
		path[13] = letter;
		if (slurp(path, found, sizeof found) < 0)
			continue;
		if (starts(found, serial) && (found[length(serial)] == 0 || found[length(serial)] == '\n')) {
			put(put(device, "/dev/vd"), (char[]){ letter, 0 });
			return 1;
		}
	}
	return 0;
}

/* Verity. A descriptor is DATA_BLOCKS:HASH_START:ROOT:SALT, see appliance/image/verity.py. */

struct descriptor {
	u64 blocks;
	u64 start;
	char root[65];
	char salt[65];
};

static const char *number(const char *text, u64 *value)
{
	int digits = 0;
	for (*value = 0; *text >= '0' && *text <= '9' && digits < 13; text++, digits++)
		*value = *value * 10 + (u64)(*text - '0');
	if (!digits || *text != ':')
		die("the descriptor of a disk is malformed at", "a number");
	return text + 1;
}

static const char *hash(const char *text, char *into)
{
	for (int position = 0; position < 64; position++) {
		char digit = text[position];
		if (!((digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f')))
			die("the descriptor of a disk is malformed at", "a hash");
		into[position] = digit;
	}
	into[64] = 0;
	return text + 64;
}

static struct descriptor described(const char *text)
{
	struct descriptor result;
	text = number(text, &result.blocks);
	text = number(text, &result.start);
	text = hash(text, result.root);
	if (*text++ != ':')
		die("the descriptor of a disk is malformed at", "a colon");
	text = hash(text, result.salt);
	if ((*text && *text != ' ' && *text != '\n') || !result.blocks || result.start != result.blocks + 1)
		die("the descriptor of a disk is malformed at", "its end");
	return result;
}

struct request {
	struct dm_ioctl head;
	struct dm_target_spec target;
	char parameters[1024];
};

static struct request request;

static void mapper(int fd, u64 command, const char *name, u32 targets)
{
	memset(&request.head, 0, sizeof request.head);
	request.head.version[0] = 4;
	request.head.data_size = sizeof request;
	request.head.data_start = __builtin_offsetof(struct request, target);
	request.head.target_count = targets;
	request.head.flags = DM_READONLY_FLAG;
	put(request.head.name, name);
	need(call(__NR_ioctl, fd, (long)command, (long)&request, 0, 0), "device-mapper refuses", name);
}

/* Maps `device` and mounts what is on it at `target`. */
static void mount_verified(const char *name, const char *device, const struct descriptor *disk, const char *target)
{
	char mapped[32], *end = request.parameters;
	int fd = opened("/dev/mapper/control", O_RDWR);
	need(fd, "cannot open", "/dev/mapper/control");
	mapper(fd, DM_DEV_CREATE, name, 0);
	put_number(put(mapped, "/dev/dm-"), request.head.dev & 0xff);
	memset(&request, 0, sizeof request);
	request.target.length = disk->blocks * (BLOCK / 512);
	put(request.target.target_type, "verity");
	end = put(put(put(put(put(end, "1 "), device), " "), device), " 4096 4096 ");
	end = put(put_number(put(put_number(end, disk->blocks), " "), disk->start), " sha256 ");
	end = put(put(put(put(end, disk->root), " "), disk->salt), " 1 panic_on_corruption");
	mapper(fd, DM_TABLE_LOAD, name, 1);
	mapper(fd, DM_DEV_SUSPEND, name, 0); /* without the suspend flag this activates the table */
	call(__NR_close, fd, 0, 0, 0, 0);
	mounted(mapped, target, "erofs", MS_RDONLY | MS_NODEV | MS_NOSUID, "");
}

static char line[4096];

static void mount_root(void)
{
	char device[16], *word = line;
	struct descriptor disk;
	int tries = 0;
	need(slurp("/proc/cmdline", line, sizeof line), "cannot read", "/proc/cmdline");
	while (*word && !starts(word, "vitrine.root=")) {
		while (*word && *word != ' ')
			word++;
		while (*word == ' ')
			word++;
	}
	if (!*word)
		die("expected on the command line", "vitrine.root=");
	disk = described(word + 13);
	while (!find_disk("root", device)) {
		if (tries++ == TRIES)
			die("no disk has the serial number", "root");
		pause_once();
	}
	mount_verified("root", device, &disk, "/root");
}

/* The TPM. SHA-256 as in FIPS 180-4. */

static const u32 constants[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static u32 rotated(u32 value, int count)
{
	return value >> count | value << (32 - count);
}

static void compress(u32 *state, const u8 *block)
{
	u32 word[64], now[8];
	for (int i = 0; i < 16; i++)
		word[i] = (u32)block[4 * i] << 24 | (u32)block[4 * i + 1] << 16 | (u32)block[4 * i + 2] << 8 |
			  (u32)block[4 * i + 3];
	for (int i = 16; i < 64; i++)
		word[i] = word[i - 16] + word[i - 7] +
			  (rotated(word[i - 15], 7) ^ rotated(word[i - 15], 18) ^ word[i - 15] >> 3) +
			  (rotated(word[i - 2], 17) ^ rotated(word[i - 2], 19) ^ word[i - 2] >> 10);
	memcpy(now, state, sizeof now);
	for (int i = 0; i < 64; i++) {
		u32 first = now[7] + (rotated(now[4], 6) ^ rotated(now[4], 11) ^ rotated(now[4], 25)) +
			    ((now[4] & now[5]) ^ (~now[4] & now[6])) + constants[i] + word[i];
		u32 second = (rotated(now[0], 2) ^ rotated(now[0], 13) ^ rotated(now[0], 22)) +
			     ((now[0] & now[1]) ^ (now[0] & now[2]) ^ (now[1] & now[2]));
		for (int j = 7; j > 0; j--)
			now[j] = now[j - 1];
		now[4] += first;
		now[0] = first + second;
	}
	for (int i = 0; i < 8; i++)
		state[i] += now[i];
}

/* SHA-256 of one whole block of a disk. */
static void hash_block(const u8 *data, u8 *digest)
{
	u32 state[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
			 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
	u8 last[64];
	for (int at = 0; at < BLOCK; at += 64)
		compress(state, data + at);
	memset(last, 0, sizeof last);
	last[0] = 0x80;
	last[62] = (BLOCK * 8) >> 8 & 0xff; /* the length in bits, 32,768, big endian */
	last[63] = (BLOCK * 8) & 0xff;
	compress(state, last);
	for (int i = 0; i < 32; i++)
		digest[i] = (u8)(state[i / 4] >> (24 - 8 * (i % 4)));
}

/* TPM2_PCR_Extend of one SHA-256 digest, with an empty password. */
static void extend(u8 which, const u8 *digest)
{
	u8 command[65] = { 0x80, 0x02, 0, 0, 0, 65, 0, 0, 0x01, 0x82, 0, 0, 0, which, 0, 0, 0, 9,
			   0x40, 0, 0, 0x09, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x00, 0x0b };
	u8 reply[256];
	memcpy(command + 33, digest, 32);
	for (int tries = 0; tries < TRIES; tries++) {
		u32 code;
		int fd = opened("/dev/tpm0", O_RDWR);
		need(fd, "cannot open", "/dev/tpm0");
		if (call(__NR_write, fd, (long)command, sizeof command, 0, 0) != sizeof command ||
		    call(__NR_read, fd, (long)reply, sizeof reply, 0, 0) < 10)
			die("no answer from", "/dev/tpm0");
		call(__NR_close, fd, 0, 0, 0, 0);
		code = (u32)reply[6] << 24 | (u32)reply[7] << 16 | (u32)reply[8] << 8 | (u32)reply[9];
		if (!code)
			return;
		if (code != TPM_RC_RETRY)
			break;
		pause_once();
	}
	die("register not extended by", "/dev/tpm0");
}

static u8 block[BLOCK + 1];

static void mount_inputs(void)
{
	char device[16], path[64], text[32], *end;
	u8 digest[32];
	u64 sectors = 0;
	struct descriptor disk;
	int fd;
	if (!find_disk("inputs", device))
		return;
	put(put(put(path, "/sys/block/"), device + 5), "/size");
	need(slurp(path, text, sizeof text), "cannot read", path);
	for (end = text; *end >= '0' && *end <= '9'; end++)
		sectors = sectors * 10 + (u64)(*end - '0');
	if (sectors < 3 * (BLOCK / 512))
		die("too small a disk", device);
	fd = opened(device, O_RDONLY);
	need(fd, "cannot open", device);
	if (call(__NR_pread64, fd, (long)block, BLOCK, (long)(sectors * 512 - BLOCK), 0) != BLOCK)
		die("cannot read", device);
	call(__NR_close, fd, 0, 0, 0, 0);
	hash_block(block, digest);
	extend(INPUTS_REGISTER, digest); /* before the kernel looks at anything that is on the disk */
	disk = described((const char *)block);
	mount_verified("inputs", device, &disk, "/root/in");
}

static void switch_root(void)
{
	static const char *const moved[] = { "/dev", "/proc", "/sys" };
	char target[32];
	for (int i = 0; i < 3; i++) {
		put(put(target, "/root"), moved[i]);
		mounted(moved[i], target, 0, MS_MOVE, 0);
	}
	need(call(__NR_chdir, (long)"/root", 0, 0, 0, 0), "cannot enter", "/root");
	mounted(".", "/", 0, MS_MOVE, 0);
	need(call(__NR_chroot, (long)".", 0, 0, 0, 0), "cannot change root to", "/root");
	need(call(__NR_chdir, (long)"/", 0, 0, 0, 0), "cannot enter", "/");
}

static void harden(void)
{
	struct { u64 soft, hard; } none = { 0, 0 };
	mounted("securityfs", "/sys/kernel/security", "securityfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, 0);
	mounted("configfs", "/sys/kernel/config", "configfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
	mounted("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=64m");
	mounted("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=16m");
	mounted("tmpfs", "/out", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=256m");
	mounted("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=16m");
	write_file("/proc/sys/kernel/modules_disabled", "1");
	write_file("/proc/sys/kernel/kexec_load_disabled", "1");
	write_file("/proc/sys/kernel/kptr_restrict", "2");
	write_file("/proc/sys/kernel/dmesg_restrict", "1");
	write_file("/proc/sys/kernel/core_pattern", "");
	write_file("/proc/sys/kernel/unprivileged_bpf_disabled", "1");
	need(call(__NR_prlimit64, 0, RLIMIT_CORE, (long)&none, 0, 0), "cannot forbid", "core dumps");
}

/* Runs the command, an argument a line, and ends the machine when it ends. */
static void run(void)
{
	static char *argv[32];
	static char *const envp[] = { "LANG=C.UTF-8", "PATH=/usr/bin", "HOME=/tmp", "TZ=UTC",
				      "PYTHONDONTWRITEBYTECODE=1", 0 };
	int count = 0, status = 0;
	long child, gone;
	for (char *next = list; *next && count < 31; count++) {
		argv[count] = next;
		while (*next && *next != '\n')
			next++;
		if (*next)
			*next++ = 0;
	}
	child = call(__NR_fork, 0, 0, 0, 0, 0);
	need(child, "cannot start", argv[0]);
	if (!child) {
		call(__NR_setsid, 0, 0, 0, 0, 0);
		call(__NR_execve, (long)argv[0], (long)argv, (long)envp, 0, 0);
		die("cannot start", argv[0]);
	}
	do
		gone = call(__NR_wait4, -1, (long)&status, 0, 0, 0);
	while (gone != child);
	if (status) {
		char text[32];
		put_number(text, (u64)(status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff));
		say("the command ended with status", text);
	}
	call(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0, 0);
	die("cannot switch", "off");
}

int main(void)
{
	int null;
	mounted("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755");
	mounted("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
	mounted("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
	/* What the command prints goes nowhere: the console belongs to the host. */
	null = opened("/dev/null", O_RDWR & ~O_CLOEXEC);
	need(null, "cannot open", "/dev/null");
	for (int fd = 0; fd < 3; fd++)
		need(call(__NR_dup2, null, fd, 0, 0, 0), "cannot redirect", "/dev/null");
	load_modules();
	mount_root();
	mount_inputs();
	need(slurp("/command", list, sizeof list), "cannot read", "command");
	switch_root();
	call(__NR_mkdir, (long)"/dev/shm", 0755, 0, 0, 0);
	harden();
	run();
	return 1;
}

/* The kernel enters here with a stack that is aligned to 16 bytes; `main` never returns. */
__asm__(".globl _start\n_start:\n\txorl %ebp, %ebp\n\tandq $-16, %rsp\n\tcall main\n\thlt\n");
