# Hostile code calls the kernel as directly as it can.
"""Escapes to other machines, other processes, other namespaces, and into the kernel."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable
from functools import partial

from appliance.seal import kernel
from appliance.seal.root import AT_FDCWD
from tests.tools.escape_table import (
    FILES,
    HIDDEN,
    NETWORK,
    REFUSED,
    SECCOMP,
    STDLIB,
    STDLIB_FILE,
    Stage,
    call,
    calls,
    escape,
)

CLONE_FLAGS = {
    "user": kernel.CLONE_NEWUSER, "mount": kernel.CLONE_NEWNS, "net": kernel.CLONE_NEWNET, "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS, "cgroup": kernel.CLONE_NEWCGROUP, "pid": kernel.CLONE_NEWPID, "time": 0x80,
}  # fmt: skip
FAMILIES = {
    "unix": 1, "inet": 2, "ax25": 3, "x25": 9, "inet6": 10, "key": 15, "netlink": 16, "packet": 17, "rds": 21,
    "pppox": 24, "llc": 26, "infiniband": 27, "can": 29, "tipc": 30, "bluetooth": 31, "phonet": 35, "ieee802154": 36,
    "alg": 38, "nfc": 39, "vsock": 40, "kcm": 41, "qipcrtr": 42, "smc": 43, "xdp": 44, "mctp": 45,
}  # fmt: skip
"""Numbers of `linux/socket.h`."""
EVERYWHERE = ("unix", "inet", "netlink")
"""Families that every kernel on which these tests run offers to every user."""

# ---- sockets


def open_socket(family: int) -> object:
    """A socket of `family`, of whatever type there is. Raises the last refusal."""
    refusal = OSError(errno.EPERM, "none")
    for kind in (1, 2, 3, 5):
        try:
            return call("socket", family, kind, 0)
        except OSError as error:
            refusal = error
    raise refusal


for _name, _number in FAMILIES.items():
    escape(f"socket-{_name}", *([SECCOMP] if _name in EVERYWHERE else []))(
        lambda _stage, number=_number: open_socket(number)  # type: ignore[misc]
    )


@escape("socket-any")
def socket_any(_stage: Stage) -> object:
    """Every family and type that a number can name, until one is given."""
    for family in range(64):
        for kind in (1, 2, 3, 4, 5, 6, 10):
            with contextlib.suppress(OSError):
                return call("socket", family, kind, 0)
    raise OSError(errno.EPERM, "none")


escape("socketpair", SECCOMP)(lambda _stage: socket.socketpair())


@escape("connect-tcp", SECCOMP, NETWORK)
def connect_tcp(stage: Stage) -> object:
    return socket.create_connection(("127.0.0.1", stage.port), timeout=2)


@escape("send-udp", SECCOMP, NETWORK)
def send_udp(stage: Stage) -> object:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"out", ("127.0.0.1", stage.port))


@escape("connect-abstract", SECCOMP, NETWORK)
def connect_abstract(stage: Stage) -> object:
    return socket.socket(socket.AF_UNIX).connect(f"\0{stage.abstract}")


@escape("connect-path", SECCOMP, FILES)
def connect_path(stage: Stage) -> object:
    return socket.socket(socket.AF_UNIX).connect(f"{stage.folder}/socket")


@escape("smuggle-descriptor", denials=REFUSED)
def smuggle(_stage: Stage) -> object:
    """Send a descriptor over the pipe to the controller, as over a socket."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]).tobytes())]
    pipe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=os.dup(1))
    return pipe.sendmsg([b"x"], rights)


# ---- processes


def forks(make: Callable[[], int]) -> None:
    """Run what returns twice; the child ends at once."""
    if make() == 0:
        os._exit(0)


calls("io-uring", "io_uring_setup", 1, b"\0" * 120)
escape("ptrace-seize", denials=REFUSED)(lambda stage: call("ptrace", 0x4206, stage.victim, 0, 0))
escape("ptrace-attach", denials=REFUSED)(lambda stage: call("ptrace", 16, stage.controller, 0, 0))


def _vectors(stage: Stage, name: str) -> object:
    buffer = ctypes.create_string_buffer(8)
    local = struct.pack("=QQ", ctypes.addressof(buffer), 8)
    return call(name, stage.victim, local, 1, struct.pack("=QQ", 4096, 8), 1, 0)


