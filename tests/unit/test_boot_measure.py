"""Measuring: the listing of a tree is deterministic, complete, and refuses what it cannot read."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import measure
from appliance.measure import listing_line, measure_file, measure_model, measure_python, measure_tree
from appliance.memfd import load_sealed
from attest import canonical
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
from attest.merkle import PIECE_BYTES


def fill(root: Path) -> Path:
    for name, content in {
        "b.py": b"b",
        "a/__init__.py": b"",
        "a/__pycache__/x.cpython-311.pyc": b"cache",
        "a/stale.pyc": b"importable without a source",
        "z": b"z" * 10,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def names(listing: bytes) -> list[str]:
    return [json.loads(line)["name"] for line in listing.splitlines()]


def test_listing(tmp_path: Path) -> None:
    tree = measure_tree({"site": fill(tmp_path)}, {"python/interpreter": tmp_path / "z"})
    assert names(tree.listing) == [
        "python/interpreter", "site/a/__init__.py", "site/a/stale.pyc", "site/b.py", "site/z"
    ]  # fmt: skip
    assert (tree.files, tree.size_bytes) == (5, 10 + 0 + 27 + 1 + 10)
    assert tree.digest == digest_of(tree.listing)
    last = {"name": "site/z", "sha256": hashlib.sha256(b"z" * 10).hexdigest()}
    assert tree.listing.endswith(canonical.dumps(last) + b"\n")


def test_order_permissions_times_and_caches_do_not_matter(tmp_path: Path) -> None:
    first = measure_tree({"site": fill(tmp_path)})
    (tmp_path / "b.py").chmod(0o600)
    os.utime(tmp_path / "z", (1, 1))
    (tmp_path / "a/__pycache__/y.pyc").write_bytes(b"new")
    assert measure_tree({"site": tmp_path}) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "b.py").write_bytes(b"c"),
        lambda root: (root / "b.py").rename(root / "c.py"),
        lambda root: (root / "b.py").unlink(),
        lambda root: (root / "new.pth").write_bytes(b""),
        lambda root: (root / "a/stale.pyc").write_bytes(b""),
    ],
)
def test_every_change_of_content_matters(tmp_path: Path, change: object) -> None:
    before = measure_tree({"site": fill(tmp_path)}).digest
    change(tmp_path)  # type: ignore[operator]
    assert measure_tree({"site": tmp_path}).digest != before


def test_roots_inside_roots_and_links(tmp_path: Path) -> None:
    fill(tmp_path / "site/appliance")
    (tmp_path / "site/appliance/appliance.lock").write_bytes(b"a lock cannot pin itself")
    (tmp_path / "site/other.lock").write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/linked.py").write_bytes(b"linked")
    (tmp_path / "site/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "site/loop").symlink_to(tmp_path / "site")
    (tmp_path / "site/file").symlink_to(tmp_path / "elsewhere/linked.py")
    (tmp_path / "stdlib/site-packages").mkdir(parents=True)
    (tmp_path / "stdlib/site-packages/not.py").write_bytes(b"")
    roots = {"site": tmp_path / "site", "stdlib": tmp_path / "stdlib"}
    listed = names(measure_tree({**roots, "project/appliance": tmp_path / "site/appliance"}).listing)
    assert listed == [
        "project/appliance/a/__init__.py", "project/appliance/a/stale.pyc", "project/appliance/b.py",
        "project/appliance/z", "site/file", "site/link/linked.py", "site/other.lock"
    ]  # fmt: skip


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EnvironmentProblem, match="not a regular file"):
        measure_tree({"site": tmp_path})
    (tmp_path / "pipe").unlink()
    (tmp_path / "dangling").symlink_to("none")
    with pytest.raises(EnvironmentProblem, match="dangling"):
        measure_tree({"site": tmp_path})
    (tmp_path / "dangling").unlink()
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"")
    with pytest.raises(EnvironmentProblem, match="not UTF-8"):
        measure_tree({"site": tmp_path})
    with pytest.raises(EnvironmentProblem, match="none"):
        measure_tree({"site": tmp_path / "none"})


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
def test_a_line_is_canonical_json(name: str) -> None:
    assert listing_line(name, "0f") == canonical.dumps({"name": name, "sha256": "0f"}) + b"\n"


def test_large_files_are_hashed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = measure_tree({"site": fill(tmp_path)})
    monkeypatch.setattr(measure, "CHUNK_BYTES", 2)
    assert measure_tree({"site": tmp_path}) == before
    assert measure_file("suite", "z", tmp_path / "z", "z").digest == digest_of(b"z" * 10)


def test_the_environment_of_this_process() -> None:
    tree = measure_python()
    listed = names(tree.listing)
    assert listed == sorted(set(listed))
    assert tree.files == len(listed) > 1000
    assert {"python/interpreter", "stdlib/os.py", "site/pydantic/__init__.py", "project/attest/digest.py"} <= set(
        listed
    )
    assert not any("__pycache__" in name for name in listed)
    # An editable install leaves copies of the data files there, and no code.
    beside = [name for name in listed if name.startswith(("site/appliance/", "site/attest/"))]
    assert not [name for name in beside if not name.startswith(("site/appliance/_data/", "site/attest/_data/"))]


def test_folders_beside_the_environment_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path), str(tmp_path / "none")])
    assert str(tmp_path.resolve()) in measure_python().uncovered


def test_measured_artifacts(tmp_path: Path) -> None:
    one, two = tmp_path / "a-00001-of-00002.gguf", tmp_path / "a-00002-of-00002.gguf"
    one.write_bytes(b"one")
    two.write_bytes(b"two!")
    model = measure_model("a", [one, two], "models/a-00001-of-00002.gguf")
    both = digest_of(hashlib.sha256(b"one").digest() + hashlib.sha256(b"two!").digest())
    assert (model.digest, model.measured, model.size_bytes, model.layout) == (both, both, 7, "gguf")
    assert model.shards is not None
    assert [(shard.name, shard.digest, shard.size_bytes, shard.tree) for shard in model.shards] == [
        (one.name, digest_of(b"one"), 3, None), (two.name, digest_of(b"two!"), 4, None)
    ]  # fmt: skip
    with pytest.raises(VerificationError, match="file/missing"):
        measure_model("a", [tmp_path / "none"], "none")
    with pytest.raises(MalformedInput, match="relative path"):
        measure_file("suite", "a", one, "b/../a")
    with pytest.raises(MalformedInput, match="name"):
        measure_file("suite", "A B", one, "a")


@pytest.mark.parametrize("more", [0, 1, PIECE_BYTES + 3])
def test_a_large_file_of_a_model_has_a_digest_and_a_tree(tmp_path: Path, more: int) -> None:
    content = os.urandom(PIECE_BYTES + more)
    (tmp_path / "a.gguf").write_bytes(content)
    seen: list[tuple[str, int, int]] = []
    model = measure_model("a", [tmp_path / "a.gguf"], "a.gguf", lambda *step: seen.append(step))
    assert model.shards is not None
    (shard,) = model.shards
    assert (shard.digest, shard.size_bytes) == (digest_of(content), len(content)) == (model.digest, model.size_bytes)
    assert shard.tree == (tree_of(content) if more else None)
    assert seen[-1] == ("a.gguf of model a", len(content), len(content))
    with load_sealed(tmp_path / "a.gguf", name="a", tree=more > 0) as file:
        assert (file.tree or file.digest) == model.measured


def tree_of(content: bytes) -> str:
    """RFC 6962, section 2.1, as it is written there."""

    def root(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return hashlib.sha256(b"\0" + leaves[0]).digest()
        split = 1
        while split * 2 < len(leaves):
            split *= 2
        return hashlib.sha256(b"\1" + root(leaves[:split]) + root(leaves[split:])).digest()

    pieces = [content[start : start + (16 << 20)] for start in range(0, len(content), 16 << 20)]
    return "sha256:" + root(pieces).hex()
