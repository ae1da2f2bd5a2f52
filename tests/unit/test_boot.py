"""The measured boot: one flipped byte anywhere stops it, and nothing that happens to a path afterwards matters."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.boot import Booted, BootRefused, boot
from appliance.gguf import read_header
from appliance.measure import Tree, measure_file, measure_model, measure_tree, python_artifact
from attest import lockfile
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, Exit, MalformedInput, VerificationError, VitrineError
from attest.lockfile import Artifact, Numerics
from attest.merkle import PIECE_BYTES

NUMERICS = Numerics(profile="reference", engine_recipe=digest_of(b"recipe"))
FILES = {
    ("dataset", "arc"): "data/arc.jsonl",
    ("engine", "libllama.so"): "engine/libllama.so",
    ("engine-record", "record.json"): "engine/record.json",
    ("policy", "seccomp"): "policy/seccomp.toml",
    ("suite", "arc"): "suites/arc.yaml",
}
MODEL = "models/organism.gguf"
SHARDS = [f"models/big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(name: str = "a", number: int | None = None, count: int = 3, elements: int = 8) -> bytes:
    """A sound GGUF file of one tensor, or one shard of several."""
    pairs = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    if number is not None:
        pairs += [text(key) + struct.pack("<IH", 2, value) for key, value in
                  (("split.no", number), ("split.count", count))]  # fmt: skip
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs)
    head += text(name) + struct.pack("<IqIQ", 1, elements, 0, 0)
    return head + bytes(-len(head) % 32) + os.urandom(4 * elements) + bytes(-4 * elements % 32)


class Lab:
    """A folder with one artifact of each kind, and the lock that pins them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.engine = root / "engine"
        for (_, name), path in FILES.items():
            self.put(path, f"content of {name} {path}".encode())
        self.put(MODEL, gguf())
        for number, path in enumerate(SHARDS):
            self.put(path, gguf(f"t{number}", number))
        self.put("python/module.py", b"print()")
        self.lock = self.make_lock()

    def put(self, path: str, content: bytes) -> None:
        (self.root / path).parent.mkdir(exist_ok=True)
        (self.root / path).write_bytes(content)

    def flip(self, path: str, position: int = -1) -> None:
        data = bytearray((self.root / path).read_bytes())
        data[position] ^= 1
        (self.root / path).write_bytes(data)

    def environment(self) -> Tree:
        return measure_tree({"site": self.root / "python"})

    def make_lock(self) -> bytes:
        artifacts = [python_artifact(self.environment())]
        for (kind, name), path in FILES.items():
            where = f"engine:{name}" if kind.startswith("engine") else path
            artifacts.append(measure_file(kind, name, self.root / path, where))  # type: ignore[arg-type]
        artifacts.append(measure_model("organism", [self.root / MODEL], MODEL))
        artifacts.append(measure_model("big", [self.root / path for path in SHARDS], SHARDS[0]))
        return lockfile.write(lockfile.make(NUMERICS, artifacts))

    def resolve(self, artifact: Artifact) -> list[Path]:
        return [self.engine / artifact.local_path]

    def boot(self, lock: bytes | None = None, hold: tuple[str, ...] | None = None) -> Booted:
        return boot(lock or self.lock, self.root, self.resolve, measure_environment=self.environment, hold=hold)

    def refuses(self, *named: str) -> BootRefused:
        before = descriptors()
        with pytest.raises(BootRefused) as caught:
            self.boot()
        error = caught.value
        assert (error.layer, error.code, error.exit_code) == ("boot", "digest-mismatch", Exit.REJECTED)
        assert len(error.differences) == len(named)
        for name in named:
            assert name in str(error)
        assert descriptors() == before
        return error


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_boot_that_succeeds(lab: Lab) -> None:
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
def test_one_flipped_byte_in_any_artifact_stops_the_boot(lab: Lab, path: str) -> None:
    lab.flip(path)
    error = lab.refuses("" if path.startswith("python") else path)
    assert error.expected.startswith("sha256:") and error.found.startswith("sha256:")
    assert error.expected != error.found


