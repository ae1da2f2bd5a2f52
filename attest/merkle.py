"""The Merkle tree of RFC 6962 over SHA-256: roots, inclusion proofs, consistency proofs.

Trees are built over *leaf hashes* (32 bytes, from `leaf_hash`), never over leaf data, so that a tree of large leaves is
small. Proofs are lists of 32-byte hashes in the order of RFC 6962. Verification raises `VerificationError`, whose layer
is the caller's, and follows RFC 9162, sections 2.1.3.2 and 2.1.4.2; it never trusts a length that the proof came with.

The tree of a large file has its pieces of `PIECE_BYTES` as leaves, the last of which may be shorter, so that a file can
be hashed by all processors at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attest.digest import sha256
from attest.errors import VerificationError

HASH_BYTES = 32
LEAF_PREFIX = b"\x00"
"""What is hashed before the data of a leaf."""
PIECE_BYTES = 16 << 20
"""Bytes of a file that make one leaf of its tree."""
EMPTY_ROOT = sha256(b"")
"""The root of the tree without leaves."""


def leaf_hash(data: bytes | memoryview) -> bytes:
    """32 bytes: the hash of a leaf that holds `data`."""
    return sha256(LEAF_PREFIX, data)


def node_hash(left: bytes, right: bytes) -> bytes:
    """32 bytes: the hash of the node over two hashes of 32 bytes each."""
    return sha256(b"\x01" + left + right)


class Tree:
    """A tree that grows at its right edge. An append costs O(1) amortised; a root or a proof O(log^2 n) hashes at most.

    `_levels[k][i]` is the hash of the complete subtree over leaves i * 2^k up to (i + 1) * 2^k.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash at the right edge. Raises `TypeError` unless it is 32 bytes."""
        if not isinstance(leaf, bytes) or len(leaf) != HASH_BYTES:
            raise TypeError("a tree is built over leaf hashes of 32 bytes: pass leaf_hash(data)")
        level, node = 0, leaf
        while True:
            nodes = self._levels[level]
            nodes.append(node)
            if len(nodes) % 2:
                return
            level, node = level + 1, node_hash(nodes[-2], node)
            if level == len(self._levels):
                self._levels.append([])

    def root(self, size: int | None = None) -> bytes:
        """32 bytes: the root over the first `size` leaves, or over all of them. Raises `IndexError`."""
        size = self._checked(size)
        return self._range(0, size) if size else EMPTY_ROOT

    def inclusion_path(self, index: int, size: int | None = None) -> list[bytes]:
        """The proof that leaf `index` is in the tree of the first `size` leaves. Raises `IndexError`."""
        size = self._checked(size)
        if not 0 <= index < size:
            raise IndexError(f"a tree of {size} leaves has no leaf {index}")
        path: list[bytes] = []
        begin, end = 0, size
        while end - begin > 1:
            split = begin + _split(end - begin)
            if index < split:
                path.append(self._range(split, end))
                end = split
            else:
                path.append(self._range(begin, split))
                begin = split
        return path[::-1]

    def consistency_proof(self, old_size: int, size: int | None = None) -> list[bytes]:
        """The proof that the first `size` leaves extend the first `old_size`. Raises `IndexError`.

        It is empty for equal sizes and for `old_size` 0.
        """
        size = self._checked(size)
        if not 0 <= old_size <= size:
            raise IndexError(f"a tree of {size} leaves does not extend one of {old_size}")
        if old_size in (0, size):
            return []
        proof: list[bytes] = []
        begin, end, known = 0, size, True
        while end != old_size:
            split = begin + _split(end - begin)
            if old_size <= split:
                proof.append(self._range(split, end))
                end = split
            else:
                proof.append(self._range(begin, split))
                begin, known = split, False
        return ([] if known else [self._range(begin, end)]) + proof[::-1]

    def nodes(self, level: int) -> Sequence[bytes]:
        """The hashes of the complete subtrees of 2^`level` leaves, from the left; what tiles on disk are cut from."""
        return self._levels[level] if level < len(self._levels) else ()

    def _checked(self, size: int | None) -> int:
        if size is None:
            return len(self)
        if not 0 <= size <= len(self):
            raise IndexError(f"the tree has {len(self)} leaves, not {size}")
        return size

    def _range(self, begin: int, end: int) -> bytes:
        """The hash of the subtree over leaves `begin` up to `end`, one of those that RFC 6962 splits a tree into."""
        width = end - begin
        if width & (width - 1) == 0:
            level = width.bit_length() - 1
            return self._levels[level][begin >> level]
        split = begin + _split(width)
        return node_hash(self._range(begin, split), self._range(split, end))


def root(leaves: Iterable[bytes]) -> bytes:
    """32 bytes: the root over leaf hashes."""
    return Tree(leaves).root()


def inclusion_path(leaves: Iterable[bytes], index: int) -> list[bytes]:
    """The proof that leaf `index` is under the root over `leaves` (leaf hashes). Raises `IndexError`."""
    return Tree(leaves).inclusion_path(index)


def consistency_proof(leaves: Iterable[bytes], old_size: int) -> list[bytes]:
    """The proof that the tree over `leaves` (leaf hashes) extends the one over the first `old_size` of them."""
    return Tree(leaves).consistency_proof(old_size)


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes, *, layer: str = "merkle"
) -> None:
    """Raise `VerificationError` (`inclusion`) unless `leaf`, a leaf hash, is leaf `index` of the tree of `size`."""
    if not 0 <= index < size:
        raise VerificationError(layer, "inclusion", expected=f"an index below the tree's size {size}", found=index)
    expected = _path_length(index, size)
    if len(path) != expected or any(len(node) != HASH_BYTES for node in path):
        raise VerificationError(
            layer, "inclusion", expected=f"a path of {expected} hashes of 32 bytes", found=f"{len(path)} nodes"
        )
    node, position, last = leaf, index, size - 1
    for sibling in path:
        if position % 2 or position == last:
            node = node_hash(sibling, node)
            while position % 2 == 0 and position:
                position, last = position >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        position, last = position >> 1, last >> 1
    if node != root:
        raise VerificationError(layer, "inclusion", expected=f"the root {root.hex()}", found=node.hex())


def verify_consistency(
    old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes], *, layer: str = "merkle"
) -> None:
    """Raise `VerificationError` (`consistency`) unless the tree of `size` leaves extends the one of `old_size`."""

    def refuse(expected: object, found: object) -> VerificationError:
        return VerificationError(layer, "consistency", expected=expected, found=found)

    if not 0 <= old_size <= size:
        raise refuse(f"a tree of at least {old_size} leaves", size)
    if any(len(node) != HASH_BYTES for node in proof):
        raise refuse("hashes of 32 bytes", "others")
    if old_size in (0, size):
        wanted = EMPTY_ROOT if old_size == 0 else root
        if proof:
            raise refuse("an empty proof", f"{len(proof)} hashes")
        if old_root != wanted:
            raise refuse(f"the root {wanted.hex()}", old_root.hex())
        return
    # A complete old tree is a node of the new one, and its own root starts the proof.
    nodes = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not nodes:
        raise refuse("a proof", "none")
    position, last = old_size - 1, size - 1
    while position % 2:
        position, last = position >> 1, last >> 1
    old, new = nodes[0], nodes[0]
    for node in nodes[1:]:
        if last == 0:
            raise refuse("a shorter proof", f"{len(proof)} hashes")
        if position % 2 or position == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while position % 2 == 0 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, node)
        position, last = position >> 1, last >> 1
    if last:
        raise refuse("a longer proof", f"{len(proof)} hashes")
    if old != old_root:
        raise refuse(f"the old root {old_root.hex()}", old.hex())
    if new != root:
        raise refuse(f"the new root {root.hex()}", new.hex())


def _split(width: int) -> int:
    """The largest power of two below `width`, which is at least 2."""
    return 1 << ((width - 1).bit_length() - 1)


def _path_length(index: int, size: int) -> int:
    inner = (index ^ (size - 1)).bit_length()
    return inner + (index >> inner).bit_count()
