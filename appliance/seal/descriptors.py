"""What a worker inherited: pipes, sealed memory files, files that are only read. Anything else is a way out of the
seal that no later layer closes (a socket stays connected, a writable file stays writable), so it is refused.
"""

from __future__ import annotations

import fcntl
import os
import stat

from appliance.seal.outcome import enforced
from attest.errors import EnvironmentProblem
from attest.seal import Layer

# linux/fcntl.h: F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_WRITE
SEALED = 0x2 | 0x4 | 0x8

# Documentation/admin-guide/devices.txt of Linux: null, zero, random, urandom
HARMLESS_DEVICES = {os.makedev(1, minor) for minor in (3, 5, 8, 9)}

KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check() -> Layer:
    """Look at every open file descriptor. Raises `EnvironmentProblem` for one that a worker must not hold."""
    count = 0
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        fd = int(entry)
        try:
            status = os.fstat(fd)
        except OSError:
            continue  # the listing's own descriptor, closed by now
        count += 1
        if (problem := _problem(fd, status)) is not None:
            raise EnvironmentProblem(f"descriptors: expected pipes and sealed memory files, found {problem} as {fd}")
    return enforced("descriptors", f"{count} open: pipes, sealed memory files, and files opened for reading")


def _problem(fd: int, status: os.stat_result) -> str | None:
    mode = status.st_mode
    if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and status.st_rdev in HARMLESS_DEVICES):
        return None
    if not stat.S_ISREG(mode):
        return KINDS.get(stat.S_IFMT(mode), "an anonymous inode")
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return None
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return "a writable file"
    return None if seals & SEALED == SEALED else "a memory file that is not sealed"
