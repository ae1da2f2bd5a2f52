"""A whole log, read from a copy of its folder in the C2SP tlog-tiles layout (c2sp.org/tlog-tiles).

    checkpoint                     signed tree head
    tile/entries/<N>[.p/<W>]       256 (or W) leaves, each with its length in two bytes

The leaves decide the tree: the root over them has to be the one that the log's key signed. Tiles of hashes lie beside
them for other clients and are not read here. Refused: a log that the trust root does not name, leaves that are missing,
cut or others. What no single copy can show is that another one exists: `LogCopy.check_extends` takes a checkpoint that
somebody kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from attest import merkle
from attest.checkpoint import (
    LAYER,
    MAX_NOTE_CHARS,
    Checkpoint,
    TrustedLog,
    check_cosigned,
    check_order,
    check_root,
)
from attest.errors import MalformedInput, VerificationError

WIDTH = 256
"""Leaves or hashes in a whole tile."""
HEIGHT = 8
"""Levels of the tree between two levels of tiles."""
MAX_LEAF_BYTES = 0xFFFF
CHECKPOINT = "checkpoint"
MAX_CHECKPOINT_BYTES = MAX_NOTE_CHARS

Read = Callable[[str, int], bytes]
"""Gives the bytes of a file by its path in the log's folder, at most so many. Raises `MalformedInput`."""


@dataclass(frozen=True)
class LogCopy:
    """A copy of a log whose leaves are those that its key signed."""

    checkpoint: Checkpoint
    """The tree head over all leaves."""
    leaves: tuple[bytes, ...]
    """Every leaf, in order."""
    tree: merkle.Tree
    """The tree over them, for proofs."""

    def check_extends(self, old: Checkpoint) -> None:
        """Raise `VerificationError` unless this log begins with the tree of `old`, which was checked before."""
        check_order(old, self.checkpoint)
        check_root(old, self.tree.root(old.size))


def tile_path(level: int | str, index: int, width: int = WIDTH) -> str:
    """The path of tile `index` of a level (`entries` for leaves), relative to the log's directory."""
    parts = [f"{index % 1000:03d}"]
    while index := index // 1000:
        parts.append(f"x{index % 1000:03d}")
    return f"tile/{level}/{'/'.join(reversed(parts))}" + ("" if width == WIDTH else f".p/{width}")


def split(tile: bytes) -> Iterator[bytes]:
    """The leaves in a tile of leaves. Raises `MalformedInput` for one that is torn."""
    offset = 0
    while offset < len(tile):
        length = int.from_bytes(tile[offset : offset + 2], "big")
        leaf = tile[offset + 2 : offset + 2 + length]
        if offset + 2 > len(tile) or len(leaf) != length:
            raise MalformedInput("tile", "expected whole leaves, found a torn one")
        yield leaf
        offset += 2 + length


def read_log(read: Read, logs: Sequence[TrustedLog]) -> LogCopy:
    """The log behind `read`, one of `logs`, whole. Raises `VerificationError` (layer `log`), `MalformedInput`."""
    # 1. The checkpoint is signed by a log that the trust root names.
    try:
        note = read(CHECKPOINT, MAX_CHECKPOINT_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedInput(CHECKPOINT, "expected UTF-8, found other bytes") from None
    checkpoint = check_cosigned(note, logs)

    # 2. There are as many leaves as it says.
    leaves: list[bytes] = []
    for index in range(-(-checkpoint.size // WIDTH)):
        width = min(WIDTH, checkpoint.size - index * WIDTH)
        path = tile_path("entries", index, width)
        tile = list(split(read(path, width * (2 + MAX_LEAF_BYTES))))
        if len(tile) != width:
            raise VerificationError(LAYER, "entries", expected=f"{width} leaves in {path}", found=len(tile))
        leaves += tile

    # 3. The root over them is the signed one.
    tree = merkle.Tree(merkle.leaf_hash(leaf) for leaf in leaves)
    if tree.root() != checkpoint.root:
        raise VerificationError(
            LAYER, "root", expected=f"leaves under the signed root {checkpoint.root.hex()}", found=tree.root().hex(),
            advice="a leaf of the copy was altered",
        )  # fmt: skip
    return LogCopy(checkpoint, tuple(leaves), tree)
