"""Layers: a tree as an uncompressed tar archive, the same bytes every time, and back, with every member checked.

Written: plain tar headers (POSIX.1-1988), entries in the tree's order, owner 0, the recipe's time, no names of users,
no extended attributes. Layers are not compressed, so that their bytes do not depend on a compressor's version.

Read (`members`): only what could have been written. Refused: a member that is no folder, file or symbolic link, a path
that leads out or appears twice, one below a link or below nothing, an owner other than 0, set-user-id bits, a link that
leads out, extended headers, whiteouts.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from appliance.image.tree import MAX_PATH_BYTES, Entry, Tree, check, open_content
from attest.errors import MalformedInput, Unsupported

CHUNK_BYTES = 1 << 20
MAX_FILE_BYTES = 64 << 30
"""Of one file in a layer: a model."""
MAX_MEMBERS = 200_000
WHITEOUT = ".wh."


@dataclass(frozen=True)
class Written:
    """What was written."""

    digest: str
    """SHA-256 of the archive: the diff id."""
    size_bytes: int
    """Its size."""


class _Hashing(io.RawIOBase):
    """Passes on what is written, and hashes it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._state, self.size = out, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        self._state.update(data)
        count = memoryview(data).nbytes
        self.size += count
        self._out.write(data)
        return count

    def tell(self) -> int:
        return self.size

    def digest(self) -> str:
        return "sha256:" + self._state.hexdigest()


def write(tree: Tree, out: BinaryIO, epoch: int) -> Written:
    """Write `tree` to `out` as a layer; all times are `epoch`. Raises `MalformedInput` for a path too long for tar."""
    sink = _Hashing(out)
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for entry in tree.entries:
            info = tarfile.TarInfo(entry.path[1:])
            info.mtime, info.mode = epoch, entry.mode
            try:
                if entry.kind == "file":
                    with open_content(entry) as content:
                        info.size = entry.size_bytes
                        archive.addfile(info, content)
                else:
                    info.type = tarfile.DIRTYPE if entry.kind == "dir" else tarfile.SYMTYPE
                    info.linkname = entry.target or ""
                    archive.addfile(info)
            except ValueError as error:
                raise MalformedInput(
                    "layer", f"{entry.path}: expected a path that fits into a tar header: {error}"
                ) from None
    return Written(sink.digest(), sink.size)


@dataclass(frozen=True)
class Member:
    """One checked member of a layer."""

    path: str
    """Absolute and normal."""
    kind: str
    """`dir`, `file` or `link`."""
    mode: int
    """Permissions."""
    target: str | None
    """Where a link leads."""
    size_bytes: int
    """Size of a file."""
    content: BinaryIO | None
    """A file's content, to be read before the next member is taken."""


def members(stream: BinaryIO, seen: dict[str, tuple[str, int]], what: str) -> Iterator[Member]:
    """The members of the layer in `stream`, checked. `seen` is of the layers below: by path, kind and mode.

    It grows with what is found. Raises `MalformedInput`, and `Unsupported` for whiteouts, which no image of ours has.
    """
    try:
        end = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for count, info in enumerate(archive):
                if count >= MAX_MEMBERS:
                    raise MalformedInput(what, f"expected at most {MAX_MEMBERS} members, found more")
                if info.offset_data + info.size > end:
                    raise MalformedInput(what, f"expected {info.size} bytes of {info.name[:200]!r}, found the end")
                yield _checked(archive, info, seen, what)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise MalformedInput(what, f"expected a tar archive: {error}") from None


def _checked(archive: tarfile.TarFile, info: tarfile.TarInfo, seen: dict[str, tuple[str, int]], what: str) -> Member:
    shown = f"{what}, member {info.name[:200]!r}"
    if any("\ud800" <= char <= "\udfff" for char in info.name + info.linkname):
        raise MalformedInput(shown, "expected names in UTF-8, found others")
    kinds = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "link"}
    if info.type not in kinds:
        raise MalformedInput(shown, f"expected a file, a folder or a symbolic link, found type {info.type!r}")
    if info.pax_headers or info.uid or info.gid or info.uname or info.gname:
        raise MalformedInput(shown, "expected owner 0 without names, and a plain header, found others")
    kind, path = kinds[info.type], "/" + info.name
    if posixpath.basename(path).startswith(WHITEOUT):
        raise Unsupported(shown, "expected files to be added only, found a whiteout")
    # The same checks as for a tree that is written.
    check(Entry(path, kind, info.mode, b"" if kind == "file" else None, info.linkname or None, "", ""))  # type: ignore[arg-type]
    parent = posixpath.dirname(path)
    if parent != "/" and seen.get(parent, ("", 0))[0] != "dir":
        found = seen[parent][0] if parent in seen else "nothing"
        raise MalformedInput(shown, f"expected a folder at {parent[:MAX_PATH_BYTES]}, found {found}")
    if path in seen and (kind, seen[path]) != ("dir", ("dir", info.mode)):
        raise MalformedInput(shown, "expected each path once, found it again")
    if kind != "file" and info.size:
        raise MalformedInput(shown, f"expected no content, found {info.size} bytes")
    if not 0 <= info.size <= MAX_FILE_BYTES:
        raise MalformedInput(shown, f"expected at most {MAX_FILE_BYTES} bytes, found {info.size}")
    seen[path] = (kind, info.mode)
    content = archive.extractfile(info) if kind == "file" else None
    return Member(path, kind, info.mode, info.linkname or None, info.size, content)  # type: ignore[arg-type]
