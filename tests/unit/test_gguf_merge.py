"""Merging shards: the file comes back as it was before it was split, and shards that do not fit are refused."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import gguf_merge, lock, resources
from appliance.boot import boot
from appliance.gguf import read_header
from appliance.gguf_merge import merge
from appliance.measure import measure_model
from appliance.memfd import SealedFile, load_sealed, seal_chunks
from attest import lockfile
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported, VerificationError
from attest.lockfile import Numerics
from tests.tools.gguf_split import even, save, split, wide

NUMERICS = Numerics(profile="reference", engine_recipe=digest_of(b"recipe"))


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture(scope="module")
def organism() -> bytes:
    return (resources.demo() / "organism-q8_0.gguf").read_bytes()


def held(data: bytes) -> SealedFile:
    return seal_chunks("shard", len(data), [data])


def merged(shards: Sequence[bytes]) -> bytes:
    sealed = [held(data) for data in shards]
    try:
        with merge("model m", sealed, [read_header(data) for data in shards]) as file:
            assert [shard.fd for shard in sealed] == [-1] * len(sealed), "the shards are closed"
            data = file.read()
            assert file.size_bytes == len(data)
            return data
    finally:
        for shard in sealed:
            shard.close()


def small(alignment: int = 32, sizes: Sequence[int] = (5, 8, 1)) -> bytes:
    """A file of `F32` tensors `t0`, `t1` and so on, with data that differs everywhere."""
    text = struct.pack("<Q20sIQ5s", 20, b"general.architecture", 8, 5, b"llama")
    keys = [text, wide(alignment)] if alignment != 32 else [text]
    infos, data = b"", b""
    for number, size in enumerate(sizes):
        data += bytes(-len(data) % alignment)
        infos += struct.pack("<Q2sIqIQ", 2, b"t%d" % number, 1, size, 0, len(data))
        data += bytes(number * 16 + i % 16 + 1 for i in range(4 * size))
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(sizes), len(keys)) + b"".join(keys) + infos
    return head + bytes(-len(head) % alignment) + data + bytes(-len(data) % alignment)


@pytest.mark.parametrize("count", [2, 3])
def test_the_organism_comes_back(organism: bytes, count: int) -> None:
    shards = split(organism, even(organism, count))
    data = merged(shards)
    before, after = read_header(organism), read_header(data)
    assert {key: repr(value) for key, value in after.metadata.items()} == {
        key: repr(value) for key, value in before.metadata.items()
    }
    assert after.arrays == before.arrays and after.split is None
    content = {
        tensor.name: (tensor.dims, tensor.type, data[tensor.offset : tensor.offset + tensor.size_bytes])
        for tensor in after.tensors
    }
    assert content == {
        tensor.name: (tensor.dims, tensor.type, organism[tensor.offset : tensor.offset + tensor.size_bytes])
        for tensor in before.tensors
    }
    assert data == organism, "keys, tensors and padding stand where they stood"
    assert merged(shards) == data, "a function of the shards"


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_split_comes_back(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    alignment = data.draw(st.sampled_from([4, 32, 64, 4096]))
    whole = small(alignment, sizes)
    names = [f"t{number}" for number in range(len(sizes))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(names)), max_size=3)))
    groups = [names[start:end] for start, end in zip([0, *cuts], [*cuts, len(names)], strict=True)]
    assert merged(split(whole, groups, tail=data.draw(st.booleans()))) == whole


def test_what_llama_cpp_merged_is_a_model_of_one_file(tmp_path: Path) -> None:
    (whole,) = split(small(), [["t0", "t1", "t2"]])
    place = whole.index(b"split.count") + len(b"split.count") + 4
    whole = whole[:place] + bytes(2) + whole[place + 2 :]
    assert read_header(whole).split is None
    assert Folder(tmp_path, [whole]).boot() == whole
    with pytest.raises(MalformedInput, match="expected shard 1 of 2"):
        merged([split(small(), [["t0"], ["t1", "t2"]])[0], whole])


def test_keys_of_later_shards_are_dropped() -> None:
    whole = small()
    other = struct.pack("<Q12sIQ1s", 12, b"general.name", 8, 1, b"x")
    assert merged(split(whole, [["t0"], ["t1", "t2"]], extra=[other])) == whole


@pytest.mark.parametrize(
    ("shards", "problem"),
    [
        (split(small(), [["t0"], ["t1", "t2"]])[::-1], "expected shard 0 of 2"),
        (split(small(), [["t0"], ["t1"], ["t2"]])[:2], "expected shard 0 of 2 .*found shard 0 of 3"),
        (split(small(), [["t0"], ["t0", "t1", "t2"]]), "expected every tensor in one shard only, found one in two"),
        (split(small(), [["t0"], ["t1"]]), "expected 3 tensors in all shards, found 2"),
        (
            split(small(64), [["t0"], ["t1", "t2"]], alignment=32),
            "expected one alignment in all shards, found 64 and 32",
        ),
        (split(small(), [["t0"], ["t1", "t2"]], alignment=16), ".* found 32 and 16"),
    ],
    ids=["order", "missing", "twice", "too-few", "no-alignment", "alignment"],
)
def test_shards_that_do_not_fit_are_refused(shards: list[bytes], problem: str) -> None:
    with pytest.raises(MalformedInput, match=f"model m: {problem}"):
        merged(shards)


def test_a_merged_file_that_is_too_large_for_the_reader_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shards = split(small(), [["t0"], ["t1", "t2"]])
    sealed = [held(data) for data in shards]
    headers = [read_header(data) for data in shards]
    monkeypatch.setattr("appliance.gguf.MAX_TENSORS", 2)
    with pytest.raises(MalformedInput, match="model m, merged: expected at most 2 tensors"):
        merge("model m", sealed, headers)


def test_a_merge_that_loses_something_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    shards = split(small(), [["t0"], ["t1", "t2"]])
    other = small().replace(b"llama", b"bloom")
    for content, problem in (
        ([other], "found others"),
        ([other, b"x"], "found more"),
        ([other[1:]], "expected 288 bytes, found 287"),
    ):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match=problem):
            patch.setattr(gguf_merge, "_content", lambda *_, content=content: content)
            merged(shards)


def test_memory_that_does_not_suffice_is_a_problem_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    shards = split(small(), [["t0"], ["t1", "t2"]])
    sealed = [held(data) for data in shards]

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(EnvironmentProblem, match=r"cannot hold model m in memory.*No space left"):
        merge("model m", sealed, [read_header(data) for data in shards])
    for file in sealed:
        file.close()


def test_memory_is_constant_and_progress_is_told() -> None:
    whole = small(sizes=(8 << 20,))
    shards = split(whole, [[], ["t0"]])
    sealed, headers = [held(data) for data in shards], [read_header(data) for data in shards]
    seen: list[tuple[str, int, int]] = []
    tracemalloc.start()
    merge("m", sealed, headers, progress=lambda *item: seen.append(item)).close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert seen == [("merge m", part << 22, 8 << 22) for part in range(1, 9)]


class Folder:
    """A folder with a model, and the boot from a lock that pins it."""

    def __init__(self, root: Path, shards: Sequence[bytes]) -> None:
        self.root = root
        self.paths = save(shards, root, "m") if len(shards) > 1 else [root / "m.gguf"]
        if len(shards) == 1:
            self.paths[0].write_bytes(shards[0])
        self.lock = self.make_lock()

    def make_lock(self) -> bytes:
        files = lock.shards(self.paths[0])
        return lockfile.write(lockfile.make(NUMERICS, [measure_model("m", files, files[0].name)]))

    def boot(self, use: Callable[[SealedFile], bytes] = SealedFile.read) -> bytes:
        with boot(self.lock, self.root, lock.resolver(self.root, self.root)) as booted:
            assert booted.log == lockfile.expected_log(self.lock), "the log is that of the shards"
            assert len(booted.headers["m"]) == len(self.paths)
            assert booted.file("model", "m") == [booted.model("m")]
            return use(booted.model("m"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_boot_gives_one_file_for_each_model(tmp_path: Path, organism: bytes, count: int) -> None:
    shards = split(organism, even(organism, count)) if count > 1 else [organism]
    folder = Folder(tmp_path, shards)
    assert folder.boot() == organism
    assert folder.boot(lambda file: file.name.encode()) == b"model m"


def test_a_single_file_is_passed_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.boot.merge", None)
    whole = split(small(), [["t0", "t1", "t2"]])
    assert Folder(tmp_path, whole).boot() == whole[0], "also one that says it is shard 1 of 1"


def test_a_boot_refuses_shards_that_are_not_the_pinned_ones(tmp_path: Path) -> None:
    folder = Folder(tmp_path, split(small(), [["t0"], ["t1"], ["t2"]]))
    first, second, third = (path.read_bytes() for path in folder.paths)
    folder.paths[2].unlink()
    with pytest.raises(VerificationError, match=r"digest-mismatch.*m-00003-of-00003.gguf"):
        folder.boot()
    with pytest.raises(VerificationError, match="missing"):
        folder.make_lock()
    folder.paths[2].write_bytes(third)
    folder.paths[0].write_bytes(second)
    folder.paths[1].write_bytes(first)
    with pytest.raises(VerificationError, match="digest-mismatch"):
        folder.boot()
    folder.lock = folder.make_lock()
    with pytest.raises(MalformedInput, match="model m: expected shard 0 of 3"):
        folder.boot()


@pytest.mark.parametrize(
    "shards",
    [split(small(), [["t0"], ["t0", "t1", "t2"]]), split(small(64), [["t0"], ["t1", "t2"]], alignment=32)],
    ids=["twice", "alignment"],
)
def test_a_boot_refuses_pinned_shards_that_do_not_fit(tmp_path: Path, shards: list[bytes]) -> None:
    with pytest.raises(MalformedInput, match="model m"):
        Folder(tmp_path, shards).boot()


def test_a_merge_that_fails_ends_the_boot_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path, split(small(), [["t0"], ["t1", "t2"]]))
    monkeypatch.setattr(gguf_merge, "_content", lambda *_: [b"GGUX" + small()[4:]])
    with pytest.raises(MalformedInput, match="model m, merged"):
        folder.boot()


def test_no_engine_loads_another_layout(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"weights")
    artifact = measure_model("m", [tmp_path / "m.safetensors"], "m.safetensors")
    pinned = lockfile.write(lockfile.make(NUMERICS, [artifact]))
    with boot(pinned, tmp_path, lock.resolver(tmp_path, tmp_path)) as booted:
        with pytest.raises(Unsupported, match="model m: expected a model in GGUF"):
            booted.model("m")
        with pytest.raises(VerificationError, match="not-locked"):
            booted.model("other")


def test_chunks_in_sealed_memory_cannot_change() -> None:
    with seal_chunks("x", 3, [b"ab", memoryview(b"c"), b""]) as file, pytest.raises(EnvironmentProblem):
        assert file.read() == b"abc"
        with pytest.raises(OSError):
            os.pwrite(file.fd, b"x", 0)
        with pytest.raises(RuntimeError, match="not hashed as a whole"):
            assert file.digest
        seal_chunks("y", 3, failing())
    with seal_chunks("empty", 0, []) as file:
        assert file.read() == b""
    large = [os.urandom(5 << 20) for _ in range(8)]
    with seal_chunks("large", 40 << 20, large) as file:
        assert file.read() == b"".join(large), "what was written outlives the large pages that come after it"
    with pytest.raises(VerificationError, match="missing"):
        load_sealed(Path("/nowhere"), name="x")


def failing() -> Iterator[bytes]:
    yield b"a"
    raise OSError(12, "Cannot allocate memory")
