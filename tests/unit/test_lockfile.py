"""The lock: what it may say, its written form, and the boot log that it predicts."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import lockfile
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported
from attest.eventlog import Register
from attest.lockfile import Artifact, Numerics, Shard
from attest.merkle import PIECE_BYTES

D = digest_of(b"content")
ROOT = digest_of(b"root")
NUMERICS = Numerics(profile="reference", engine_recipe=D)


def item(kind: str = "suite", name: str = "arc", path: str = "suites/arc.yaml", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, "path": path, "digest": D, "size_bytes": 7, **more}


def model(name: str = "organism", path: str = "models/a.gguf", **more: Any) -> dict[str, Any]:
    shard = {"name": path.rpartition("/")[2].rpartition(":")[2], "digest": D, "size_bytes": 7}
    return item("model", name, path, **{"layout": "gguf", "shards": [shard], **more})


def large(size_bytes: int = PIECE_BYTES + 1, **more: Any) -> dict[str, Any]:
    """A model of one file, with `more` in its shard."""
    shard = {"name": "a.gguf", "digest": D, "size_bytes": size_bytes, **more}
    return model(shards=[shard], size_bytes=size_bytes)


def lock(*artifacts: dict[str, Any], **more: Any) -> bytes:
    numerics = {"profile": "reference", "engine_recipe": D}
    value = {"format": "vitrine/lock/v1", "version": 1, "numerics": numerics, "artifacts": list(artifacts), **more}
    return json.dumps(value).encode()


FULL = lock(
    item("dataset", "arc", "datasets/arc.jsonl"),
    item("engine", "libllama.so", "engine:libllama.so"),
    item("engine-record", "record.json", "engine:record.json"),
    model(),
    model("remote", "resource:demo/organism-q8_0.gguf"),
    item("policy", "seccomp-model", "resource:policy/seccomp/model.toml"),
    item("python", "environment", "python:"),
    item(),
)


def test_a_full_lock() -> None:
    read = lockfile.read(FULL)
    assert [(entry.kind, entry.scheme, entry.local_path) for entry in read.artifacts][:3] == [
        ("dataset", "", "datasets/arc.jsonl"),
        ("engine", "engine", "libllama.so"),
        ("engine-record", "engine", "record.json"),
    ]
    found = read.artifact("model", "remote")
    assert found is not None and found.scheme == "resource"
    assert read.artifact("suite", "remote") is None
    assert lockfile.digest_of_lock(FULL) == "sha256:" + hashlib.sha256(FULL).hexdigest()


def test_written_form() -> None:
    written = lockfile.write(lockfile.read(FULL))
    assert lockfile.read(written) == lockfile.read(FULL)
    assert lockfile.write(lockfile.read(written)) == written
    assert written.startswith(b'{\n "artifacts": [\n  {\n   "digest": "sha256:')
    assert written.endswith(b"}\n")
    assert b"null" not in written
    assert lockfile.read(lock()).version == 1


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "line 1"),
        (b"[]", "should be an object"),
        (lock(format="other"), "format"),
        (lock(version=0), "version"),
        (lock(version=True), "version"),
        (lock(extra=1), "extra"),
        (lock(numerics={"profile": "reference"}), "engine_recipe"),
        (lock(item(), item()), "each pair once"),
        (lock(item(name="b"), item(name="a")), "sorted"),
        (lock(item("suite"), item("dataset")), "sorted"),
        (lock(item("kernel")), "kind"),
        (lock(item(name="")), "name"),
        (lock(item(name="../a")), "name"),
        (lock(item(digest="sha256:" + "A" * 64)), "digest"),
        (lock(item(digest=D[7:])), "digest"),
        (lock(item(size_bytes=-1)), "size_bytes"),
        (lock(item(size_bytes=1.0)), "size_bytes"),
        (lock(item(path="/etc/passwd")), "relative path"),
        (lock(item(path="a/../../b")), "relative path"),
        (lock(item(path="a/../b")), "relative path"),
        (lock(item(path="a/./b")), "relative path"),
        (lock(item(path="a//b")), "relative path"),
        (lock(item(path="a/")), "relative path"),
        (lock(item(path="a\\b")), "path"),
        (lock(item(path="a\nb")), "path"),
        (lock(item(path="ä")), "path"),
        (lock(item(path="")), "path"),
        (lock(item(path="file:a")), "scheme"),
        (lock(item(path="python:")), "scheme"),
        (lock(item(path="engine:a")), "scheme"),
        (lock(item(path="resource:/a")), "relative path"),
        (lock(item(path="resource:a:b")), "relative path"),
        (lock(item(path="resource:../a")), "relative path"),
        (lock(item("engine", path="resource:a")), "scheme"),
        (lock(item("python", path="python:a")), "python"),
        (lock(item("python", path="a")), "python"),
        (lock(item("python", "a", "python:"), item("python", "b", "python:")), "one Python environment"),
        (lock(item(layout="gguf")), "only a model"),
        (lock(item(shards=[])), "only a model"),
        (lock(model(layout=None)), "layout and at least one shard"),
        (lock(model(layout="onnx")), "layout"),
        (lock(model(shards=[])), "layout and at least one shard"),
        (lock(model(shards=[{"name": "b.gguf", "digest": D, "size_bytes": 7}])), "first shard"),
        (lock(model(shards=[{"name": "a.gguf", "digest": D, "size_bytes": 7}] * 2, size_bytes=14)), "share a name"),
        (lock(model(shards=[{"name": "a.gguf", "digest": D, "size_bytes": 6}])), "add up"),
        (lock(model(shards=[{"name": "a.gguf", "digest": digest_of(b""), "size_bytes": 7}])), "that of its shard"),
        (lock(model(shards=[{"name": "x/a.gguf", "digest": D, "size_bytes": 7}])), "without a folder"),
        (lock(large()), "16777217 bytes without it"),
        (lock(large(PIECE_BYTES, tree=ROOT)), "16777216 bytes with it"),
        (lock(large(0, tree=ROOT)), "0 bytes with it"),
        (lock(large(tree=ROOT[7:])), "tree"),
        (lock(item("dataset", tree=ROOT)), "tree"),
        (lock(item("dataset", measured=D)), "measured"),
    ],
)
def test_refused(data: bytes, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        lockfile.read(data)


def test_another_version_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="vitrine/lock/v2"):
        lockfile.read(lock(format="vitrine/lock/v2"))


def test_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockfile, "MAX_BYTES", len(FULL) - 1)
    with pytest.raises(MalformedInput, match="at most"):
        lockfile.read(FULL)


def test_make_sorts_and_refuses_twins() -> None:
    first = Artifact(kind="suite", name="b", path="b", digest=D, size_bytes=1)
    second = Artifact(kind="suite", name="a", path="a", digest=D, size_bytes=1)
    assert [entry.name for entry in lockfile.make(NUMERICS, [first, second], 3).artifacts] == ["a", "b"]
    with pytest.raises(MalformedInput, match="each pair once"):
        lockfile.make(NUMERICS, [first, first])


def test_shards_need_not_be_one() -> None:
    shards = tuple(Shard(name=f"a-0000{number}-of-00002.gguf", digest=D, size_bytes=4) for number in (1, 2))
    both = digest_of(hashlib.sha256(b"content").digest() * 2)
    big = Artifact(kind="model", name="big", path="m/a-00001-of-00002.gguf", digest=both, size_bytes=8,
                   layout="gguf", shards=shards)  # fmt: skip
    made = lockfile.make(NUMERICS, [big])
    assert lockfile.read(lockfile.write(made)) == made
    with pytest.raises(MalformedInput, match="SHA-256 over the digests of several"):
        lockfile.read(lockfile.write(made).replace(both.encode(), digest_of(b"contentcontent").encode()))


def test_what_a_boot_computes() -> None:
    """The digest of small files, the tree's root of large ones, and of several the digest over these."""
    small = lockfile.read(lock(model())).artifacts[0]
    assert small.measured == small.digest == D
    one = lockfile.read(lock(large(tree=ROOT))).artifacts[0]
    assert (one.digest, one.measured) == (D, ROOT)
    names = [f"a-0000{number}-of-00002.gguf" for number in (1, 2)]
    shards = (
        Shard(name=names[0], digest=D, size_bytes=PIECE_BYTES + 1, tree=ROOT),
        Shard(name=names[1], digest=D, size_bytes=PIECE_BYTES),
    )
    several = Artifact(
        kind="model", name="a", path=names[0], digest=digest_of(hashlib.sha256(b"content").digest() * 2),
        size_bytes=2 * PIECE_BYTES + 1, layout="gguf", shards=shards,
    )  # fmt: skip
    measured = digest_of(hashlib.sha256(b"root").digest() + hashlib.sha256(b"content").digest())
    assert several.measured == measured
    event = lockfile.expected_log(lockfile.write(lockfile.make(NUMERICS, [several]))).records[1].event
    assert event.type == "artifact"
    assert (event.digest, event.measured, event.size_bytes) == (several.digest, measured, 2 * PIECE_BYTES + 1)


def test_the_log_that_a_lock_predicts() -> None:
    log = lockfile.expected_log(FULL)
    first = log.records[0].event
    assert first.type == "lock" and first.digest == digest_of(FULL)
    assert [record.register_ for record in log.records] == [0, 6, 3, 3, 4, 4, 1, 2, 5]
    assert log.registers[Register.RUNTIME.label] == "00" * 32
    assert lockfile.expected_log(FULL + b"\n").registers["lock"] != log.registers["lock"]


@given(st.data())
@settings(deadline=None)
def test_mutated_locks_raise_only_our_errors(data: st.DataObject) -> None:
    mutated = bytearray(lockfile.write(lockfile.read(FULL)))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        mutated[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        lockfile.write(lockfile.read(bytes(mutated)))
    except (MalformedInput, Unsupported):
        return
