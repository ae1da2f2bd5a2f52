"""Files in sealed memory: a file is read once, hashed while it passes, and can never change again.

`load_sealed` copies a regular file into an anonymous memory file and seals it against writing, shrinking, growing and
against the removal of these seals. Whoever is given the descriptor afterwards (an engine, a worker, a parser) works
on exactly the bytes that the digest covers, whatever happens to the path. `load_all` does so for many files at once;
hashing runs outside the interpreter lock. Memory: the files themselves, and one chunk for each thread.

Refused, before anything is allocated: a path that is missing, a symbolic link, a folder, a pipe or a device, a size
other than the expected one. Refused on the way: a file that changes its length while it is read.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from attest.errors import EnvironmentProblem, VerificationError, VitrineError

CHUNK_BYTES = 4 << 20
LAYER = "file"
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
MFD_NOEXEC_SEAL = 0x0008
"""linux/memfd.h, Linux 6.3: the file can be mapped, also executable, but never executed as a program."""

Progress = Callable[[str, int, int], None]
"""Called with a name, the bytes done and the bytes in all; from several threads at once."""


def no_progress(name: str, done: int, total: int) -> None:
    """A `Progress` that reports nothing."""


def threads() -> int:
    """How many threads are worth starting: one for each CPU that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass
class SealedFile:
    """A file in sealed memory. Close it, or use it as a context manager."""

    name: str
    """What the file is, for messages and for `/proc`."""
    fd: int
    """Descriptor of the memory file; close-on-exec. -1 after `close`."""
    size_bytes: int
    """Its size."""
    digest: str
    """SHA-256 over its content, as `sha256:hex`."""

    @property
    def path(self) -> str:
        """A path to the content, valid in this process and in one that inherits the descriptor under its number."""
        return fd_path(self.fd)

    def view(self) -> memoryview:
        """The content as a read-only view. It stays valid until it is released, even after `close`."""
        if self.size_bytes == 0:
            return memoryview(b"")
        # A private mapping, because Linux before 6.7 refuses even a read-only shared one of a sealed file.
        return memoryview(mmap.mmap(self.fd, self.size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))

    def read(self) -> bytes:
        """The content as bytes, for files that are small."""
        with self.view() as view:
            return bytes(view)

    def close(self) -> None:
        """Close the descriptor. The memory goes with the last descriptor and the last view."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Request(NamedTuple):
    """One file to load."""

    path: Path
    """Where it lies."""
    name: str
    """What to call it."""
    size_bytes: int | None = None
    """The size it must have; None where it is not known before."""


def fd_path(fd: int) -> str:
    """The path under which this process can open what `fd` refers to."""
    return f"/proc/self/fd/{fd}"


def open_regular(path: Path, size_bytes: int | None = None) -> tuple[int, int]:
    """A descriptor for reading the regular file at `path`, and its size. Never blocks, never follows a last link.

    Raises `VerificationError` (layer `file`) with code `missing`, `unreadable`, `not-regular` or `size`.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        raise _refused("missing", "a file", "nothing", path, "restore it") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in {errno.ELOOP, errno.ENXIO}:
            found = "a symbolic link" if error.errno == errno.ELOOP else "a socket or a pipe"
            raise _refused("not-regular", "a regular file", found, path, "put the file itself there") from None
        raise _refused("unreadable", "a readable file", type(error).__name__, path, "look at its owner") from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            found = "a folder" if stat.S_ISDIR(info.st_mode) else "a pipe or a device"
            raise _refused("not-regular", "a regular file", found, path, "put a file there")
        if size_bytes is not None and info.st_size != size_bytes:
            raise _refused("size", f"{size_bytes} bytes", f"{info.st_size} bytes", path, "it is another file")
    except VerificationError:
        os.close(fd)
        raise
    return fd, info.st_size


