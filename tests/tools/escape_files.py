# Hostile code calls the kernel as directly as it can.
# ruff: noqa: PTH101,PTH102,PTH104,PTH108,PTH118,PTH123,PTH208,PTH211,SIM115
"""Escapes by memory, by files, and by what the worker itself may become."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import struct
from collections.abc import Callable

from appliance.seal import kernel
from appliance.seal.root import AT_FDCWD
from tests.tools.escape_table import (
    EXTENSIONS,
    FILES,
    HIDDEN,
    LIBC,
    LIMITS,
    SECCOMP,
    STDLIB,
    STDLIB_FILE,
    Stage,
    call,
    calls,
    escape,
)

# ---- memory that can be executed

PAGE = mmap.PAGESIZE
escape("map-executable", SECCOMP)(lambda _stage: mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_EXEC))


@escape("map-code-file", SECCOMP)
def map_code_file(_stage: Stage) -> object:
    """As a late import of an extension module does."""
    with open(os.path.join(EXTENSIONS, sorted(os.listdir(EXTENSIONS))[0]), "rb") as file:
        return mmap.mmap(file.fileno(), PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)


def _protect(number: Callable[[int], int]) -> object:
    memory = mmap.mmap(-1, PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if number(address) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    return address


escape("protect-executable", SECCOMP)(lambda _stage: _protect(lambda address: LIBC.mprotect(address, PAGE, 5)))
escape("protect-executable-by-key", SECCOMP)(
    lambda _stage: _protect(lambda address: call("pkey_mprotect", address, PAGE, 5, -1))
)
escape("personality", SECCOMP)(lambda _stage: call("personality", 0x0400000))  # READ_IMPLIES_EXEC
calls("segment-table", "modify_ldt", 0, ctypes.create_string_buffer(64), 64, opened_by=(SECCOMP,))
escape("write-own-memory", denials=HIDDEN)(lambda _stage: os.open("/proc/self/mem", os.O_RDWR))

# ---- files

for _name, _path in {
    "dev-mem": "/dev/mem", "dev-kmsg": "/dev/kmsg", "dev-port": "/dev/port", "dev-kvm": "/dev/kvm",
    "dev-tty": "/dev/tty", "dev-fuse": "/dev/fuse", "dev-shm": "/dev/shm/x", "sysrq": "/proc/sysrq-trigger",
    "core-pattern": "/proc/sys/kernel/core_pattern", "cgroup": "/sys/fs/cgroup/cgroup.procs",
}.items():  # fmt: skip
    escape(_name, denials=HIDDEN)(lambda _stage, path=_path: os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # type: ignore[misc]

escape("read-passwd", FILES, denials=HIDDEN)(lambda _stage: open("/etc/passwd").read())
escape("list-processes", FILES, denials=HIDDEN)(lambda _stage: os.listdir("/proc"))
escape("environment-of-controller", denials=HIDDEN)(lambda stage: open(f"/proc/{stage.controller}/environ").read())
escape("memory-of-victim", denials=HIDDEN)(lambda stage: open(f"/proc/{stage.victim}/mem", "r+b"))
escape("files-of-victim", denials=HIDDEN)(lambda stage: os.listdir(f"/proc/{stage.victim}/fd"))
escape("own-memory-map", FILES, denials=HIDDEN)(lambda _stage: open("/proc/self/limits").read())
escape("read-hidden", FILES, denials=HIDDEN)(lambda stage: open(f"{stage.folder}/canary").read())
escape("follow-link-out", FILES, denials=HIDDEN)(lambda stage: open(f"{stage.shown}/way-out").read())
escape("dots-out", FILES, denials=HIDDEN)(lambda stage: open(f"{stage.shown}/../folder/canary").read())
escape("change-canary", SECCOMP, FILES, denials=HIDDEN)(lambda stage: os.open(f"{stage.folder}/canary", os.O_RDWR))
escape("create-beside-canary", SECCOMP, FILES, denials=HIDDEN)(
    lambda stage: os.close(os.open(f"{stage.folder}/escaped", os.O_RDWR | os.O_CREAT, 0o666))
)
escape("create-in-shown", denials=HIDDEN)(
    lambda stage: os.open(f"{stage.shown}/escaped", os.O_RDWR | os.O_CREAT, 0o666)
)
escape("nameless-file", denials=HIDDEN)(lambda stage: os.open(stage.folder, os.O_TMPFILE | os.O_RDWR))
escape("cut-short", denials=HIDDEN)(lambda stage: os.truncate(f"{stage.shown}/file", 0))
escape("symbolic-link", denials=HIDDEN)(lambda stage: os.symlink("/etc/passwd", f"{stage.shown}/link"))
escape("hard-link", denials=HIDDEN)(lambda stage: os.link(f"{stage.folder}/canary", f"{stage.shown}/link"))
escape("hard-link-out", denials=HIDDEN)(lambda stage: os.link(f"{stage.shown}/file", f"{stage.folder}/link"))
escape("rename", denials=HIDDEN)(lambda stage: os.rename(f"{stage.shown}/file", f"{stage.shown}/renamed"))
escape("rename-in", denials=HIDDEN)(lambda stage: os.rename(f"{stage.folder}/canary", f"{stage.shown}/canary"))
escape("remove", denials=HIDDEN)(lambda stage: os.unlink(f"{stage.shown}/file"))
escape("make-folder", denials=HIDDEN)(lambda stage: os.mkdir(f"{stage.folder}/escaped"))
escape("make-device", denials=HIDDEN)(lambda stage: os.mknod(f"{stage.folder}/memory", 0o20666, os.makedev(1, 1)))
escape("make-pipe", denials=HIDDEN)(lambda stage: os.mkfifo(f"{stage.folder}/fifo"))
escape("change-mode", denials=HIDDEN)(lambda stage: os.chmod(f"{stage.shown}/file", 0o4777))
escape("change-owner", denials=HIDDEN)(lambda stage: os.chown(f"{stage.shown}/file", 0, 0))
escape("change-attribute", denials=HIDDEN)(
    lambda stage: call("lsetxattr", f"{stage.shown}/file".encode(), b"user.x", b"x", 1, 0)
)


@escape("folder-descriptor-out", FILES, denials=HIDDEN)
def folder_descriptor_out(stage: Stage) -> object:
    """Up from the descriptor of a folder that may be read."""
    fd = os.open(stage.shown, os.O_RDONLY | os.O_DIRECTORY)
    return os.open("../folder/canary", os.O_RDONLY, dir_fd=fd)


@escape("link-descriptor", denials=HIDDEN)
def link_descriptor(stage: Stage) -> object:
    """Give the nameless memory file a name."""
    return call("linkat", stage.data, b"", AT_FDCWD, f"{stage.folder}/data".encode(), 0x1000)


@escape("file-size-bomb", denials=HIDDEN | {errno.EFBIG})
def file_size_bomb(stage: Stage) -> object:
    with open(f"{stage.folder}/canary", "ab") as file:
        return file.write(b"x" * (64 << 20))


@escape("grow-memory-file")
def grow_memory_file(stage: Stage) -> object:
    return os.ftruncate(stage.data, 1 << 30)


escape("write-memory-file")(lambda stage: os.pwrite(stage.data, b"escaped", 0))
escape("map-memory-file")(lambda stage: mmap.mmap(stage.data, PAGE, flags=mmap.MAP_SHARED, prot=mmap.PROT_WRITE))
escape("unseal-memory-file")(lambda stage: fcntl.fcntl(stage.data, fcntl.F_ADD_SEALS, 0))
escape("reopen-memory-file", denials=HIDDEN)(lambda stage: os.open(f"/proc/self/fd/{stage.data}", os.O_RDWR))
escape("pipe-size", SECCOMP)(lambda _stage: fcntl.fcntl(0, 1031, 1 << 18))  # F_SETPIPE_SZ
escape("terminal-input")(lambda _stage: fcntl.ioctl(0, 0x5412, b"x"))  # TIOCSTI
escape("bytes-waiting", SECCOMP)(lambda _stage: fcntl.ioctl(0, 0x541B, b"\0" * 4))  # FIONREAD


@escape("open-files-bomb", LIMITS, denials={errno.EMFILE})
def open_files_bomb(_stage: Stage) -> object:
    held = []
    try:
        for _ in range(200):
            held.append(os.open(STDLIB_FILE, os.O_RDONLY))
    finally:
        for fd in held:
            os.close(fd)
    return len(held)


@escape("memory-bomb", LIMITS, denials={errno.ENOMEM})
def memory_bomb(_stage: Stage) -> object:
    held = [mmap.mmap(-1, 64 << 20) for _ in range(16)]
    return len(held)


@escape("memory-bomb-shared", LIMITS, denials={errno.ENOMEM})
def memory_bomb_shared(_stage: Stage) -> object:
    return mmap.mmap(-1, 1 << 30, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


# ---- what would change the worker itself

escape("become-root")(lambda _stage: os.setresuid(0, 0, 0))
escape("become-root-group")(lambda _stage: os.setresgid(0, 0, 0))
escape("join-groups")(lambda _stage: os.setgroups([0]))
calls("capabilities", "capset", struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *(0xFFFFFFFF,) * 6))
escape("dumpable", SECCOMP)(lambda _stage: kernel.prctl(kernel.PR_SET_DUMPABLE, 1))
escape("outlive-controller", SECCOMP)(lambda _stage: kernel.prctl(kernel.PR_SET_PDEATHSIG, 0))
escape("traceable")(lambda stage: kernel.prctl(0x59616D61, stage.victim))  # PR_SET_PTRACER
escape("ambient-capability")(lambda _stage: kernel.prctl(kernel.PR_CAP_AMBIENT, 2, 21))
escape("privileges-again")(lambda _stage: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 0))
escape("second-filter")(lambda _stage: call("seccomp", 1, 0, None))
escape("raise-limit")(
    lambda _stage: call("prlimit64", 0, resource.RLIMIT_CORE, struct.pack("=QQ", 1 << 30, 1 << 30), None)
)
escape("other-folder", SECCOMP)(lambda _stage: os.chdir(STDLIB))
escape("all-processors", SECCOMP)(lambda _stage: os.sched_setaffinity(0, os.sched_getaffinity(0)))
escape("new-session")(lambda _stage: os.setsid())
escape("new-group")(lambda _stage: call("setpgid", 0, 0))
escape("traced-by-parent")(lambda _stage: call("ptrace", 0, 0, 0, 0))
