"""Writes a tree as an EROFS file system: read-only, uncompressed, the same bytes for the same tree on every machine.

Our own writer, because the bytes that `mkfs.erofs` makes depend on its version and on the order of a folder, and it
wants the tree unpacked under the right owner first. The subset is small: blocks of 4,096 bytes, inodes of the extended
form, content in whole blocks, no compression, no attributes. `fsck.erofs` and the kernel read it.

Layout: block 0 holds the superblock at byte 1,024; the inodes follow from block 1 on in the order of the tree, root
first; then each entry's content from a block of its own. Owner and group are 0, all times are the recipe's.
Modes come from the tree; the root folder has 0755.

Not compressed on purpose: under emulation reading costs less than unpacking, and no compressor's version is pinned.
"""

from __future__ import annotations

import hashlib
import posixpath
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from appliance.image.tree import Entry, Tree
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError

BLOCK = 4096
BLOCK_BITS = 12
MAGIC = 0xE0F5E1E2
SUPERBLOCK_AT = 1024
COPY_BYTES = 1 << 20
SLOT = 32
"""An inode's number is its place in the inode area in units of so many bytes."""
INODE_SLOTS = 2
EXTENDED_PLAIN = 1
"""An inode of 64 bytes, its content in whole blocks."""
NAME_MAX = 255

_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHH38x")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBB")
_TYPES = {"file": (stat.S_IFREG, 1), "dir": (stat.S_IFDIR, 2), "link": (stat.S_IFLNK, 7)}
"""Bits of a mode, and the type in a folder's entry."""


@dataclass(frozen=True)
class Outline:
    """What decides where an entry lies in a file system: all but a file's content, which its digest stands for."""

    path: str
    """Absolute."""
    kind: str
    """`dir`, `file` or `link`."""
    mode: int
    """Its permissions."""
    size_bytes: int
    """Size of a file."""
    target: str | None
    """Where a link leads."""
    sha256: str | None
    """SHA-256 of a file's content, hex."""


@dataclass
class _Node:
    """One inode to be: what it is, and where its content goes."""

    path: str
    kind: str
    mode: int
    entry: Entry | Outline | None
    children: list[_Node]
    number: int = 0
    links: int = 1
    content: bytes | None = None
    size: int = 0
    block: int = 0


def write(tree: Tree, image: Path, *, seconds: int, uuid: bytes, name: str) -> None:
    """Write `tree` to the new file `image`: all times `seconds`, the volume `name` of 15 bytes at most, a UUID.

    Raises `MalformedInput` for what the format cannot hold, `EnvironmentProblem` where a file cannot be read or
    written.
    """
    if len(uuid) != 16 or len(name.encode()) > 15:
        raise MalformedInput("erofs volume", f"expected a UUID of 16 bytes and a name of at most 15, found {name!r}")
    try:
        with image.open("xb") as file:
            nodes = _nodes(tree.entries)
            first = 1 + _blocks(len(nodes) * INODE_SLOTS * SLOT)
            total = _lay_out(nodes, first)
            file.write(_superblock(len(nodes), total, seconds, uuid, name.encode()))
            file.write(b"".join(_inode(node, seconds) for node in nodes))
            file.write(bytes(-file.tell() % BLOCK))
            for node in nodes:
                _write_content(tree, node, file)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write the file system {image}: {error}") from error


def check(image: Path, outlines: Iterable[Outline]) -> None:
    """Check that the file `image` begins with a file system of exactly these entries, as `write` makes it.

    The layout is made again from the outlines and compared byte by byte; of files the digests are compared. Raises
    `VerificationError` (`image/listing`) for any difference, `MalformedInput` for outlines that make no tree.
    """
    nodes = _nodes(outlines)
    first = 1 + _blocks(len(nodes) * INODE_SLOTS * SLOT)
    total = _lay_out(nodes, first)
    try:
        with image.open("rb") as file:
            head = file.read(BLOCK).ljust(BLOCK, b"\0")
            seconds, uuid, name = (_SUPERBLOCK.unpack_from(head, SUPERBLOCK_AT)[place] for place in (7, 12, 13))
            if head != _superblock(len(nodes), total, seconds, uuid, name):
                raise _differs("the superblock")
            inodes = b"".join(_inode(node, seconds) for node in nodes)
            inodes += bytes(-len(inodes) % BLOCK)
            if file.read(len(inodes)) != inodes:
                raise _differs("an inode: another kind, mode, size or place of something")
            for node in nodes:
                file.seek(node.block * BLOCK)
                if node.content is not None and file.read(node.size) != node.content:
                    raise _differs(f"the entries or the target of {node.path}")
                if isinstance(node.entry, Outline) and node.kind == "file" and _sha256(file, node) != node.entry.sha256:
                    raise _differs(f"the content of {node.path}")
                if any(file.read(-node.size % BLOCK)):
                    raise _differs(f"something behind the content of {node.path}")
    except OSError as error:
        raise EnvironmentProblem(f"cannot read the file system {image}: {error}") from error