escape("process-vm-read", denials=REFUSED)(partial(_vectors, name="process_vm_readv"))
escape("process-vm-write", denials=REFUSED)(partial(_vectors, name="process_vm_writev"))
escape("pidfd-victim", denials=REFUSED)(lambda stage: call("pidfd_open", stage.victim, 0))
escape("pidfd-self", SECCOMP)(lambda _stage: call("pidfd_open", os.getpid(), 0))
calls("pidfd-getfd", "pidfd_getfd", 0, 0, 0)
calls("pidfd-signal", "pidfd_send_signal", 0, signal.SIGKILL, None, 0)
escape("kcmp", denials=REFUSED)(lambda stage: call("kcmp", os.getpid(), stage.controller, 0, 0, 0))
calls("memory-file", "memfd_create", b"code", 0, opened_by=(SECCOMP,))
calls("secret-memory", "memfd_secret", 0)
escape("execute")(lambda _stage: os.execv("/bin/true", ["true"]))


@escape("execute-descriptor")
def execute_descriptor(_stage: Stage) -> object:
    fd = os.open(STDLIB_FILE, os.O_RDONLY)
    return call("execveat", fd, b"", None, None, 0x1000)  # AT_EMPTY_PATH


@escape("execute-memory-file")
def execute_memory_file(_stage: Stage) -> object:
    fd = os.memfd_create("program")
    os.write(fd, b"#!/bin/sh\n")
    return os.execve(fd, ["program"], {})