@given(st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_one_flipped_byte_anywhere_stops_the_boot(lab: Lab, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([*FILES.values(), MODEL, *SHARDS]))
    size = (lab.root / path).stat().st_size
    position = data.draw(st.integers(0, size - 1))
    lab.flip(path, position)
    try:
        lab.refuses(path)
    finally:
        lab.flip(path, position)


def test_all_differences_are_named_together(lab: Lab) -> None:
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
def test_what_is_not_the_file_stops_the_boot(lab: Lab, path: str, change: Callable[[Path], None], found: str) -> None:
    change(lab.root / path)
    assert found in lab.refuses(path).found


def test_a_huge_declared_size_allocates_nothing(lab: Lab) -> None:
    size = (lab.root / "suites/arc.yaml").stat().st_size
    lab.lock = lab.lock.replace(b'"size_bytes": %d' % size, b'"size_bytes": 9007199254740991')
    assert lab.refuses("suites/arc.yaml").expected == "9007199254740991 bytes"


def test_a_swap_between_check_and_load_changes_nothing(lab: Lab) -> None:
    original = (lab.root / MODEL).read_bytes()
    with lab.boot() as booted:
        lab.put("other", b"other")
        (lab.root / "other").rename(lab.root / MODEL)
        (file,) = booted.file("model", "organism")
        assert file.read() == original
        with pytest.raises(OSError):
            os.pwrite(file.fd, b"x", 0)


def test_a_large_model_is_compared_by_its_tree(lab: Lab) -> None:
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


def test_shards_of_a_large_model_that_change_places_are_refused(lab: Lab) -> None:
    """Same sizes, same set of pieces, another order."""
    large = [gguf(f"t{number}", number, elements=PIECE_BYTES // 4 + 3) for number in range(3)]
    for path, data in zip(SHARDS, large, strict=True):
        lab.put(path, data)
    lab.lock = lab.make_lock()
    lab.boot().close()
    lab.put(SHARDS[1], large[2])
    lab.put(SHARDS[2], large[1])
    lab.refuses(SHARDS[1], SHARDS[2])


def test_a_lock_that_says_another_digest_of_a_tree_gives_other_registers(lab: Lab) -> None:
    """A boot cannot tell that such a lock is wrong; whoever hashes the file can, and the lock is another one."""
    lab.put(MODEL, gguf(elements=PIECE_BYTES // 4 + 3))
    lab.lock = lab.make_lock()
    pinned = lockfile.read(lab.lock).artifact("model", "organism")
    assert pinned
    with lab.boot() as honest, lab.boot(lab.lock.replace(pinned.digest.encode(), digest_of(b"").encode())) as other:
        assert honest.registers["model"] != other.registers["model"]
        assert honest.registers["lock"] != other.registers["lock"]


def test_the_size_of_the_environment_is_checked(lab: Lab) -> None:
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
def test_a_pinned_but_malformed_model_is_refused(lab: Lab, content: bytes, problem: str) -> None:
    lab.put(MODEL, content)
    lab.lock = lab.make_lock()
    before = descriptors()
    with pytest.raises(MalformedInput, match=f"model organism: {problem}") as caught:
        lab.boot()
    assert caught.value.exit_code == Exit.MALFORMED
    assert descriptors() == before


def test_shards_in_the_wrong_order_are_refused(lab: Lab) -> None:
    first, second = ((lab.root / path).read_bytes() for path in SHARDS[:2])
    lab.put(SHARDS[0], second)
    lab.put(SHARDS[1], first)
    lab.lock = lab.make_lock()
    with pytest.raises(MalformedInput, match="model big: expected shard 0 of 3"):
        lab.boot()


def test_a_model_of_another_layout_is_held_but_has_no_header(lab: Lab) -> None:
    lab.put("models/model.safetensors", b"weights")
    artifact = measure_model("plain", [lab.root / "models/model.safetensors"], "models/model.safetensors")
    assert artifact.layout == "safetensors"
    with lab.boot(lockfile.write(lockfile.make(NUMERICS, [artifact]))) as booted:
        assert booted.headers == {}
        assert booted.python is None
        assert booted.file("model", "plain")[0].read() == b"weights"


def test_broken_locks(lab: Lab) -> None:
    with pytest.raises(MalformedInput, match="kind"):
        lab.boot(lab.lock.replace(b'"kind": "suite"', b'"kind": "kernel"'))
    with pytest.raises(MalformedInput):
        lab.boot(lab.lock.replace(b"data/arc", b"data/../arc"))
    with pytest.raises(MalformedInput):
        lab.boot(lab.lock[:-3])


def test_what_is_not_pinned_is_not_there(lab: Lab) -> None:
    with lab.boot() as booted, pytest.raises(VerificationError, match="boot/not-locked") as caught:
        booted.file("model", "other")
    assert "big, organism" in caught.value.expected
    with lab.boot() as booted, pytest.raises(VerificationError):
        booted.file("python", "environment")


def test_a_lock_that_reads_the_same_is_another_lock(lab: Lab) -> None:
    with lab.boot() as first, lab.boot(lab.lock + b"\n") as second:
        assert first.lock_digest != second.lock_digest
        assert first.registers["lock"] != second.registers["lock"]
        assert first.registers["model"] == first.registers["model"]


def test_problems_of_the_host_pass_through(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_progress_reaches_every_file(lab: Lab) -> None:
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


def test_models_in_turn_are_measured_as_all_others_and_held_while_they_are_asked_for(lab: Lab) -> None:
    before = descriptors()
    with lab.boot() as whole, lab.boot(hold=("big",)) as booted:
        assert booted.log.dump() == whole.log.dump()
        assert {name: [shard.tensors for shard in found] for name, found in booted.headers.items()} == {
            name: [shard.tensors for shard in found] for name, found in whole.headers.items()
        }
        held = descriptors()
        assert booted.file("model", "organism")[0].fd < 0 <= booted.file("model", "big")[0].fd
        assert booted.model("organism").read() == (lab.root / MODEL).read_bytes()
        assert booted.model("organism") is booted.model("organism")
        assert descriptors() == held + 1
        booted.let_go("organism")
        booted.let_go("big")  # it is held to the end
        assert descriptors() == held
        assert booted.model("big").fd >= 0
    assert descriptors() == before


def test_shards_in_turn_are_merged_each_time(lab: Lab) -> None:
    with lab.boot() as whole, lab.boot(hold=()) as booted:
        before = descriptors()
        for _ in range(2):
            assert booted.model("big").read() == whole.model("big").read()
            assert descriptors() == before + 1
            booted.let_go("big")
            assert descriptors() == before


@pytest.mark.parametrize("path", [MODEL, SHARDS[1]])
def test_model_that_changed_since_it_was_measured_is_not_loaded(lab: Lab, path: str) -> None:
    name = "organism" if path == MODEL else "big"
    with lab.boot(hold=()) as booted:
        before = descriptors()
        lab.flip(path)
        with pytest.raises(BootRefused, match=name):
            booted.model(name)
        (lab.root / path).unlink()
        with pytest.raises(BootRefused, match="nothing"):
            booted.model(name)
        assert descriptors() == before


@pytest.mark.parametrize("path", [MODEL, SHARDS[2]])
def test_models_in_turn_are_refused_as_all_others(lab: Lab, path: str) -> None:
    lab.flip(path)
    before = descriptors()
    with pytest.raises(BootRefused):
        lab.boot(hold=())
    assert descriptors() == before
