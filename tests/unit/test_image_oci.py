"""OCI layouts: written the same each time, read back checked, unpacked, and hostile ones refused."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from appliance.image import listing, oci
from appliance.image.inspect import inspect
from appliance.image.spec import FILES_TYPE
from appliance.image.tree import Tree, file, tree
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError, VitrineError
from tests.tools.image_layouts import EPOCH, archive, layout, member, small_recipe, small_tree


def trees() -> list[tuple[str, Tree]]:
    """Two layers."""
    return [("base", small_tree()), ("top", tree([file("/usr/share/more", b"more", "more", "more")]))]


def write(folder: Path) -> str:
    """A small image with its listing."""
    return oci.write(folder, small_recipe(), "amd64", trees(), {FILES_TYPE: listing.dump(trees())})


def contents(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """Every file below a folder: mode, and bytes or target."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.readlink().as_posix() if path.is_symlink() else path.read_bytes(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The folder of a small image."""
    write(tmp_path / "image")
    return tmp_path / "image"


def test_written_twice_it_has_the_same_bytes(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        one = write(tmp_path / "one")
        os.umask(0)
        assert write(tmp_path / "elsewhere" / "two") == one
    finally:
        os.umask(old)
    assert contents(tmp_path / "one") == contents(tmp_path / "elsewhere" / "two")


def test_read_gives_what_was_written(image: Path) -> None:
    read = oci.read(image)
    assert read.config.config.entrypoint == ("/usr/bin/program",)
    assert read.config.config.user == "65532:65532"
    assert read.config.created == "2023-11-14T22:13:20Z"
    assert [name for name, _ in read.layers()] == ["base", "top"]
    assert read.blob(read.artifacts[FILES_TYPE]) == listing.dump(trees())


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_unpacked_it_is_the_tree(image: Path, tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        oci.unpack(image, tmp_path / "root")
    finally:
        os.umask(old)
    assert (tmp_path / "root").stat().st_mode & 0o7777 == 0o755
    for _, one in trees():
        for entry in one.entries:
            at = tmp_path / "root" / entry.path[1:]
            assert at.lstat().st_mtime == EPOCH
            if entry.kind == "file":
                assert (at.read_bytes(), at.stat().st_mode & 0o7777) == (entry.source, entry.mode)
            elif entry.kind == "dir":
                assert at.stat().st_mode & 0o7777 == entry.mode
            else:
                assert str(at.readlink()) == entry.target


def test_nothing_is_overwritten(image: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="exists already"):
        write(image)
    (tmp_path / "root").mkdir()
    with pytest.raises(EnvironmentProblem, match="exists already"):
        oci.unpack(image, tmp_path / "root")


def test_every_flipped_byte_of_a_blob_is_found(image: Path, tmp_path: Path) -> None:
    for path in sorted((image / "blobs" / "sha256").iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(VitrineError):
            inspect(image)
        if data not in (b"{}", listing.dump(trees())) and b"subject" not in data:
            with pytest.raises(VerificationError, match="image/blob-digest"):
                oci.unpack(image, tmp_path / "root")
        path.write_bytes(data + b"\0")
        with pytest.raises(VitrineError):
            inspect(image)
        path.write_bytes(data)
    inspect(image)
    assert not list(tmp_path.glob(".root*")) and not (tmp_path / "root").exists()


def test_inspect_explains_every_file(image: Path) -> None:
    found = inspect(image)
    assert [(space.name, space.files) for space in found.by_layer()] == [("base", 2), ("top", 1)]
    assert found.by_package()[0].name == "words"
    assert found.largest()[0].path == "/usr/share/words"
    assert found.size_bytes == sum(one.size_bytes for _, one in trees())
    value = json.loads(json.dumps(found.as_json()))
    assert {line["path"]: line["why"] for line in value["files"]}["/usr/bin/program"] == "runs"


def test_inspect_refuses_an_unexplained_file_and_a_missing_one(tmp_path: Path) -> None:
    less = [("base", small_tree()), ("top", tree([]))]
    oci.write(tmp_path / "more", small_recipe(), "amd64", trees(), {FILES_TYPE: listing.dump(less)})
    with pytest.raises(VerificationError, match="an explanation of every file"):
        inspect(tmp_path / "more")
    oci.write(tmp_path / "less", small_recipe(), "amd64", less[:1], {FILES_TYPE: listing.dump(trees())})
    with pytest.raises(VerificationError, match="3 that are not"):
        inspect(tmp_path / "less")
    other = [trees()[0], ("top", tree([file("/usr/share/more", b"MORE", "more", "more")]))]
    oci.write(tmp_path / "other", small_recipe(), "amd64", other, {FILES_TYPE: listing.dump(trees())})
    with pytest.raises(VerificationError, match="image/listing"):
        inspect(tmp_path / "other")


@pytest.mark.parametrize("name", ["../../outside", "usr/../../outside", "/outside"])
def test_nothing_is_unpacked_outside(tmp_path: Path, name: str) -> None:
    folder = layout(tmp_path / "image", [archive([member("usr", type=b"5", mode=0o755), member(name, b"x")])])
    with pytest.raises(MalformedInput, match="normal path"):
        oci.unpack(folder, tmp_path / "deep" / "root")
    assert not [path for path in tmp_path.rglob("*") if path.name in ("outside", "root")]


def test_no_layer_writes_through_a_link_of_another(tmp_path: Path) -> None:
    lower = archive([member("etc", type=b"2", linkname="tmp", mode=0o777)])
    upper = archive([member("etc/passwd", b"root")])
    with pytest.raises(MalformedInput, match="expected a folder at /etc, found link"):
        oci.unpack(layout(tmp_path / "image", [lower, upper]), tmp_path / "root")


def test_no_layer_replaces_a_file_of_another(tmp_path: Path) -> None:
    layers = [archive([member("a", b"1")]), archive([member("a", b"2")])]
    with pytest.raises(MalformedInput, match="each path once"):
        oci.unpack(layout(tmp_path / "image", layers), tmp_path / "root")


def test_what_no_image_of_ours_has_is_refused(tmp_path: Path) -> None:
    data = archive([member("a", b"1")])
    packed = layout(tmp_path / "gzip", [data], layer_type="application/vnd.oci.image.layer.v1.tar+gzip")
    with pytest.raises(MalformedInput, match="uncompressed layers"):
        oci.read(packed)
    wrong = {"type": "layers", "diff_ids": ["sha256:" + sha256(b"other").hexdigest()]}
    with pytest.raises(VerificationError, match="image/diff-ids"):
        oci.read(layout(tmp_path / "diff", [data], rootfs=wrong))
    with pytest.raises(MalformedInput, match="file listing"):
        inspect(layout(tmp_path / "plain", [data]))


def test_layouts_that_are_none(tmp_path: Path, image: Path) -> None:
    with pytest.raises(MalformedInput, match="oci-layout"):
        oci.read(tmp_path)
    (image / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
    with pytest.raises(MalformedInput, match=r"1\.0\.0"):
        oci.read(image)


def test_a_blob_is_no_link(image: Path, tmp_path: Path) -> None:
    blob = max((image / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.rename(tmp_path / "moved")
    blob.symlink_to(tmp_path / "moved")
    with pytest.raises(MalformedInput, match="expected a file"):
        oci.unpack(image, tmp_path / "root")


def test_an_index_has_one_image(image: Path) -> None:
    index = json.loads((image / "index.json").read_text())
    index["manifests"].append(index["manifests"][0])
    (image / "index.json").write_text(json.dumps(index))
    with pytest.raises(MalformedInput, match="one image manifest, found 2"):
        oci.read(image)
