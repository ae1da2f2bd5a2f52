"""A memory file while it is being filled: mapped for writing, backed by large pages, then sealed for ever.

Filling a new memory file page by page of 4 KiB costs as much time as hashing it. `back` therefore asks for pages of
2 MiB (`MADV_COLLAPSE`, Linux 6.1), which take a tenth of that, whatever the host's settings for shared memory are.
Where the kernel gives none, pages of the usual size do; nothing but time depends on it.

Assumes that nobody writes through the mapping once `seal` or `close` is called: wait for your threads first. The
kernel refuses to seal a file that is mapped for writing anywhere, so a file that was sealed can no longer change.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os

from attest.errors import EnvironmentProblem

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
LARGE_PAGE = 2 << 20
"""Bytes. Where the processor's large pages have another size, the kernel refuses, and small ones are used."""
MFD_NOEXEC_SEAL = 0x0008
"""linux/memfd.h, Linux 6.3: the file can be mapped, also executable, but never executed as a program."""
MADV_COLLAPSE = 25
"""asm-generic/mman-common.h, Linux 6.1: put large pages under a range, now."""
_MAP_FIXED, _MAP_NORESERVE, _PROT_NONE = 0x10, 0x4000, 0
_MAP_FAILED = ctypes.c_void_p(-1).value

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Memory:
    """A new memory file of `size_bytes`, called `name` in `/proc`. Raises `OSError`, and `EnvironmentProblem`."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self.fd = create(name)
        """Descriptor of the memory file; close-on-exec. -1 after `seal` or `close`."""
        self.view = memoryview(bytearray())
        """The content, writable, until `seal` or `close`. Release every slice of it before."""
        self._room, self._room_bytes, self._start = 0, 0, 0
        self._large = True
        try:
            os.truncate(self.fd, size_bytes)
            if size_bytes:
                self._map(size_bytes)
        except BaseException:
            self.close()
            raise

    def back(self, start: int, end: int) -> None:
        """Put large pages under the bytes from `start` to `end`, as far as whole pages fit and the host has them."""
        first, last = -(-start // LARGE_PAGE) * LARGE_PAGE, end // LARGE_PAGE * LARGE_PAGE
        if not self._large or first >= last:
            return
        for offset in range(first, last, LARGE_PAGE):
            os.pwrite(self.fd, b"\0", offset)  # the kernel passes over a range that is empty
        # Through ctypes and not through `mmap.madvise`, which would keep the interpreter lock all the while.
        refused = _LIBC.madvise(self._start + first, last - first, MADV_COLLAPSE)
        if refused and ctypes.get_errno() != errno.EAGAIN:
            self._large = False

    def seal(self) -> int:
        """The descriptor, now the caller's, of a file that can never change again. Raises `OSError`."""
        self._unmap()
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        """Give the memory back, unless it was sealed."""
        self._unmap()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _map(self, size_bytes: int) -> None:
        """Map the file where a large page may start, which the kernel does not do by itself: inside a wider room."""
        self._room_bytes = size_bytes + LARGE_PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._room = _mapped(None, self._room_bytes, _PROT_NONE, flags, -1)
        self._start = -(-self._room // LARGE_PAGE) * LARGE_PAGE
        _mapped(self._start, size_bytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, self.fd)
        self.view = memoryview((ctypes.c_char * size_bytes).from_address(self._start)).cast("B")

    def _unmap(self) -> None:
        self.view.release()
        if self._room:
            _LIBC.munmap(self._room, self._room_bytes)
            self._room = 0


def create(name: str) -> int:
    """A new, empty memory file that can be sealed. Raises `EnvironmentProblem` where the host gives none."""
    label = name.encode("ascii", "replace")[:200].decode().replace("/", ".").replace("\0", "?")
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(label, flags | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise EnvironmentProblem(f"this host gives no memory file for {label}: {error.strerror}") from error
    return os.memfd_create(label, flags)  # before Linux 6.3


def _mapped(address: int | None, size_bytes: int, protection: int, flags: int, fd: int) -> int:
    found: int | None = _LIBC.mmap(address, size_bytes, protection, flags, fd, 0)
    if found is None or found == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found
