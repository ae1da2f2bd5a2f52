"""Layers: the same bytes each time, back as they were, and every hostile member refused."""

from __future__ import annotations

import io
import tarfile

import pytest

from appliance.image import layer
from appliance.image.tree import file, tree
from attest.digest import digest_of
from attest.errors import MalformedInput, VitrineError
from tests.tools.image_layouts import EPOCH, archive, member, small_tree


def test_bytes_and_digest_are_those_of_the_tree() -> None:
    out = io.BytesIO()
    written = layer.write(small_tree(), out, EPOCH)
    assert written.digest == digest_of(out.getvalue())
    assert written.size_bytes == len(out.getvalue())
    again = io.BytesIO()
    layer.write(small_tree(), again, EPOCH)
    assert again.getvalue() == out.getvalue()
    other = io.BytesIO()
    layer.write(small_tree(), other, EPOCH + 1)
    assert other.getvalue() != out.getvalue()


def test_a_layer_is_plain_tar_that_stock_tools_read() -> None:
    out = io.BytesIO()
    layer.write(small_tree(), out, EPOCH)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        infos = tar.getmembers()
        assert [info.name for info in infos] == [
            "bin",
            "tmp",
            "usr",
            "usr/bin",
            "usr/bin/program",
            "usr/share",
            "usr/share/words",
        ]
        assert {(info.uid, info.gid, info.uname, info.gname, info.mtime) for info in infos} == {(0, 0, "", "", EPOCH)}
        assert not any(info.pax_headers for info in infos)


def test_members_come_back_as_they_were() -> None:
    out = io.BytesIO()
    made = small_tree()
    layer.write(made, out, EPOCH)
    out.seek(0)
    found = [
        (one.path, one.kind, one.mode, one.target, one.content.read() if one.content else None)
        for one in layer.members(out, {}, "layer")
    ]
    assert found == [(entry.path, entry.kind, entry.mode, entry.target, entry.source) for entry in made.entries]


def test_a_path_that_no_plain_header_holds_is_refused() -> None:
    long = "/" + "a" * 120 + "/" + "b" * 110
    with pytest.raises(MalformedInput, match="fits into a tar header"):
        layer.write(tree([file(long, b"", "p", "r")]), io.BytesIO(), EPOCH)


LINK, DEVICE, HARD = tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([member("../a")], "normal path"),
        ([member("/a")], "normal path"),
        ([member("./a")], "normal path"),
        ([member("a/b")], "expected a folder at /a, found nothing"),
        ([member("a", b"1"), member("a", b"2")], "each path once"),
        ([member("a", b"1"), member("a/b")], "expected a folder at /a, found file"),
        ([member("a", type=LINK, linkname="tmp"), member("a/b")], "expected a folder at /a, found link"),
        ([member("a", type=LINK, linkname="../etc")], "stays in the image"),
        ([member("a", type=LINK, linkname="/etc")], "relative link"),
        ([member("null", type=DEVICE, devmajor=1, devminor=3)], "found type b'3'"),
        ([member("fifo", type=tarfile.FIFOTYPE)], "found type b'6'"),
        ([member("a", b"1"), member("b", type=HARD, linkname="a")], "found type b'1'"),
        ([member("a", mode=0o4755)], "set-user-id"),
        ([member("a", mode=0o666)], "not everybody may write"),
        ([member("a", uid=1000)], "owner 0"),
        ([member("a", uname="root")], "owner 0"),
        ([member(".wh.a")], "whiteout"),
        ([member("d", type=tarfile.DIRTYPE, mode=0o755), member("d/.wh..wh..opq")], "whiteout"),
        (
            [member("d", type=tarfile.DIRTYPE, mode=0o755), member("d", type=tarfile.DIRTYPE, mode=0o700)],
            "each path once",
        ),
        ([member("a\udcff")], "UTF-8"),
    ],
)
def test_hostile_members(members: list[tuple[tarfile.TarInfo, bytes]], words: str) -> None:
    with pytest.raises(VitrineError, match=words):
        for one in layer.members(io.BytesIO(archive(members)), {}, "layer"):
            assert one.content is None or one.content.read() is not None


def test_extended_headers_are_refused() -> None:
    info, content = member("a", b"1")
    info.pax_headers = {"SCHILY.xattr.security.capability": "x"}
    data = archive([(info, content)], tarfile.PAX_FORMAT)
    with pytest.raises(MalformedInput, match="plain header"):
        list(layer.members(io.BytesIO(data), {}, "layer"))


@pytest.mark.parametrize("data", [b"", b"no tar" * 200, archive([member("a", b"x" * 9000)])[:3000]])
def test_damaged_archives(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        for one in layer.members(io.BytesIO(data), {}, "layer"):
            assert one.content is not None
            assert len(one.content.read()) == one.size_bytes