def load_sealed(
    path: Path, *, name: str, size_bytes: int | None = None, progress: Progress = no_progress
) -> SealedFile:
    """The file at `path` in sealed memory, read once. Raises `VerificationError` as `open_regular` does.

    Also with code `changed` when the file's length changes while it is read, and `EnvironmentProblem` where the
    memory does not suffice.
    """
    source, size = open_regular(path, size_bytes)
    try:
        target = _create(name)
        try:
            digest = _copy(source, target, size, path, lambda done: progress(name, done, size))
            fcntl.fcntl(target, fcntl.F_ADD_SEALS, SEALS)
        except OSError as error:
            os.close(target)
            raise EnvironmentProblem(f"cannot load {path} of {size} bytes: {error.strerror}") from error
        except BaseException:
            os.close(target)
            raise
    finally:
        os.close(source)
    return SealedFile(name, target, size, digest)


def seal_chunks(name: str, chunks: Iterable[bytes | memoryview]) -> SealedFile:
    """What `chunks` yields, one after another, in sealed memory. Raises what it raises, and `EnvironmentProblem`."""
    target, size, state = _create(name), 0, hashlib.sha256()
    try:
        for chunk in chunks:
            state.update(chunk)
            _write(target, chunk)
            size += len(chunk)
        fcntl.fcntl(target, fcntl.F_ADD_SEALS, SEALS)
    except OSError as error:
        os.close(target)
        raise EnvironmentProblem(f"cannot hold {name} in memory, {size} bytes fit: {error.strerror}") from error
    except BaseException:
        os.close(target)
        raise
    return SealedFile(name, target, size, "sha256:" + state.hexdigest())


def load_all(requests: Sequence[Request], *, progress: Progress = no_progress) -> list[SealedFile | VitrineError]:
    """Every requested file in sealed memory, loaded in parallel; in place of one that was refused, its error.

    Any other exception, one that `progress` raises included, closes what was loaded and passes on.
    """

    def load(request: Request) -> SealedFile | VitrineError:
        try:
            return load_sealed(request.path, name=request.name, size_bytes=request.size_bytes, progress=progress)
        except VitrineError as error:
            return error

    with ThreadPoolExecutor(threads(), thread_name_prefix="load") as pool:
        futures = [pool.submit(load, request) for request in requests]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            for future in futures:
                if (
                    not future.cancelled()
                    and not future.exception()
                    and isinstance(file := future.result(), SealedFile)
                ):
                    file.close()
            raise


def digest_sealed(files: Sequence[SealedFile]) -> str:
    """The digest of the concatenation of `files`, as `sha256:hex`."""
    state = hashlib.sha256()
    for file in files:
        with file.view() as view:
            for start in range(0, len(view), CHUNK_BYTES):
                state.update(view[start : start + CHUNK_BYTES])
    return "sha256:" + state.hexdigest()


def _create(name: str) -> int:
    label = name.encode("ascii", "replace")[:200].decode().replace("/", ".").replace("\0", "?")
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(label, flags | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise EnvironmentProblem(f"this host gives no memory file for {label}: {error.strerror}") from error
    return os.memfd_create(label, flags)  # before Linux 6.3


def _copy(source: int, target: int, size: int, path: Path, report: Callable[[int], None]) -> str:
    """Copy exactly `size` bytes and return their digest; one chunk in memory."""
    state = hashlib.sha256()
    buffer = bytearray(max(1, min(CHUNK_BYTES, size + 1)))
    done = 0
    with memoryview(buffer) as view:
        while count := os.readv(source, [buffer]):
            done += count
            if done > size:
                break
            state.update(view[:count])
            _write(target, view[:count])
            report(done)
    if done != size:
        found = "more" if done > size else f"{done} bytes"
        raise _refused("changed", f"{size} bytes", found, path, "it changed while it was read")
    return "sha256:" + state.hexdigest()


def _write(target: int, chunk: bytes | memoryview) -> None:
    with memoryview(chunk) as view:
        written = 0
        while written < len(view):
            written += os.write(target, view[written:])


def _refused(code: str, expected: str, found: str, path: Path, advice: str) -> VerificationError:
    return VerificationError(LAYER, code, expected=expected, found=found, advice=f"{path}: {advice}")
