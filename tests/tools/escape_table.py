# Hostile code calls the kernel as directly as it can.
"""The table of escapes: what a row says, and what a row's function is given to reach for.

An escape returns when it got what it wanted, and raises `OSError` when it did not; its row says by which errors the
seal refuses it, and which layers have to be missing for it to succeed. `tests.tools.escapes` runs them and judges from
outside.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.seal import kernel

REFUSED = frozenset({errno.EPERM, errno.EACCES})
HIDDEN = REFUSED | {errno.ENOENT, errno.EROFS, errno.ESRCH}
SECCOMP, FILES, NETWORK, LIMITS = "seccomp", "files", "network", "limits"
"""What can be switched off in a test: the filter; Landlock and the root; Landlock and the network; the limits."""

STDLIB_FILE = json.__file__
STDLIB = str(Path(STDLIB_FILE).parent)
EXTENSIONS = sysconfig.get_config_var("DESTSHARED")

# What syscalls.py does not name: (x86-64, aarch64), from asm/unistd_64.h and asm-generic/unistd.h.
# fmt: off
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "kexec_file_load": (320, 294), "swapon": (167, 224),
    "swapoff": (168, 225), "quotactl": (179, 60), "acct": (163, 89), "iopl": (172, None), "ioperm": (173, None),
    "clock_settime": (227, 112), "settimeofday": (164, 170), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "delete_module": (176, 106), "syslog": (103, 116), "vhangup": (153, 58),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "inotify_init1": (294, 26),
    "fanotify_init": (300, 262), "splice": (275, 76), "tee": (276, 77), "vmsplice": (278, 75), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "ioprio_set": (251, 30), "sched_setscheduler": (144, 119), "setpriority": (141, 140),
    "setsid": (112, 157), "setpgid": (109, 154), "lsetxattr": (189, 6), "vfork": (58, None), "move_pages": (279, 239),
    "sched_setaffinity": (203, 122), "signalfd4": (289, 74), "chdir": (80, 49), "mbind": (237, 235),
}
# fmt: on


@dataclass(frozen=True)
class Stage:
    """What the controller prepared, outside of the seal, for the escapes to reach for."""

    folder: str
    """A folder in which everybody may write, with a file `canary` that everybody may change."""
    shown: str
    """A folder that the worker may read, with links that lead out of it."""
    port: int
    """Where the controller listens, TCP and UDP, on 127.0.0.1."""
    abstract: str
    """The name of an abstract UNIX socket on which it listens."""
    controller: int
    """Its process id."""
    victim: int
    """The id of a process of the worker's user."""
    data: int = -1
    """The number of a sealed memory file that the worker was given."""


Attempt = Callable[[Stage], object]


@dataclass(frozen=True)
class Escape:
    """One way out."""

    name: str
    """What it is called."""
    attempt: Attempt
    """Tries it."""
    opened_by: frozenset[str] | None = None
    """What has to be switched off for it to succeed; None: not shown, or too harmful to be let through."""
    denials: frozenset[int] = REFUSED
    """The errors by which the seal refuses it."""


ESCAPES: list[Escape] = []
"""Every escape; those that would change the worker come last."""


def escape(name: str, *opened_by: str, denials: Iterable[int] = REFUSED) -> Callable[[Attempt], Attempt]:
    """Put a function into the table."""

    def put(attempt: Attempt) -> Attempt:
        ESCAPES.append(Escape(name, attempt, frozenset(opened_by) or None, frozenset(denials)))
        return attempt

    return put


def call(name: str, *arguments: kernel.Argument) -> int:
    """A system call by name, also one that the seal does not know. Raises `OSError`."""
    if name not in NUMBERS:
        return kernel.call(name, *arguments)
    number = NUMBERS[name][kernel.architecture() == "aarch64"]
    if number is None:
        raise OSError(errno.EPERM, "no such call on this architecture")
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(LIBC.syscall(ctypes.c_long(number), *words))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def calls(name: str, call_name: str, *arguments: kernel.Argument, opened_by: tuple[str, ...] = ()) -> None:
    """Put a bare system call into the table."""
    escape(name, *opened_by, denials=REFUSED | {errno.ENOSYS})(lambda _stage: call(call_name, *arguments))
