"""Trees: what may be in one, that the order and the digest do not depend on how it was made, and what is written."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.image.tree import Entry, file, folder, link, materialise, merge, tree
from attest.errors import MalformedInput
from tests.tools.image_layouts import EPOCH, small_tree


def test_entries_are_sorted_and_parents_are_added() -> None:
    made = tree([file("/b/c/d", b"x", "p", "r"), folder("/a", "p", "r")])
    assert [entry.path for entry in made.entries] == ["/a", "/b", "/b/c", "/b/c/d"]


def test_the_digest_says_what_the_files_are_and_not_why() -> None:
    made = small_tree()
    shuffled = list(made.entries)
    random.Random(1).shuffle(shuffled)
    assert tree(shuffled).digest() == made.digest()
    assert tree(replace(entry, reason="other", package="other") for entry in made.entries).digest() == made.digest()
    for changed in (
        replace(made.by_path["/usr/share/words"], source=b"other"),
        replace(made.by_path["/usr/share/words"], mode=0o755),
        replace(made.by_path["/bin"], target="usr/share"),
        replace(made.by_path["/tmp"], mode=0o755),
    ):
        others = [entry for entry in made.entries if entry.path != changed.path]
        assert tree([*others, changed]).digest() != made.digest()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (file("/a/../b", b"", "p", "r"), "normal path"),
        (file("a", b"", "p", "r"), "normal path"),
        (file("/a//b", b"", "p", "r"), "normal path"),
        (file("/a\n", b"", "p", "r"), "normal path"),
        (file("/" + "a" * 255, b"", "p", "r"), "at most 255 bytes"),
        (Entry("/a", "file", 0o4755, b"", None, "p", "r"), "set-user-id"),
        (Entry("/a", "file", 0o2755, b"", None, "p", "r"), "set-group-id"),
        (Entry("/a", "file", 0o666, b"", None, "p", "r"), "not everybody may write"),
        (folder("/a", "p", "r", 0o777), "not everybody may write"),
        (Entry("/a", "file", 0o644, None, None, "p", "r"), "with what belongs to it"),
        (Entry("/a", "dir", 0o755, b"", None, "p", "r"), "with what belongs to it"),
        (link("/a/b", "../../etc", "p", "r"), "stays in the image"),
        (Entry("/a", "link", 0o777, None, "/etc/passwd", "p", "r"), "relative link"),
    ],
)
def test_what_may_not_be_in_a_tree(entry: Entry, words: str) -> None:
    with pytest.raises(MalformedInput, match=words):
        tree([entry])


def test_a_path_is_there_once_and_below_folders_only() -> None:
    one = file("/a", b"1", "p", "r")
    with pytest.raises(MalformedInput, match="once, found it of p and of q"):
        tree([one, file("/a", b"1", "q", "r")])
    with pytest.raises(MalformedInput, match="to be a folder for /a/b, found a file"):
        tree([one, file("/a/b", b"", "p", "r")])
    with pytest.raises(MalformedInput, match="to be a folder for /l/b, found a link"):
        tree([link("/l", "usr", "p", "r"), file("/l/b", b"", "p", "r")])
    both = merge([tree([file("/d/a", b"", "p", "r")]), tree([file("/d/b", b"", "q", "r")])])
    assert [entry.path for entry in both.entries] == ["/d", "/d/a", "/d/b"]


def test_absolute_links_become_relative() -> None:
    assert link("/usr/lib64/ld.so", "/usr/lib/x/ld.so", "p", "r").target == "../lib/x/ld.so"


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_is_written_does_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        materialise(small_tree(), tmp_path, seconds=EPOCH)
    finally:
        os.umask(old)
    for entry in small_tree().entries:
        at = tmp_path / entry.path[1:]
        status = at.lstat()
        assert status.st_mtime == EPOCH
        if entry.kind == "link":
            assert str(at.readlink()) == entry.target
        else:
            assert status.st_mode & 0o7777 == entry.mode
            assert at.is_dir() or at.read_bytes() == entry.source
