"""The measured boot: one flipped byte anywhere stops it, and nothing that happens to a path afterwards matters."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.boot import BootRefused, boot
from appliance.gguf import read_header
from appliance.measure import Tree, measure_model, python_artifact
from attest import lockfile
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, Exit, MalformedInput, VerificationError, VitrineError
from attest.merkle import PIECE_BYTES
from tests.fakes.booted import FILES, MODEL, NUMERICS, SHARDS, Folder, descriptors, gguf


@pytest.fixture
def lab(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_boot_that_succeeds(lab: Folder) -> None:
    before = descriptors()
    with lab.boot() as booted:
        assert booted.lock_digest == digest_of(lab.lock)
        assert booted.registers == lockfile.expected_log(lab.lock).registers
        assert booted.log == lockfile.expected_log(lab.lock)
        assert [record.event.type for record in booted.events] == ["lock"] + ["artifact"] * 8
        for (kind, name), path in FILES.items():
            (file,) = booted.file(kind, name)  # type: ignore[arg-type]
            assert file.read() == (lab.root / path).read_bytes()
        assert [tensor.name for tensor in read_header(booted.model("big").read()).tensors] == ["t0", "t1", "t2"]
        assert booted.model("organism").read() == (lab.root / MODEL).read_bytes()
        assert booted.headers["organism"][0].architecture == "llama"
        assert [header.split and header.split.number for header in booted.headers["big"]] == [0, 1, 2]
        assert booted.python == lab.environment()
    assert descriptors() == before


@pytest.mark.parametrize("path", [*FILES.values(), MODEL, *SHARDS, "python/module.py"])
def test_one_flipped_byte_in_any_artifact_stops_the_boot(lab: Folder, path: str) -> None:
    lab.flip(path)
    error = lab.refuses("" if path.startswith("python") else path)
    assert error.expected.startswith("sha256:") and error.found.startswith("sha256:")
    assert error.expected != error.found


@given(st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_one_flipped_byte_anywhere_stops_the_boot(lab: Folder, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([*FILES.values(), MODEL, *SHARDS]))
    size = (lab.root / path).stat().st_size
    position = data.draw(st.integers(0, size - 1))
    lab.flip(path, position)
    try:
        lab.refuses(path)
    finally:
        lab.flip(path, position)


def test_all_differences_are_named_together(lab: Folder) -> None:
    lab.flip(MODEL)
    lab.flip("data/arc.jsonl")
    (lab.root / "suites/arc.yaml").unlink()
    lab.put("python/module.py", b"print(1)")
    with pytest.raises(BootRefused) as caught:
        lab.boot()
    error = caught.value
    assert len(error.differences) == 4
    for words in ("model organism", "dataset arc", "suite arc", "python environment", "found nothing", MODEL):
        assert words in str(error)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved").name)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_huge_file(path: Path) -> None:
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (Path.unlink, "nothing"),
        (replace_by_link, "a symbolic link"),
        (replace_by_folder, "a folder"),
        (replace_by_pipe, "a pipe"),
        (replace_by_huge_file, f"{1 << 40} bytes"),
    ],
)
@pytest.mark.parametrize("path", ["data/arc.jsonl", "engine/libllama.so", SHARDS[1]])
def test_what_is_not_the_file_stops_the_boot(
    lab: Folder, path: str, change: Callable[[Path], None], found: str
) -> None:
    change(lab.root / path)
    assert found in lab.refuses(path).found


def test_a_huge_declared_size_allocates_nothing(lab: Folder) -> None:
    size = (lab.root / "suites/arc.yaml").stat().st_size
    lab.lock = lab.lock.replace(b'"size_bytes": %d' % size, b'"size_bytes": 9007199254740991')
    assert lab.refuses("suites/arc.yaml").expected == "9007199254740991 bytes"


def test_a_swap_between_check_and_load_changes_nothing(lab: Folder) -> None:
    original = (lab.root / MODEL).read_bytes()
    with lab.boot() as booted:
        lab.put("other", b"other")
        (lab.root / "other").rename(lab.root / MODEL)
        (file,) = booted.file("model", "organism")
        assert file.read() == original
        with pytest.raises(OSError):
            os.pwrite(file.fd, b"x", 0)


def test_a_large_model_is_compared_by_its_tree(lab: Folder) -> None:
    """The digest of a large file is what the lock says of a tree; what the boot computed is the tree."""
    lab.put(MODEL, gguf(elements=PIECE_BYTES // 4 + 3))
    lab.lock = lab.make_lock()
    pinned = lockfile.read(lab.lock).artifact("model", "organism")
    assert pinned and pinned.shards and pinned.shards[0].tree == pinned.measured != pinned.digest
    with lab.boot() as booted:
        assert booted.log == lockfile.expected_log(lab.lock)
        (event,) = [event for event in (record.event for record in booted.events) if event.type == "artifact"
                    and event.name == "organism"]  # fmt: skip
        assert (event.digest, event.measured) == (pinned.digest, pinned.measured)
        assert booted.model("organism").read() == (lab.root / MODEL).read_bytes()
        assert booted.model("organism").tree == pinned.measured
    for position in (0, PIECE_BYTES - 1, PIECE_BYTES, -1):
        lab.flip(MODEL, position)
        assert lab.refuses(MODEL).expected == f"a tree with root {pinned.measured}"
        lab.flip(MODEL, position)
    lab.boot().close()


def test_shards_of_a_large_model_that_change_places_are_refused(lab: Folder) -> None:
    """Same sizes, same set of pieces, another order."""
    large = [gguf(f"t{number}", number, elements=PIECE_BYTES // 4 + 3) for number in range(3)]
    for path, data in zip(SHARDS, large, strict=True):
        lab.put(path, data)
    lab.lock = lab.make_lock()
    lab.boot().close()
    lab.put(SHARDS[1], large[2])
    lab.put(SHARDS[2], large[1])
    lab.refuses(SHARDS[1], SHARDS[2])


def test_a_lock_that_says_another_digest_of_a_tree_gives_other_registers(lab: Folder) -> None:
    """A boot cannot tell that such a lock is wrong; whoever hashes the file can, and the lock is another one."""
    lab.put(MODEL, gguf(elements=PIECE_BYTES // 4 + 3))
    lab.lock = lab.make_lock()
    pinned = lockfile.read(lab.lock).artifact("model", "organism")
    assert pinned
    with lab.boot() as honest, lab.boot(lab.lock.replace(pinned.digest.encode(), digest_of(b"").encode())) as other:
        assert honest.registers["model"] != other.registers["model"]
        assert honest.registers["lock"] != other.registers["lock"]


def test_the_size_of_the_environment_is_checked(lab: Folder) -> None:
    artifact = python_artifact(lab.environment())
    lie = artifact.model_copy(update={"size_bytes": 1})
    others = [item for item in lockfile.read(lab.lock).artifacts if item.kind != "python"]
    lab.lock = lockfile.write(lockfile.make(NUMERICS, [*others, lie]))
    assert lab.refuses("python environment").expected.endswith("of 1 bytes")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"GGUX" + gguf()[4:], "expected b'GGUF'"),
        (gguf() + bytes(64), "expected the file to end"),
        (gguf(number=1), "expected shard 0 of 1"),
        (gguf("n" * 64), "expected a tensor name of at most 63 bytes"),
    ],
)
def test_a_pinned_but_malformed_model_is_refused(lab: Folder, content: bytes, problem: str) -> None:
    lab.put(MODEL, content)
    lab.lock = lab.make_lock()
    before = descriptors()
    with pytest.raises(MalformedInput, match=f"model organism: {problem}") as caught:
        lab.boot()
    assert caught.value.exit_code == Exit.MALFORMED
    assert descriptors() == before


def test_shards_in_the_wrong_order_are_refused(lab: Folder) -> None:
    first, second = ((lab.root / path).read_bytes() for path in SHARDS[:2])
    lab.put(SHARDS[0], second)
    lab.put(SHARDS[1], first)
    lab.lock = lab.make_lock()
    with pytest.raises(MalformedInput, match="model big: expected shard 0 of 3"):
        lab.boot()


def test_a_model_of_another_layout_is_held_but_has_no_header(lab: Folder) -> None:
    lab.put("models/model.safetensors", b"weights")
    artifact = measure_model("plain", [lab.root / "models/model.safetensors"], "models/model.safetensors")
    assert artifact.layout == "safetensors"
    with lab.boot(lockfile.write(lockfile.make(NUMERICS, [artifact]))) as booted:
        assert booted.headers == {}
        assert booted.python is None
        assert booted.file("model", "plain")[0].read() == b"weights"


def test_broken_locks(lab: Folder) -> None:
    with pytest.raises(MalformedInput, match="kind"):
        lab.boot(lab.lock.replace(b'"kind": "suite"', b'"kind": "kernel"'))
    with pytest.raises(MalformedInput):
        lab.boot(lab.lock.replace(b"data/arc", b"data/../arc"))
    with pytest.raises(MalformedInput):
        lab.boot(lab.lock[:-3])


def test_what_is_not_pinned_is_not_there(lab: Folder) -> None:
    with lab.boot() as booted, pytest.raises(VerificationError, match="boot/not-locked") as caught:
        booted.file("model", "other")
    assert "big, organism" in caught.value.expected
    with lab.boot() as booted, pytest.raises(VerificationError):
        booted.file("python", "environment")


def test_a_lock_that_reads_the_same_is_another_lock(lab: Folder) -> None:
    with lab.boot() as first, lab.boot(lab.lock + b"\n") as second:
        assert first.lock_digest != second.lock_digest
        assert first.registers["lock"] != second.registers["lock"]
        assert first.registers["model"] == first.registers["model"]


def test_problems_of_the_host_pass_through(lab: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Tree:
        raise EnvironmentProblem("cannot measure")

    before = descriptors()
    with pytest.raises(EnvironmentProblem, match="cannot measure"):
        boot(lab.lock, lab.root, lab.resolve, measure_environment=broken)
    assert descriptors() == before
    with pytest.raises(RuntimeError, match="expected 1 paths"):
        boot(lab.lock, lab.root, lambda _: [], measure_environment=lab.environment)

    def no_memory(*_: object) -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "memfd_create", no_memory)
    with pytest.raises(VitrineError, match="Cannot allocate memory"):
        lab.boot()
    monkeypatch.undo()
    assert descriptors() == before


def test_progress_reaches_every_file(lab: Folder) -> None:
    seen: dict[str, int] = {}
    with boot(
        lab.lock, lab.root, lab.resolve, measure_environment=lab.environment,
        progress=lambda name, done, total: seen.__setitem__(name, done)
    ):  # fmt: skip
        assert set(seen) == {f"{kind} {name}" for kind, name in FILES} | {
            "model organism",
            "model big",
            "merge model big",
        }
