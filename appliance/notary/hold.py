"""Holds what the process has in memory where it is: in no core dump, out of sight of its user's other processes, and,
where this user may lock memory, out of swap.

Keys of `cryptography` lie in OpenSSL's heap, at addresses that Python is not told, and texts such as a passphrase are
copied by nearly everything that is done with them. So nothing is locked by address, and nothing is wiped: the whole
process is locked, pages as they are touched. That takes the right to lock all memory (RLIMIT_MEMLOCK without a bound,
or CAP_IPC_LOCK); with less, later allocations would fail, so then nothing is locked, and a host with swap is warned of.
docs/operations.md says what that protects and what it does not.
"""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

import structlog

from appliance.seal import capabilities, kernel
from attest.canonical import Model
from attest.errors import EnvironmentProblem

LOG = structlog.get_logger()

# sys/mman.h
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
CAP_IPC_LOCK = 1 << 14  # linux/capability.h
SWAPS = Path("/proc/swaps")
UID_MAP, OUTERMOST = Path("/proc/self/uid_map"), ["0", "0", str(2**32 - 1)]
"""The user map of the outermost user namespace: a capability to lock memory counts only there."""


class Holding(Model):
    """What holds the memory of this process."""

    core_dumps: bool
    """Whether it could still be written to a core dump."""
    locked: bool
    """Whether all of it stays out of swap."""
    detail: str
    """Why it is not locked, or that it is."""


def hold() -> Holding:
    """Hold the memory of this process from now on, for good. Call it before a key or a passphrase is read.

    Not inherited: a program that this process executes starts without. Raises `EnvironmentProblem` where core dumps
    cannot be switched off.
    """
    try:
        # A handler that the kernel pipes dumps to (core_pattern) gets them in spite of the limit: not of the attribute.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        dumpable = kernel.prctl(kernel.PR_GET_DUMPABLE) != 0
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"memory: expected to switch core dumps off, found: {error}") from None
    locked, detail = _lock()
    if not locked and (swaps := plain_swaps()):
        LOG.warning("keys may be swapped out", swap=list(swaps), reason=detail, advice="see `appliance doctor`")
    return Holding(core_dumps=dumpable, locked=locked, detail=detail)


def may_lock() -> tuple[bool, str]:
    """Whether this process may lock all its memory, and why, or why not."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] == resource.RLIM_INFINITY:
        return True, "RLIMIT_MEMLOCK has no bound"
    try:
        if capabilities.effective() & CAP_IPC_LOCK and UID_MAP.read_text("ascii").split() == OUTERMOST:
            return True, "CAP_IPC_LOCK"
    except (OSError, EnvironmentProblem):
        return False, "the capabilities of this process cannot be read"
    return False, f"RLIMIT_MEMLOCK is {resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] >> 10} KiB, without CAP_IPC_LOCK"


def plain_swaps() -> tuple[str, ...]:
    """The swap areas that memory is written to as it is: neither compressed memory nor under dm-crypt."""
    try:
        lines = SWAPS.read_text("utf-8").splitlines()[1:]
    except OSError:
        return ()
    areas = [line.split()[0].encode().decode("unicode_escape") for line in lines if line.strip()]
    return tuple(area for area in areas if not _harmless(Path(area)))


def _harmless(area: Path) -> bool:
    if area.name.startswith("zram"):
        return True
    try:
        identity = Path("/sys/class/block", os.path.realpath(area).rpartition("/")[2], "dm", "uuid").read_text("utf-8")
    except OSError:
        return False
    return identity.startswith("CRYPT-")


def _lock() -> tuple[bool, str]:
    allowed, why = may_lock()
    if not allowed:
        return False, why
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0:
        return False, f"mlockall: {os.strerror(ctypes.get_errno())}"
    return True, why
