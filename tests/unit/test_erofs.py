"""The file system writer against `fsck.erofs`, and its bytes against themselves."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.image import erofs
from appliance.image.tree import Entry, Tree, file, folder, link, tree
from attest.errors import MalformedInput, VerificationError

UUID = bytes(range(16))
SECONDS = 1_700_000_000


def sample(folder_: Path) -> Tree:
    """Files of many sizes, deep folders, one folder of several blocks, names that sort around the dots, links."""
    large = folder_ / "large"
    large.write_bytes(os.urandom(300_001))
    entries = [
        folder("/empty", "p", "r"),
        folder("/sticky", "p", "r", 0o1777),
        file("/a/b/c/d", b"deep", "p", "r", executable=True),
        file("/large", large, "p", "r"),
        file("/zero", b"", "p", "r"),
        file("/block", bytes(4096), "p", "r"),
        file("/-dash", b"before the dots", "p", "r"),
        file("/ünïcode", b"name", "p", "r"),
        link("/a/link", "b/c/d", "p", "r"),
    ]
    entries += [file(f"/many/file with a rather long name, number {n:04d}", b"%d" % n, "p", "r") for n in range(700)]
    return tree(entries)


def write(content: Tree, image: Path) -> bytes:
    """The image of `content`."""
    erofs.write(content, image, seconds=SECONDS, uuid=UUID, name="test")
    return image.read_bytes()


def test_fsck_erofs_finds_the_tree_again(tmp_path: Path) -> None:
    tool = shutil.which("fsck.erofs", path="/usr/bin:/usr/sbin:/sbin")
    if tool is None:
        pytest.skip("no fsck.erofs: apt install erofs-utils")
    content, image, out = sample(tmp_path), tmp_path / "image", tmp_path / "out"
    write(content, image)
    done = subprocess.run([tool, f"--extract={out}", "--preserve", str(image)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    found = {"/" + str(path.relative_to(out)): path for path in out.rglob("*")}
    assert sorted(found) == [entry.path for entry in content.entries]
    for entry in content.entries:
        path = found[entry.path]
        assert path.lstat().st_mtime == SECONDS
        if entry.kind == "link":
            assert path.readlink() == Path(str(entry.target))
            continue
        assert path.stat().st_mode & 0o7777 == entry.mode
        if entry.kind == "file":
            assert path.read_bytes() == content.read(entry)


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    content = sample(tmp_path)
    first = write(content, tmp_path / "first")
    previous = os.umask(0o077)
    try:
        assert write(content, tmp_path / "second") == first
    finally:
        os.umask(previous)
    assert len(first) % erofs.BLOCK == 0
    other = tree([*content.entries, file("/more", b"", "p", "r")])
    assert write(other, tmp_path / "third") != first


def outlines(content: Tree) -> list[erofs.Outline]:
    """What a file listing says of a tree."""
    return [erofs.Outline(e.path, e.kind, e.mode, e.size_bytes, e.target, e.sha256 or None) for e in content.entries]


def test_a_disk_is_checked_against_its_outlines(tmp_path: Path) -> None:
    content, image = sample(tmp_path), tmp_path / "image"
    write(content, image)
    good = outlines(content)
    erofs.check(image, good)
    place = next(number for number, one in enumerate(good) if one.path == "/large")
    others = {
        "the content of /large": {"sha256": "0" * 64},
        "an inode": {"mode": 0o600},
        "the superblock": {"size_bytes": 299_001},
        "the entries or the target of /": {"path": "/largf"},
    }
    for words, change in others.items():
        with pytest.raises(VerificationError, match=words):
            erofs.check(image, [*good[:place], replace(good[place], **change), *good[place + 1 :]])
    with pytest.raises(VerificationError, match="image/listing"):
        erofs.check(image, good[1:])
    for none in ([replace(good[0], path="/no/folder")], [good[0], good[0]], [replace(good[place], size_bytes=1 << 60)]):
        with pytest.raises(MalformedInput, match="erofs"):
            erofs.check(image, none)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_of_a_disk_is_told(tmp_path: Path, where: float, bit: int) -> None:
    """But in the times, the identifier and the name of the volume, which no listing has; a time is in each inode."""
    content = tree([file("/a", b"content", "p", "r"), link("/b", "a", "p", "r"), file("/c", bytes(5000), "p", "r")])
    image = tmp_path / "flipped"
    image.unlink(missing_ok=True)
    data = bytearray(write(content, image))
    at = int(where * len(data))
    data[at] ^= 1 << bit
    image.write_bytes(data)
    if erofs.SUPERBLOCK_AT + 48 <= at < erofs.SUPERBLOCK_AT + 80:
        erofs.check(image, outlines(content))
    else:
        with pytest.raises(VerificationError, match="image/listing"):
            erofs.check(image, outlines(content))


def test_an_empty_tree_is_a_file_system(tmp_path: Path) -> None:
    assert len(write(tree([]), tmp_path / "image")) == 3 * erofs.BLOCK


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    class Growing(Entry):
        @property
        def size_bytes(self) -> int:
            return 3

    source = tmp_path / "source"
    source.write_bytes(b"four")
    grown = Growing("/a", "file", 0o644, source, None, "p", "r")
    with pytest.raises(MalformedInput, match="stay at 3 bytes"):
        write(Tree((grown,)), tmp_path / "image")


def test_a_volume_name_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedInput, match="at most 15"):
        erofs.write(tree([]), tmp_path / "image", seconds=0, uuid=UUID, name="x" * 16)