escape("spawn")(lambda _stage: os.posix_spawn("/bin/true", ["true"], {}))
escape("fork", SECCOMP)(lambda _stage: forks(os.fork))
escape("clone", SECCOMP)(lambda _stage: forks(lambda: call("clone", signal.SIGCHLD, 0, 0, 0, 0)))
escape("clone-user-namespace")(
    lambda _stage: forks(lambda: call("clone", kernel.CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0))
)
escape("clone3", SECCOMP, denials={errno.ENOSYS})(
    lambda _stage: forks(lambda: call("clone3", struct.pack("=8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64))
)
escape("clone3-namespace", denials={errno.ENOSYS})(
    lambda _stage: forks(
        lambda: call("clone3", struct.pack("=8Q", CLONE_FLAGS["user"], 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)
    )
)


@escape("fork-bomb")
def fork_bomb(_stage: Stage) -> object:
    """Processes that do not end by themselves."""
    made = 0
    with contextlib.suppress(OSError):
        for _ in range(10000):
            if os.fork() == 0:
                time.sleep(600)
            made += 1
    if made == 0:
        raise OSError(errno.EPERM, "not one")
    return made


# ---- signals

escape("kill-controller")(lambda stage: os.kill(stage.controller, signal.SIGKILL))
escape("kill-victim")(lambda stage: os.kill(stage.victim, signal.SIGKILL))
escape("kill-everybody")(lambda _stage: os.kill(-1, signal.SIGKILL))
escape("kill-group")(lambda _stage: os.kill(0, signal.SIGCONT))
escape("thread-kill")(lambda stage: call("tgkill", stage.victim, stage.victim, signal.SIGKILL))
escape("thread-kill-old")(lambda stage: call("tkill", stage.victim, signal.SIGKILL))
escape("queue-signal")(lambda stage: call("rt_sigqueueinfo", stage.victim, signal.SIGKILL, b"\0" * 128))
escape("signal-by-pipe", SECCOMP)(lambda _stage: fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid()))
escape("signal-by-pipe-to-victim")(lambda stage: fcntl.fcntl(0, fcntl.F_SETOWN, stage.victim))
escape("slow-down-controller")(lambda stage: os.setpriority(os.PRIO_PROCESS, stage.victim, 19))
escape("schedule-controller")(lambda stage: call("sched_setscheduler", stage.victim, 5, struct.pack("=i", 0)))
escape("limit-controller")(lambda stage: call("prlimit64", stage.victim, resource.RLIMIT_NOFILE, b"\0" * 16, None))
escape("io-priority")(lambda stage: call("ioprio_set", 1, stage.victim, 3 << 13))

# ---- namespaces and mounts

for _name, _flag in CLONE_FLAGS.items():
    calls(f"unshare-{_name}", "unshare", _flag)
calls("join-namespace", "setns", 0, 0)
escape("join-namespace-of-init", denials=HIDDEN)(
    lambda _stage: call("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0)
)
calls("mount", "mount", b"none", b"/", b"tmpfs", 0, None)
escape("bind-mount")(lambda stage: call("mount", stage.folder.encode(), STDLIB.encode(), None, 0x1000, None))
calls("remount-writable", "mount", None, STDLIB.encode(), None, 0x1000 | 0x20, None)
calls("unmount", "umount2", STDLIB.encode(), 2)
calls("fsopen", "fsopen", b"tmpfs", 0)
calls("open-tree", "open_tree", AT_FDCWD, b"/", 1)
calls("move-mount", "move_mount", AT_FDCWD, b"/", AT_FDCWD, STDLIB.encode(), 0)
calls("mount-attributes", "mount_setattr", AT_FDCWD, b"/", 0, b"\0" * 32, 32)
calls("pivot-root", "pivot_root", b".", b".")
calls("chroot", "chroot", STDLIB.encode())

# ---- the kernel itself

calls("keyring", "keyctl", 0, -3, 0, opened_by=(SECCOMP,))
calls("add-key", "add_key", b"user", b"vitrine", b"x", 1, -3)
calls("request-key", "request_key", b"user", b"vitrine", None, 0)
calls("bpf", "bpf", 0, struct.pack("=IIII", 2, 4, 4, 1), 16)
calls("perf-event", "perf_event_open", struct.pack("=IIQ", 1, 64, 0) + b"\0" * 48, 0, -1, -1, 0)
calls("page-faults", "userfaultfd", 1)
calls("kernel-log", "syslog", 3, ctypes.create_string_buffer(64), 64)
calls("set-clock", "clock_settime", 0, struct.pack("=qq", 1, 0))
calls("set-time-of-day", "settimeofday", struct.pack("=qq", 1, 0), None)
calls("bend-clock", "clock_adjtime", 0, struct.pack("=I", 0x2000) + b"\0" * 256)
calls("host-name", "sethostname", b"escaped", 7)
calls("domain-name", "setdomainname", b"escaped", 7)
calls("reboot", "reboot", 0xFEE1DEAD, 672274793, 0, 0)  # LINUX_REBOOT_CMD_CAD_OFF, the mildest
calls("kexec", "kexec_load", 0, 0, 0, 0)
calls("kexec-file", "kexec_file_load", 0, 0, 0, b"", 0)
calls("init-module", "init_module", b"", 0, b"")
calls("finit-module", "finit_module", 0, b"", 0)
calls("delete-module", "delete_module", b"vitrine", 0)
calls("swap-on", "swapon", b"/swap", 0)
calls("swap-off", "swapoff", b"/swap")
calls("quota", "quotactl", 0x800001 << 8, b"/dev/sda", 0, None)
calls("accounting", "acct", b"/acct")
calls("io-privilege", "iopl", 3)
calls("io-ports", "ioperm", 0x80, 1, 1)
calls("hang-up", "vhangup")
calls("file-handle", "open_by_handle_at", AT_FDCWD, b"\0" * 32, 0)
calls("name-to-handle", "name_to_handle_at", AT_FDCWD, b"/", b"\0" * 32, b"\0" * 4, 0)
calls("watch-files", "inotify_init1", 0, opened_by=(SECCOMP,))
calls("watch-all-files", "fanotify_init", 0, 0)
calls("shared-memory", "shmget", 0x7654321, 4096, 0o1666)
calls("message-queue", "msgget", 0x7654321, 0o1666)
calls("semaphore", "semget", 0x7654321, 1, 0o1666)
calls("posix-queue", "mq_open", b"vitrine", 0o102, 0o666, None)
calls("splice", "splice", 0, None, 1, None, 1, 2)
calls("vmsplice", "vmsplice", 1, struct.pack("=QQ", 0, 0), 0, 0, opened_by=(SECCOMP,))
calls("tee", "tee", 0, 1, 1, 2)
calls("move-pages", "move_pages", 0, 0, None, None, None, 0)
