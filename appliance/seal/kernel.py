"""The one door to the kernel: raw system calls and `prctl` through the C library, errors as `OSError`."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import cast

from appliance.seal import syscalls
from attest.errors import EnvironmentProblem

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_LIBC.prctl.restype = ctypes.c_int

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

Argument = int | bytes | ctypes.Array[ctypes.c_char] | None
"""What a system call takes: an integer, a string or a buffer that stays alive during the call, or a null pointer."""


def architecture() -> syscalls.Architecture:
    """The architecture that runs this process. Raises `EnvironmentProblem` where no table knows it."""
    machine = platform.machine()
    if machine not in ("x86_64", "aarch64") or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise EnvironmentProblem(f"seal: expected 64-bit x86_64 or aarch64, found {machine}: run on one of these")
    return cast("syscalls.Architecture", machine)


def call(name: str, *arguments: Argument) -> int:
    """What the system call `name` returns. Raises `OSError`; ENOSYS where this architecture lacks it."""
    number = syscalls.number(name, architecture())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    return _checked(_LIBC.syscall(ctypes.c_long(number), *map(_word, arguments)), name)


def prctl(option: int, *arguments: int) -> int:
    """`prctl(2)`: what it returns. Raises `OSError`."""
    four = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(_LIBC.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, four)), f"prctl {option}")


def _word(argument: Argument) -> object:
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
