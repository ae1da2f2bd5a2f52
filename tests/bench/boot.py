"""Boot hashing: a large file into sealed memory, with its tree, against `openssl dgst -sha256` of the same file.

Both sides read from the page cache. Ours copies into memory that can no longer change, on all processors; theirs only
reads. The bar is about wall time, because that is what a boot waits for; CPU time stands beside it.

A virtual machine that gives free memory back to its host has to get every page again on first use, which takes several
times as long as all that is measured here. So each round takes its memory from a ballast that is let go as the load
goes on: what is measured is the load on a machine that has its memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from appliance.memfd import load_sealed, threads
from tests.bench import clock
from tests.bench.record import Bar, Measure, Side

FILE_BYTES = 4 << 30
ROUNDS = 3
AHEAD_BYTES = 256 << 20
BAR = Bar("speed", 1.8)


def rows(*, quick: bool = False) -> Iterator[dict[str, Any]]:
    """The one row. `quick`: a sixteenth of the file, once."""
    size, rounds = (FILE_BYTES >> 4, 1) if quick else (FILE_BYTES, ROUNDS)
    with tempfile.TemporaryDirectory(prefix="vitrine-bench-") as folder:
        yield measure(Path(folder) / "model", size, rounds)


def measure(path: Path, size_bytes: int, rounds: int) -> dict[str, Any]:
    """Write a file to `path` and hash it `rounds` times on either side, in turn."""
    fill(path, size_bytes)
    facts = {"threads": threads(), "file_bytes": size_bytes}
    measure = Measure("boot hashing into sealed memory", "openssl dgst -sha256", "byte", BAR, "wall", facts)
    for _ in range(rounds):
        theirs = clock.run(["openssl", "dgst", "-sha256", path], cwd=path.parent)
        ballast = Ballast(size_bytes)
        with clock.Watch() as watch:
            load_sealed(path, name="model", tree=True, progress=ballast.release).close()
        measure.add(Side(watch.spent, size_bytes), Side(theirs, size_bytes))
    return measure.row()


class Ballast:
    """`size_bytes` of memory that this machine has for certain, until it is released."""

    def __init__(self, size_bytes: int) -> None:
        self.memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.madvise(mmap.MADV_HUGEPAGE)
        for offset in range(0, size_bytes, mmap.PAGESIZE):
            self.memory[offset] = 1
        self.released = 0
        self.release("", 0, size_bytes)

    def release(self, _name: str, done: int, total: int) -> None:
        """Let go of as much as was loaded, and of what the next pieces need. A `Progress`."""
        until = min(done + AHEAD_BYTES, total)
        if until > self.released:
            self.memory.madvise(mmap.MADV_DONTNEED, self.released, until - self.released)
            self.released = until


def fill(path: Path, size_bytes: int) -> None:
    """A file of random bytes, all of them on the disk and in the page cache."""
    stream, zeros = Cipher(AES(os.urandom(32)), CTR(bytes(16))).encryptor(), bytes(1 << 20)
    with path.open("wb") as file:
        for start in range(0, size_bytes, len(zeros)):
            file.write(stream.update(zeros[: size_bytes - start]))
        file.flush()
        os.fsync(file.fileno())