def _sha256(file: BinaryIO, node: _Node) -> str:
    state = hashlib.sha256()
    left = node.size
    while left and (chunk := file.read(min(COPY_BYTES, left))):
        state.update(chunk)
        left -= len(chunk)
    return state.hexdigest()


def _differs(what: str) -> VerificationError:
    advice = "disk and file listing are not of one build: build it again"
    return VerificationError(
        "image", "listing", expected="a disk that the file listing explains", found=what, advice=advice
    )


def _nodes(entries: Iterable[Entry | Outline]) -> list[_Node]:
    """All inodes, the root first, numbered in this order."""
    root = _Node("/", "dir", 0o755, None, [])
    found = {"/": root}
    for entry in entries:
        above = found.get(posixpath.dirname(entry.path))
        if above is None or above.kind != "dir" or entry.path in found:
            raise MalformedInput("erofs", f"expected each entry once, below folders, found {entry.path[:300]!r}")
        if len(posixpath.basename(entry.path).encode()) > NAME_MAX:
            raise MalformedInput("erofs", f"expected names of at most {NAME_MAX} bytes, found {entry.path[:300]!r}")
        node = found[entry.path] = _Node(entry.path, entry.kind, entry.mode, entry, [])
        above.children.append(node)
    nodes = list(found.values())
    for position, node in enumerate(nodes):
        node.number = position * INODE_SLOTS
        if node.kind == "dir":
            node.links = 2 + sum(child.kind == "dir" for child in node.children)
    return nodes


def _lay_out(nodes: list[_Node], first: int) -> int:
    """Give every node its size and first block, from block `first` on; the number of blocks of the image."""
    above = {child.path: node for node in nodes for child in node.children}
    for node in nodes:
        if node.kind == "dir":
            node.content = _folder(node, above.get(node.path, node))
        elif node.kind == "link" and node.entry is not None:
            node.content = str(node.entry.target).encode()
        elif node.entry is not None:
            node.size = node.entry.size_bytes
        if node.content is not None:
            node.size = len(node.content)
        node.block = first if node.size else 0
        first += _blocks(node.size)
    if first >= 1 << 32:
        raise MalformedInput("erofs", f"expected fewer than 2^32 blocks, found {first}")
    return first


def _folder(node: _Node, parent: _Node) -> bytes:
    """The content of a folder: blocks of entries, then their names; sorted by name, because the kernel bisects."""
    entries = [(b".", node, 2), (b"..", parent, 2)]
    entries += [(posixpath.basename(c.path).encode(), c, _TYPES[c.kind][1]) for c in node.children]
    entries.sort(key=lambda item: item[0])
    blocks: list[bytes] = []
    while entries:
        count, used = 0, 0
        while count < len(entries) and used + _DIRENT.size + len(entries[count][0]) <= BLOCK:
            used += _DIRENT.size + len(entries[count][0])
            count += 1
        heads, names = b"", b""
        for name, child, kind in entries[:count]:
            heads += _DIRENT.pack(child.number, count * _DIRENT.size + len(names), kind, 0)
            names += name
        entries = entries[count:]
        blocks.append((heads + names).ljust(BLOCK, b"\0") if entries else heads + names)
    return b"".join(blocks)


def _superblock(inodes: int, blocks: int, seconds: int, uuid: bytes, name: bytes) -> bytes:
    """The block that the superblock is in. No checksum: the tree above authenticates every block."""
    fields = (MAGIC, 0, 0, BLOCK_BITS, 0, 0, inodes, seconds, 0, blocks, 1, 0, uuid, name, 0, 0, 0, 0)
    return (bytes(SUPERBLOCK_AT) + _SUPERBLOCK.pack(*fields)).ljust(BLOCK, b"\0")


def _inode(node: _Node, seconds: int) -> bytes:
    mode = _TYPES[node.kind][0] | node.mode
    ino = node.number // INODE_SLOTS + 1
    return _INODE.pack(EXTENDED_PLAIN, 0, mode, 0, node.size, node.block, ino, 0, 0, seconds, 0, node.links)


def _write_content(tree: Tree, node: _Node, file: BinaryIO) -> None:
    if node.size and file.tell() != node.block * BLOCK:
        raise RuntimeError(f"{node.path} belongs into block {node.block}, the image is at byte {file.tell()}")
    written = 0
    for chunk in _content(tree, node):
        file.write(chunk)
        written += len(chunk)
    if written != node.size:
        raise MalformedInput("tree", f"expected {node.path} to stay at {node.size} bytes, found {written}")
    file.write(bytes(-written % BLOCK))


def _content(tree: Tree, node: _Node) -> Iterator[bytes]:
    """The content in chunks: a model may be larger than memory."""
    if node.content is not None:
        yield node.content
    elif isinstance(node.entry, Entry) and isinstance(node.entry.source, Path):
        with node.entry.source.open("rb") as source:
            while chunk := source.read(COPY_BYTES):
                yield chunk
    elif isinstance(node.entry, Entry):
        yield tree.read(node.entry)


def _blocks(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK
