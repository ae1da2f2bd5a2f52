"""Sealed memory: what is held is what was hashed, and nothing but a regular file of the right size gets in."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import mmap
import os
import socket
import threading
from pathlib import Path

import pytest

from appliance import memfd
from appliance.memfd import Request, SealedFile, load_all, load_sealed
from appliance.memory import MFD_NOEXEC_SEAL, SEALS
from attest import merkle
from attest.errors import EnvironmentProblem, VerificationError
from attest.merkle import PIECE_BYTES


def put(path: Path, content: bytes = b"content") -> Path:
    path.write_bytes(content)
    return path


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def refused(code: str, path: Path, size_bytes: int | None = None) -> VerificationError:
    before = descriptors()
    with pytest.raises(VerificationError) as caught:
        load_sealed(path, name="x", size_bytes=size_bytes)
    assert (caught.value.layer, caught.value.code) == ("file", code)
    assert str(path) in str(caught.value)
    assert descriptors() == before
    return caught.value


def tree_of(content: bytes) -> str:
    pieces = [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]
    return "sha256:" + merkle.root(merkle.leaf_hash(piece) for piece in pieces).hex()


SIZES = [
    0,
    1,
    memfd.STEP_BYTES,
    memfd.STEP_BYTES + 1,
    PIECE_BYTES - 1,
    PIECE_BYTES,
    PIECE_BYTES + 1,
    2 * PIECE_BYTES + 3,
]


@pytest.mark.parametrize("size", SIZES)
def test_content_digest_and_size(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    done: list[tuple[str, int, int]] = []
    with load_sealed(put(tmp_path / "a", content), name="model a", progress=lambda *step: done.append(step)) as file:
        assert (file.name, file.size_bytes) == ("model a", size)
        assert file.digest == "sha256:" + hashlib.sha256(content).hexdigest()
        assert file.read() == content
        assert Path(file.path).read_bytes() == content
        assert file.path == f"/proc/self/fd/{file.fd}"
        ends = [min(start + PIECE_BYTES, size) for start in range(0, size, PIECE_BYTES)]
        assert done == [("model a", end, size) for end in ends]
        assert file.tree is None
        assert os.get_inheritable(file.fd) is False
    assert file.fd == -1
    file.close()


@pytest.mark.parametrize("size", SIZES)
def test_a_tree_is_hashed_by_several_threads(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    done: list[int] = []
    file = load_sealed(put(tmp_path / "a", content), name="a", tree=True, progress=lambda *step: done.append(step[1]))
    with file:
        assert (file.tree, file.whole) == (tree_of(content), None)
        assert file.read() == content
        assert done == sorted(done) and done[-1:] == ([size] if size else [])
        assert fcntl.fcntl(file.fd, fcntl.F_GET_SEALS) & SEALS == SEALS
        with pytest.raises(RuntimeError, match="not hashed as a whole"):
            assert file.digest


def test_one_processor_is_enough(tmp_path: Path) -> None:
    content = os.urandom(2 * PIECE_BYTES + 1)
    put(tmp_path / "a", content)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert memfd.threads() == 1
        with load_sealed(tmp_path / "a", name="a", tree=True) as file:
            assert file.tree == tree_of(content)
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_writer_changes_the_digest_and_nothing_else(tmp_path: Path) -> None:
    """The file is written to all the while; what was hashed is what is held."""
    path, size = tmp_path / "a", 8 * PIECE_BYTES
    os.truncate(put(path, b""), size)
    mixed, stop = 0, threading.Event()

    def write() -> None:
        with path.open("r+b", buffering=0) as file:
            while not stop.is_set():
                for start in range(0, size, 4096):
                    os.pwrite(file.fileno(), os.urandom(8), start)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for tree in (True, False):
            with load_sealed(path, name="a", tree=tree) as file:
                held = file.read()
                assert (file.tree, file.whole) == (
                    (tree_of(held), None) if tree else (None, "sha256:" + hashlib.sha256(held).hexdigest())
                )
                mixed += held.count(0) != size
    finally:
        stop.set()
        writer.join()
    assert mixed, "the writer was at work"


def test_nothing_can_change_it(tmp_path: Path) -> None:
    with load_sealed(put(tmp_path / "a"), name="a") as file:
        for attempt in (
            lambda: os.pwrite(file.fd, b"x", 0),
            lambda: os.ftruncate(file.fd, 1),
            lambda: os.ftruncate(file.fd, 100),
            lambda: mmap.mmap(file.fd, 7, prot=mmap.PROT_WRITE),
            lambda: fcntl.fcntl(file.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        ):
            with pytest.raises(OSError):
                attempt()
        again = os.open(file.path, os.O_RDWR)
        with pytest.raises(OSError):
            os.write(again, b"x")
        os.close(again)
        assert fcntl.fcntl(file.fd, fcntl.F_GET_SEALS) & SEALS == SEALS
        with file.view() as view, pytest.raises(TypeError):
            view[0] = 0
        assert file.read() == b"content"


def test_a_view_outlives_the_descriptor(tmp_path: Path) -> None:
    file = load_sealed(put(tmp_path / "a"), name="a")
    view = file.view()
    file.close()
    assert bytes(view) == b"content"


def test_the_path_does_not_matter_afterwards(tmp_path: Path) -> None:
    with load_sealed(put(tmp_path / "a"), name="a") as file:
        put(tmp_path / "a", b"changed")
        (tmp_path / "a").unlink()
        assert file.read() == b"content"


def test_a_swap_while_it_is_read_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memfd, "PIECE_BYTES", 1)
    put(tmp_path / "b", b"swapped")

    def swap(name: str, done: int, total: int) -> None:
        if (tmp_path / "b").exists():
            (tmp_path / "b").rename(tmp_path / "a")

    with load_sealed(put(tmp_path / "a"), name="a", progress=swap) as file:
        assert file.read() == b"content"
        assert file.digest == "sha256:" + hashlib.sha256(b"content").hexdigest()


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("length", [0, 3, 9])
def test_a_file_that_changes_its_length_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, tree: bool
) -> None:
    monkeypatch.setattr(memfd, "PIECE_BYTES", 1)
    path = put(tmp_path / "a")
    before = descriptors()
    with pytest.raises(VerificationError, match="file/changed") as caught:
        load_sealed(
            path, name="a", tree=tree, progress=lambda *step: os.truncate(path, length) if step[1] == 3 else None
        )
    assert (caught.value.expected, caught.value.found) == ("7 bytes", f"{length} bytes")
    assert descriptors() == before


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    refused("missing", tmp_path / "none")
    refused("missing", put(tmp_path / "file") / "below")
    (tmp_path / "link").symlink_to("file")
    assert "link" in refused("not-regular", tmp_path / "link").found
    (tmp_path / "dangling").symlink_to("none")
    refused("not-regular", tmp_path / "dangling")
    (tmp_path / "loop").symlink_to("loop")
    refused("not-regular", tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    assert "folder" in refused("not-regular", tmp_path / "folder").found
    os.mkfifo(tmp_path / "pipe")
    refused("not-regular", tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        refused("not-regular", tmp_path / "socket")
    refused("not-regular", Path("/dev/null"))
    refused("unreadable", tmp_path / ("n" * 300))
    refused("unreadable", tmp_path / "a\0b")


def test_a_wrong_size_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    assert refused("size", put(tmp_path / "a"), 2**53 - 1).found == "7 bytes"
    os.truncate(tmp_path / "a", 1 << 40)
    assert refused("size", tmp_path / "a", 7).found == f"{1 << 40} bytes"


def test_many_files_at_once(tmp_path: Path) -> None:
    paths = [put(tmp_path / f"{number}", os.urandom(1000 * number)) for number in range(20)]
    requests = [Request(path, path.name) for path in paths]
    requests[3:3] = [Request(tmp_path / "none", "none"), Request(paths[5], "size", 1)]
    before = descriptors()
    loaded = load_all(requests)
    assert [item.code for item in loaded if isinstance(item, VerificationError)] == ["missing", "size"]
    sealed = [item for item in loaded if isinstance(item, SealedFile)]
    assert [file.read() for file in sealed] == [path.read_bytes() for path in paths]
    assert [file.digest for file in sealed] == [
        "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    ]
    for file in sealed:
        file.close()
    assert descriptors() == before
    assert load_all([]) == []


@pytest.mark.parametrize("tree", [False, True])
def test_an_interrupted_load_leaves_nothing_open(tmp_path: Path, tree: bool) -> None:
    requests = [Request(put(tmp_path / f"{number}"), f"{number}", tree=tree) for number in range(9)]

    def interrupt(name: str, done: int, total: int) -> None:
        if name == "4":
            raise KeyboardInterrupt

    before = descriptors()
    with pytest.raises(KeyboardInterrupt):
        load_all(requests, progress=interrupt)
    assert descriptors() == before


def test_an_interrupt_ends_a_large_file_soon(tmp_path: Path) -> None:
    """Of a hundred pieces, those that were begun are finished; then nothing is left, neither memory nor threads."""
    os.truncate(put(tmp_path / "a", b""), 100 * PIECE_BYTES)
    for tree in (True, False):
        done: list[int] = []

        def interrupt(name: str, count: int, total: int, done: list[int] = done) -> None:
            done.append(count)
            if len(done) == 2:
                raise KeyboardInterrupt

        before = descriptors()
        with pytest.raises(KeyboardInterrupt):
            load_sealed(tmp_path / "a", name="a", tree=tree, progress=interrupt)
        assert len(done) <= 2 + memfd.threads()
        assert descriptors() == before
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("load")] == []
        assert "memfd:a" not in Path("/proc/self/maps").read_text()


def test_a_library_loads_from_it(tmp_path: Path) -> None:
    """A sealed file may be mapped as code, which is how the engine is loaded."""
    maps = Path("/proc/self/maps").read_text()
    library = next(line.split()[-1] for line in maps.splitlines() if "/libm.so" in line or "/libm-" in line)
    with load_sealed(Path(library).resolve(), name="libm") as file:
        loaded = ctypes.CDLL(file.path)
        loaded.cos.restype, loaded.cos.argtypes = ctypes.c_double, [ctypes.c_double]
        assert loaded.cos(0.0) == 1.0


def test_older_kernels_without_the_noexec_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = os.memfd_create

    def old(name: str, flags: int) -> int:
        if flags & MFD_NOEXEC_SEAL:
            raise OSError(22, "Invalid argument")
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", old)
    with load_sealed(put(tmp_path / "a"), name="über/a\0b" + "n" * 300) as file:
        assert file.read() == b"content"


@pytest.mark.parametrize("broken", ["memfd_create", "truncate", "preadv"])
def test_a_host_that_cannot_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    path = put(tmp_path / "a")
    before = descriptors()
    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        load_sealed(path, name="a")
    monkeypatch.undo()
    assert descriptors() == before
