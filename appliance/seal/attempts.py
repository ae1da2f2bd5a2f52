"""The attempts of `probe`: what a hostile worker would try first, each harmless where it succeeds.

An attempt lists the errors by which the seal denies it. Every other end, an error of a later check included, counts as
allowed. Reading and writing files may also fail with ENOENT: the worker's root does not hold them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from appliance.seal import kernel

_REFUSED = frozenset({errno.EPERM, errno.EACCES})
_HIDDEN = _REFUSED | {errno.ENOENT, errno.EROFS}
_NOT_BUILT_IN = _REFUSED | {errno.ENOSYS}

# linux/ptrace.h, linux/bpf.h, linux/keyctl.h, linux/userfaultfd.h, linux/prctl.h
PTRACE_TRACEME = 0
BPF_MAP_CREATE = 0
KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING = 0, -3
UFFD_USER_MODE_ONLY = 1


class NothingToTry(Exception):  # noqa: N818 - an outcome
    """There is no object on which the attempt could be made."""


@dataclass(frozen=True)
class Attempt:
    """One thing that must be denied."""

    name: str
    """What it is called, `inet-socket`."""
    what: str
    """What is tried, for people."""
    make: Callable[[], object]
    """Tries it; returns when it succeeded, raises `OSError` when it did not."""
    denials: frozenset[int] = field(default=_REFUSED)
    """The errors that show that the seal denied it."""


def _socket(family: socket.AddressFamily, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    socket.socket(family, kind).close()


def _connect(family: socket.AddressFamily, address: tuple[str, int] | str) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(0.2)
        one.connect(address)


def _write(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    Path(path).unlink()


def _read(path: str, flags: int = os.O_RDONLY) -> None:
    os.close(os.open(path, flags))


def _execute() -> None:
    os.execve("/vitrine-no-such-program", ["vitrine"], {})  # noqa: S606 - fails, in one way or the other


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _system_call(name: str, *arguments: kernel.Argument) -> None:
    """A call that returns a descriptor or a number that means nothing here."""
    result = kernel.call(name, *arguments)
    if name in {"io_uring_setup", "bpf", "userfaultfd", "memfd_create", "perf_event_open", "pidfd_open"}:
        os.close(result)


def _parent(name: str, *arguments: kernel.Argument) -> None:
    """A call about the parent; in a PID namespace of its own a worker has none, and the number 0 means itself."""
    _system_call(name, os.getppid(), *arguments)


def _read_parent() -> None:
    buffer = ctypes.create_string_buffer(8)
    local = struct.pack("=QQ", ctypes.addressof(buffer), 8)  # struct iovec
    remote = struct.pack("=QQ", 4096, 8)
    kernel.call("process_vm_readv", os.getppid(), local, 1, remote, 1, 0)


def _executable_memory() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


def _raise_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = struct.pack("=QQ", hard, hard)  # what it has: allowed to anybody who may set limits at all
    kernel.call("prlimit64", 0, resource.RLIMIT_NOFILE, wanted, None)


def _memory_file() -> None:
    """Map an inherited memory file for writing: a seal against writing refuses that, and nothing is changed."""
    refusal: OSError | None = None
    for fd in range(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        try:
            fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            size = os.fstat(fd).st_size
        except OSError:
            continue
        if size == 0:
            continue
        try:
            mmap.mmap(fd, min(size, mmap.PAGESIZE), flags=mmap.MAP_SHARED, prot=mmap.PROT_WRITE).close()
        except OSError as error:
            refusal = error
        else:
            return
    raise refusal or NothingToTry


_BPF_ATTRIBUTES = struct.pack("=IIII", 2, 4, 4, 1)  # union bpf_attr for BPF_MAP_CREATE: an array of one word

ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("inet-socket", "open a TCP socket", partial(_socket, socket.AF_INET)),
    Attempt("inet-datagram", "open a UDP socket", partial(_socket, socket.AF_INET, socket.SOCK_DGRAM)),
    Attempt("inet6-socket", "open a TCP socket over IPv6", partial(_socket, socket.AF_INET6)),
    Attempt("unix-socket", "open a UNIX socket", partial(_socket, socket.AF_UNIX)),
    Attempt("netlink-socket", "open a netlink socket", partial(_socket, socket.AF_NETLINK, socket.SOCK_RAW)),
    Attempt("packet-socket", "open a raw packet socket", partial(_socket, socket.AF_PACKET, socket.SOCK_RAW)),
    Attempt(
        "inet-connect",
        "connect to the host by TCP",
        partial(_connect, socket.AF_INET, ("127.0.0.1", 9)),
        _REFUSED | {errno.ENETUNREACH},
    ),
    Attempt("abstract-connect", "connect to an abstract UNIX socket", partial(_connect, socket.AF_UNIX, "\0vitrine")),
    Attempt("write-cwd", "create a file in the working directory", partial(_write, "vitrine-probe"), _HIDDEN),
    Attempt("write-tmp", "create a file in /tmp", partial(_write, "/tmp/vitrine-probe"), _HIDDEN),  # noqa: S108
    Attempt("write-shm", "create a file in /dev/shm", partial(_write, "/dev/shm/vitrine-probe"), _HIDDEN),  # noqa: S108
    Attempt("read-passwd", "read /etc/passwd", partial(_read, "/etc/passwd"), _HIDDEN),
    Attempt("read-shadow", "read /etc/shadow", partial(_read, "/etc/shadow"), _HIDDEN),
    Attempt("read-environ", "read /proc/1/environ", partial(_read, "/proc/1/environ"), _HIDDEN),
    Attempt("read-root", "list the root directory", partial(os.listdir, "/"), _HIDDEN),
    Attempt("read-home", "list /root", partial(os.listdir, "/root"), _HIDDEN),
    Attempt("write-memory", "open /proc/self/mem", partial(_read, "/proc/self/mem", os.O_RDWR), _HIDDEN),
    Attempt("execute", "execute a program", _execute),
    Attempt("fork", "start a process", _fork),
    Attempt("memory-file", "create a memory file", partial(_system_call, "memfd_create", b"vitrine", 0)),
    Attempt("inherited-memory-file", "map an inherited memory file for writing", _memory_file),
    Attempt("executable-memory", "map executable memory", _executable_memory),
    Attempt("signal-parent", "look for the parent by a null signal", partial(_parent, "kill", 0)),
    Attempt("pidfd-parent", "open a descriptor of the parent", partial(_parent, "pidfd_open", 0), _NOT_BUILT_IN),
    Attempt("read-parent", "read the memory of the parent", _read_parent, _NOT_BUILT_IN),
    Attempt(
        "io-uring",
        "set up an io_uring",
        partial(_system_call, "io_uring_setup", 1, b"\0" * 120),
        _NOT_BUILT_IN,
    ),
    Attempt(
        "bpf",
        "create a BPF map",
        partial(_system_call, "bpf", BPF_MAP_CREATE, _BPF_ATTRIBUTES, len(_BPF_ATTRIBUTES)),
        _NOT_BUILT_IN,
    ),
    Attempt(
        "perf-event",
        "open a performance counter",
        partial(_system_call, "perf_event_open", struct.pack("=IIQ", 1, 64, 0) + b"\0" * 48, 0, -1, -1, 0),
        _NOT_BUILT_IN,
    ),
    Attempt(
        "userfaultfd",
        "handle page faults",
        partial(_system_call, "userfaultfd", UFFD_USER_MODE_ONLY),
        _NOT_BUILT_IN,
    ),
    Attempt(
        "keyring",
        "look up the session keyring",
        partial(_system_call, "keyctl", KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0),
        _NOT_BUILT_IN,
    ),
    Attempt("mount", "mount a tmpfs", partial(_system_call, "mount", b"none", b"/", b"tmpfs", 0, None)),
    Attempt("user-namespace", "make a user namespace", partial(_system_call, "unshare", kernel.CLONE_NEWUSER)),
    Attempt("set-user", "become root", partial(_system_call, "setresuid", 0, 0, 0)),
    Attempt("raise-limit", "set a resource limit", _raise_limit),
    Attempt("death-signal", "outlive the controller", partial(kernel.prctl, kernel.PR_SET_PDEATHSIG, 0)),
    Attempt("personality", "make all readable memory executable", partial(_system_call, "personality", 0x0400000)),
    Attempt("stop-group", "signal the process group", partial(_system_call, "kill", 0, signal.SIGCONT)),
    Attempt("ptrace", "be traced by the parent", partial(_system_call, "ptrace", PTRACE_TRACEME, 0, 0, 0)),
)
"""Every attempt; those that would change the worker itself where they succeed come last."""
