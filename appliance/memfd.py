"""Files in sealed memory: a file is read once, hashed as it lies there, and can never change again.

`load_all` copies regular files into memory files, hashes what arrived, and seals them against writing, shrinking,
growing and against the removal of these seals. Whoever is given a descriptor afterwards (an engine, a worker, a parser)
works on exactly the bytes that were hashed, whatever happens to the path. A writer who changes a file meanwhile changes
its digest, and nothing else.

A file is hashed as a whole by one thread, or as the leaves of a tree by all of them (`attest.merkle.PIECE_BYTES` each).
Memory: the files themselves, and 32 bytes for each leaf.

Refused, before anything is allocated: a path that is missing, a symbolic link, a folder, a pipe or a device, a size
other than the expected one. Refused on the way: a file that changes its length while it is read.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from appliance.memory import Memory
from attest import merkle
from attest.errors import EnvironmentProblem, VerificationError, VitrineError
from attest.merkle import PIECE_BYTES

STEP_BYTES = 2 << 20
"""Read, then hashed while it is still in the processor's cache; threads seldom meet at the interpreter lock."""
LAYER = "file"

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
    whole: str | None = None
    """SHA-256 over its content, as `sha256:hex`, where it was hashed as a whole."""
    tree: str | None = None
    """The root of the tree over its content, as `sha256:hex`, where it was hashed as one."""

    @property
    def digest(self) -> str:
        """SHA-256 over its content. Raises `RuntimeError` where the file was not hashed as a whole."""
        if self.whole is None:
            raise RuntimeError(f"{self.name} was not hashed as a whole: its digest is what the lock says")
        return self.whole

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
    tree: bool = False
    """Hash it as a tree, and not as a whole."""


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


def load_all(requests: Iterable[Request], *, progress: Progress = no_progress) -> list[SealedFile | VitrineError]:
    """Every requested file in sealed memory, on all processors; in place of one that was refused, its error.

    Any other exception, one that `progress` raises included, closes what was loaded and passes on.
    """
    loaded: list[SealedFile | VitrineError] = []
    under_way: deque[_Load | VitrineError] = deque()
    with ThreadPoolExecutor(threads(), thread_name_prefix="load") as pool:

        def finish_first() -> None:
            first = under_way.popleft()
            loaded.append(first if isinstance(first, VitrineError) else first.result())

        try:
            # A few files at a time, so that all threads have something to do and few files are open.
            for request in requests:
                under_way.append(_start(request, pool, progress))
                if len(under_way) > threads():
                    finish_first()
            while under_way:
                finish_first()
        except BaseException:
            for item in under_way:
                if isinstance(item, _Load):
                    item.stop()
            for file in loaded:
                if isinstance(file, SealedFile):
                    file.close()
            raise
    return loaded


def load_sealed(
    path: Path, *, name: str, size_bytes: int | None = None, tree: bool = False, progress: Progress = no_progress
) -> SealedFile:
    """The file at `path` in sealed memory, read once. Raises `VerificationError` as `open_regular` does.

    Also with code `changed` when the file's length changes while it is read, and `EnvironmentProblem` where the
    memory does not suffice.
    """
    (file,) = load_all([Request(path, name, size_bytes, tree)], progress=progress)
    if isinstance(file, VitrineError):
        raise file
    return file


def seal_chunks(name: str, size_bytes: int, chunks: Iterable[bytes | memoryview]) -> SealedFile:
    """What `chunks` yields, `size_bytes` one after another, in sealed memory; not hashed.

    Raises what `chunks` raises, `EnvironmentProblem`, and `RuntimeError` where they are more or fewer.
    """
    memory, done, backed = _memory(name, size_bytes), 0, 0
    try:
        for chunk in chunks:
            end = done + len(chunk)
            if end > size_bytes:
                raise RuntimeError(f"{name}: expected {size_bytes} bytes, found more")
            while backed < end:
                memory.back(backed, min(backed + PIECE_BYTES, size_bytes))
                backed += PIECE_BYTES
            with memoryview(chunk) as view:
                while done < end:
                    done += os.pwrite(memory.fd, view[done - end :], done)
        if done != size_bytes:
            raise RuntimeError(f"{name}: expected {size_bytes} bytes, found {done}")
        return SealedFile(name, memory.seal(), size_bytes)
    except OSError as error:
        raise EnvironmentProblem(f"cannot hold {name} in memory, {done} bytes fit: {error.strerror}") from error
    finally:
        memory.close()


