"""Memory that is being filled: large pages where the host has them, and no seal while anybody can write."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import platform
from pathlib import Path

import pytest

from appliance import memory
from appliance.memory import LARGE_PAGE, SEALS, Memory

SIZE = 8 * LARGE_PAGE + 5
SETTING = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def large_kib() -> int:
    """Large pages under this process's mappings of memory files called `large`, in KiB."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            ours = "memfd:large" in line
        elif ours and line.startswith("ShmemPmdMapped:"):
            total += int(line.split()[1])
    return total


def read(fd: int) -> bytes:
    return Path(f"/proc/self/fd/{fd}").read_bytes()


@pytest.mark.parametrize("size", [0, 1, LARGE_PAGE, SIZE])
def test_what_was_filled_is_sealed(size: int) -> None:
    before = descriptors()
    held, content = Memory("m", size), os.urandom(size)
    held.back(0, size)
    assert bytes(held.view) == bytes(size)
    held.view[:] = content
    fd = held.seal()
    assert held.fd == -1
    assert read(fd) == content
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
    with pytest.raises(OSError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(ValueError, match="released"):
        held.view[:0]
    held.close()
    os.close(fd)
    assert descriptors() == before


def test_it_uses_large_pages() -> None:
    version = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    if version < (6, 1) or not SETTING.exists() or "[deny]" in SETTING.read_text():
        pytest.skip("this host has no large pages for memory files: Linux 6.1 with transparent_hugepage is needed")
    held = Memory("large", SIZE)
    try:
        held.back(1, SIZE)
        held.view[:] = bytes(SIZE)
        # The kernel may be short of some. The first page and the last bytes were not asked for.
        assert LARGE_PAGE >> 10 <= large_kib() <= 7 * LARGE_PAGE >> 10
    finally:
        held.close()
    assert large_kib() == 0


def test_a_host_without_large_pages_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MADV_COLLAPSE", 1 << 30)  # no kernel knows this advice
    held, content = Memory("large", SIZE), os.urandom(SIZE)
    held.back(0, SIZE)
    held.view[:] = content
    assert large_kib() == 0
    fd = held.seal()
    assert read(fd) == content
    os.close(fd)


def test_the_kernel_seals_nothing_that_somebody_can_still_write() -> None:
    before = descriptors()
    held = Memory("m", 4096)
    other = mmap.mmap(held.fd, 4096)
    with pytest.raises(OSError) as caught:
        held.seal()
    assert caught.value.errno == errno.EBUSY
    other.close()
    os.close(held.seal())
    assert descriptors() == before


def test_memory_that_cannot_be_mapped() -> None:
    before = descriptors()
    with pytest.raises(OSError) as caught:
        Memory("m", 1 << 60)
    assert caught.value.errno == errno.ENOMEM
    assert descriptors() == before
