"""System call numbers of the two architectures, for the calls that policies, probes and the seal itself name.

Origin: `asm/unistd_64.h` (x86-64) and `asm-generic/unistd.h` (aarch64), Linux 6.1; the numbers never
change. None marks a call that the newer architecture never had.
"""

from __future__ import annotations

from typing import Literal

Architecture = Literal["x86_64", "aarch64"]

_X86_64, _AARCH64 = 0, 1

# fmt: off
_NUMBERS: dict[str, tuple[int, int | None]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "open": (2, None), "openat": (257, 56), "openat2": (437, 437),
    "creat": (85, None), "close": (3, 57), "close_range": (436, 436), "lseek": (8, 62), "dup": (32, 23),
    "fcntl": (72, 25), "ioctl": (16, 29), "poll": (7, None), "ppoll": (271, 73), "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None),
    "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17), "fadvise64": (221, 223),
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "madvise": (28, 233),
    "brk": (12, 214),
    "clone": (56, 220), "clone3": (435, 435), "fork": (57, None), "vfork": (58, None), "execve": (59, 221),
    "execveat": (322, 281), "exit": (60, 93), "exit_group": (231, 94), "futex": (202, 98),
    "set_robust_list": (273, 99), "rseq": (334, 293), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "membarrier": (324, 283),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "kill": (62, 129), "tgkill": (234, 131), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrandom": (318, 278), "uname": (63, 160),
    "sysinfo": (99, 179), "getrusage": (98, 165),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getpgid": (121, 155), "prlimit64": (302, 261),
    "getrlimit": (97, 163), "prctl": (157, 167),
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "recvmsg": (47, 212),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "mount": (165, 40), "umount2": (166, 39), "move_mount": (429, 429), "mount_setattr": (442, 442),
    "open_tree": (428, 428), "fsopen": (430, 430), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268),
    "setuid": (105, 146), "setgid": (106, 144), "setresuid": (117, 147), "setresgid": (119, 149),
    "setgroups": (116, 159), "capget": (125, 90), "capset": (126, 91), "seccomp": (317, 277),
    "personality": (135, 92),
    "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
    "truncate": (76, 45), "ftruncate": (77, 46), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None),
    "renameat2": (316, 276), "mkdirat": (258, 34), "linkat": (265, 37), "symlinkat": (266, 36), "mknodat": (259, 33),
    "fchmodat": (268, 53), "fchownat": (260, 54),
    "pkey_mprotect": (329, 288), "shmget": (29, 194), "shmat": (30, 196), "modify_ldt": (154, None),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "reboot": (169, 142),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "wait4": (61, 260), "waitid": (247, 95),
}
# fmt: on


def known(name: str) -> bool:
    """Whether `name` stands in the table."""
    return name in _NUMBERS


def number(name: str, architecture: Architecture) -> int | None:
    """The number of the system call `name`, None where `architecture` has no such call. Raises `KeyError`."""
    return _NUMBERS[name][_X86_64 if architecture == "x86_64" else _AARCH64]


def names() -> tuple[str, ...]:
    """Every system call of the table."""
    return tuple(_NUMBERS)