class _Load:
    """One file on its way: its pieces are tasks of `pool`. Finish it with `result`, or with `stop`."""

    def __init__(self, request: Request, pool: ThreadPoolExecutor, progress: Progress) -> None:
        self.request, self.progress = request, progress
        self.source, self.size = open_regular(request.path, request.size_bytes)
        try:
            self.memory = _memory(request.name, self.size)
        except BaseException:
            os.close(self.source)
            raise
        self.done, self.lock, self.stopped = 0, threading.Lock(), False
        self.tasks: list[Future[bytes]] = []
        if request.tree:
            starts = range(0, self.size, PIECE_BYTES)
            self.tasks = [pool.submit(self._take, [start], merkle.LEAF_PREFIX) for start in starts]
        else:
            self.tasks = [pool.submit(self._take, range(0, self.size, PIECE_BYTES), b"")]

    def result(self) -> SealedFile:
        """The file, sealed. Raises `VerificationError` (`changed`), `EnvironmentProblem`, what `progress` raises."""
        request = self.request
        try:
            hashes = [task.result() for task in self.tasks]
            if os.fstat(self.source).st_size != self.size:
                raise self._changed()
            # Every thread is done with it: unmap, seal, and from here on nobody can write.
            fd = self.memory.seal()
        except OSError as error:
            reason = "no memory is left" if error.errno == errno.EFAULT else error.strerror
            raise EnvironmentProblem(f"cannot load {request.path} of {self.size} bytes: {reason}") from error
        finally:
            self.stop()
        measured = "sha256:" + (merkle.root(hashes) if request.tree else hashes[0]).hex()
        return SealedFile(request.name, fd, self.size, **{"tree" if request.tree else "whole": measured})

    def stop(self) -> None:
        """Wait for the threads that work on it, and let go of everything that was not sealed."""
        self.stopped = True
        wait([task for task in self.tasks if not task.cancel()])
        self.memory.close()
        if self.source >= 0:
            os.close(self.source)
            self.source = -1

    def _take(self, starts: Iterable[int], prefix: bytes) -> bytes:
        """Copy the pieces that begin at `starts`, and hash `prefix` and them as they lie in memory: 32 bytes."""
        state = hashlib.sha256(prefix)
        try:
            for start in starts:
                self._take_piece(start, min(start + PIECE_BYTES, self.size), state.update)
        except BaseException:
            self.stopped = True  # what the other threads still do for this file is of no use
            raise
        return state.digest()

    def _take_piece(self, start: int, end: int, update: Callable[[memoryview], None]) -> None:
        if not self.stopped:
            # A disk is asked for the whole piece at once: readahead gets confused by threads that take turns.
            os.posix_fadvise(self.source, start, end - start, os.POSIX_FADV_WILLNEED)
            self.memory.back(start, end)
        at = start
        while at < end:
            if self.stopped:
                return
            with self.memory.view[at : min(at + STEP_BYTES, end)] as step:
                count = os.preadv(self.source, [step], at)
                if count == 0:
                    raise self._changed()
                update(step[:count])
            at += count
        with self.lock:
            self.done += end - start
            self.progress(self.request.name, self.done, self.size)

    def _changed(self) -> VerificationError:
        found = f"{os.fstat(self.source).st_size} bytes"
        return _refused("changed", f"{self.size} bytes", found, self.request.path, "it changed while it was read")


def _start(request: Request, pool: ThreadPoolExecutor, progress: Progress) -> _Load | VitrineError:
    try:
        return _Load(request, pool, progress)
    except VitrineError as error:
        return error


def _memory(name: str, size_bytes: int) -> Memory:
    try:
        return Memory(name, size_bytes)
    except OSError as error:
        raise EnvironmentProblem(f"cannot hold {name} of {size_bytes} bytes in memory: {error.strerror}") from error


def _refused(code: str, expected: str, found: str, path: Path, advice: str) -> VerificationError:
    return VerificationError(LAYER, code, expected=expected, found=found, advice=f"{path}: {advice}")
