"""The self-test: computes the same logits in every way that a run may compute them, and compares every bit.

It runs in the run's own context, on the pinned model and this host, before the first sample. The sequence is a fixed
pseudo-random one, long enough to pass from the engine's narrow kernels to its wide ones and back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from appliance.runtime.context import Context, Logits, Piece
from attest.determinism import CELLS, Cell, SelfTest

TOKENS = 96
"""Length of the sequence: past the 64 rows at which an engine goes over to its widest kernels."""
CHUNKS = (1, 2, 3, 5, 7, 9, 16, 17, 31)
KEPT = 41
"""Where a prefix is cut: inside every block that an engine may work in."""
MOST_MATES = 15

Rows = list[Logits]


def run(context: Context, model: str, *, threads: int) -> SelfTest:
    """The report on `model` in `context`, which is left empty. `threads` is what the run uses."""
    bench = _Bench(context, threads)
    expected = bench.plain(0)
    fingerprint = hashlib.sha256()
    for row in expected:
        fingerprint.update(row.data)
    context.clear()
    cells = []
    for name in CELLS:
        first, found = bench.ways[name]()
        pairs = zip(expected[first:], found, strict=True)
        differing = sum(not np.array_equal(a.view(np.uint32), b.view(np.uint32)) for a, b in pairs)
        cells.append(Cell(cell=name, rows=len(found), differing=differing))
        context.clear()
    return SelfTest(model=model, fingerprint="sha256:" + fingerprint.hexdigest(), cells=tuple(cells))


def sequence(vocabulary: int, count: int, salt: int = 0) -> list[int]:
    """`count` token ids, the same for every model with this size of vocabulary."""
    ids = []
    for i in range(count):
        draw = hashlib.sha256(b"vitrine/selftest/v1" + salt.to_bytes(4, "big") + i.to_bytes(4, "big")).digest()
        ids.append(int.from_bytes(draw[:8], "big") % vocabulary)
    return ids


class _Bench:
    """The ways. Each returns the index of its first row and the rows from there on."""

    def __init__(self, context: Context, threads: int) -> None:
        self._context = context
        self._threads = threads
        self._count = min(TOKENS, context.slot_tokens - 1, context.batch_tokens)
        self._kept = min(KEPT, self._count // 2)
        self._ids = self._sequence(0, self._count)
        self.ways: dict[str, Callable[[], tuple[int, Rows]]] = {
            "repeat": lambda: (0, self.plain(0)),
            "decode": lambda: (0, self._pieces(0, [1] * self._count)),
            "chunks": lambda: (0, self._pieces(0, list(self._uneven()))),
            "mates": self._mates,
            "mates-decode": self._mates_decode,
            "slot": lambda: (0, self.plain(self._context.slots - 1)),
            "reuse": self._reuse,
            "prefix": self._prefix,
            "rollback": self._rollback,
            "threads": self._other_threads,
        }

    def plain(self, slot: int) -> Rows:
        """The reference: all tokens in one piece, alone, in an empty slot."""
        return self._pieces(slot, [self._count])

    def _mates(self) -> tuple[int, Rows]:
        half = self._count // 2
        first = self._beside(half)
        rest = self._pieces(0, [self._count - half], at=half)
        return 0, first + rest

    def _mates_decode(self) -> tuple[int, Rows]:
        half = self._count // 2
        self._beside(half)
        rows = []
        for at in range(half, self._count):
            pieces = [Piece(0, at, self._ids[at : at + 1], 0)]
            pieces += [
                Piece(mate, self._mate_length(mate) + at - half, self._ids[at : at + 1], 1)
                for mate in self._mate_slots()
            ]
            rows += _copied(self._context.decode(pieces)[0])
        return half, rows

    def _reuse(self) -> tuple[int, Rows]:
        longer = self._sequence(1, min(self._count + 24, self._context.slot_tokens, self._context.batch_tokens))
        self._context.decode([Piece(0, 0, longer, len(longer))])
        self._context.trim(0, 0)
        return 0, self.plain(0)

    def _prefix(self) -> tuple[int, Rows]:
        self.plain(0)
        self._context.copy(0, 1)
        self._context.trim(1, self._kept)
        return self._kept, self._pieces(1, [self._count - self._kept], at=self._kept)

    def _rollback(self) -> tuple[int, Rows]:
        self._pieces(0, [self._kept])
        other = self._sequence(2, 13)[: self._count - self._kept]
        self._context.decode([Piece(0, self._kept, other, len(other))])
        self._context.trim(0, self._kept)
        return self._kept, self._pieces(0, [1, self._count - self._kept - 1], at=self._kept)

    def _other_threads(self) -> tuple[int, Rows]:
        self._context.set_threads(1 if self._threads > 1 else 2)
        try:
            return 0, self._pieces(0, [self._count - 2, 1, 1])
        finally:
            self._context.set_threads(self._threads)

    def _beside(self, count: int) -> Rows:
        """The first `count` tokens in slot 0, in one batch with sequences of other lengths in other slots."""
        pieces = [Piece(0, 0, self._ids[:count], 0)]
        for mate in self._mate_slots():
            length = self._mate_length(mate)
            pieces.append(Piece(mate, 0, self._sequence(2 + mate, length), length))
        return _copied(self._context.decode(pieces)[0])

    def _mate_slots(self) -> range:
        room = (self._context.batch_tokens - self._count // 2) // 24
        return range(1, min(self._context.slots, 1 + MOST_MATES, 1 + room))

    def _mate_length(self, mate: int) -> int:
        return min(3 + 5 * mate % 20, self._context.slot_tokens - self._count // 2 - 2)

    def _uneven(self) -> Iterator[int]:
        left, turn = self._count, 0
        while left:
            length = min(CHUNKS[turn % len(CHUNKS)], left)
            left, turn = left - length, turn + 1
            yield length

    def _pieces(self, slot: int, lengths: Sequence[int], at: int = 0) -> Rows:
        """The tokens from `at` on, in pieces of these lengths; a copy of each of their rows."""
        rows: Rows = []
        for length in lengths:
            rows += _copied(self._context.decode([Piece(slot, at, self._ids[at : at + length], 0)])[0])
            at += length
        return rows

    def _sequence(self, salt: int, count: int) -> list[int]:
        return sequence(self._context.model.vocabulary, count, salt)


def _copied(rows: Rows) -> Rows:
    return [row.copy() for row in rows]
