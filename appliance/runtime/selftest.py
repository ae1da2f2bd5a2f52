"""The self-test: computes the same logits in every way that a run may compute them, and compares every bit.

It runs in the run's own context, on the pinned model and this host, after the first request and before the second; what
the context held is given up. The sequence is a fixed pseudo-random one, long enough to pass from the engine's narrow
kernels to its widest ones and back. The cells are one tour: each begins with what the one before left in the slots, so
that little is computed twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from appliance.runtime.context import Context, Logits, Piece
from attest.determinism import CELLS, Cell, SelfTest

TOKENS = 72
"""Length of the sequence: past the 64 rows at which an engine goes over to its widest kernels."""
KEPT = 41
"""Where a prefix is cut: inside every block that an engine may work in."""
HALF = TOKENS // 2
OTHERS = 13
"""Length of the sequences that are in the way."""
CHUNKS = (1, 2, 3, 5, 7, 9, 16, 17)
SINGLES = 31
"""Tokens that are decoded one by one."""
TURNS = 8
"""Turns in which all slots decode one token each."""
MOST_MATES = 15

Rows = list[Logits]


def run(context: Context, model: str, *, threads: int) -> SelfTest:
    """The report on `model` in `context`, which is emptied before and after. `threads` is what the run uses.

    The context has two slots or more, of more than `TOKENS` tokens, and decodes as many at a time.
    """
    context.clear()
    tour = _Tour(context, threads)
    expected = tour.plain(0)
    context.clear()
    cells = []
    for name in CELLS:
        first, found = tour.stations[name]()
        pairs = zip(expected[first : first + len(found)], found, strict=True)
        differing = sum(not np.array_equal(a.view(np.uint32), b.view(np.uint32)) for a, b in pairs)
        cells.append(Cell(cell=name, rows=len(found), differing=differing))
    context.clear()
    fingerprint = hashlib.sha256()
    for row in expected:
        fingerprint.update(row.data)
    return SelfTest(model=model, fingerprint="sha256:" + fingerprint.hexdigest(), cells=tuple(cells))


def sequence(vocabulary: int, count: int, salt: int = 0) -> list[int]:
    """`count` token ids, the same for every model with this size of vocabulary."""
    ids = []
    for i in range(count):
        draw = hashlib.sha256(b"vitrine/selftest/v1" + salt.to_bytes(4, "big") + i.to_bytes(4, "big")).digest()
        ids.append(int.from_bytes(draw[:8], "big") % vocabulary)
    return ids


class _Tour:
    """The stations. Each returns the index of its first row and the rows from there on."""

    def __init__(self, context: Context, threads: int) -> None:
        self._context = context
        self._threads = threads
        self._ids = self._sequence(0, TOKENS)
        self.stations: dict[str, Callable[[], tuple[int, Rows]]] = {
            "repeat": lambda: (0, self.plain(0)),
            "prefix": self._prefix,
            "rollback": self._rollback,
            "slot": self._slot,
            "decode": self._decode,
            "chunks": lambda: (0, self._pieces(0, list(self._uneven()))),
            "mates": self._mates,
            "mates-decode": self._mates_decode,
            "threads": self._other_threads,
        }

    def plain(self, slot: int) -> Rows:
        """The reference: all tokens in one piece, alone, in an empty slot."""
        return self._pieces(slot, [TOKENS])

    def _prefix(self) -> tuple[int, Rows]:
        self._context.copy(0, 1)
        return KEPT, self._pieces(1, [TOKENS - KEPT], at=KEPT)

    def _rollback(self) -> tuple[int, Rows]:
        self._occupy(1, KEPT)
        return KEPT, self._pieces(1, [1, TOKENS - KEPT - 1], at=KEPT)

    def _slot(self) -> tuple[int, Rows]:
        last = self._context.slots - 1
        self._occupy(last, 0)
        return 0, self.plain(last)

    def _decode(self) -> tuple[int, Rows]:
        first = TOKENS - SINGLES
        return first, self._pieces(0, [1] * (TOKENS - first), at=first)

    def _mates(self) -> tuple[int, Rows]:
        self._context.clear()
        pieces = [Piece(0, 0, self._ids[:HALF], 0)]
        for mate in self._mate_slots():
            length = _mate_length(mate)
            pieces.append(Piece(mate, 0, self._sequence(2 + mate, length), length))
        rows = _copied(self._context.decode(pieces)[0])
        return 0, rows + self._pieces(0, [TOKENS - HALF], at=HALF)

    def _mates_decode(self) -> tuple[int, Rows]:
        self._context.trim(0, HALF)
        rows = []
        for turn in range(TURNS):
            at = HALF + turn
            token = self._ids[at : at + 1]
            pieces = [Piece(0, at, token, 0)]
            pieces += [Piece(mate, _mate_length(mate) + turn, token, 1) for mate in self._mate_slots()]
            rows += _copied(self._context.decode(pieces)[0])
        return HALF, rows

    def _other_threads(self) -> tuple[int, Rows]:
        self._context.set_threads(1 if self._threads > 1 else 2)
        try:
            return 0, self._pieces(0, [TOKENS - 2, 1, 1])
        finally:
            self._context.set_threads(self._threads)

    def _occupy(self, slot: int, length: int) -> None:
        """Put other tokens behind the first `length` of `slot`."""
        self._context.trim(slot, length)
        others = self._sequence(1, OTHERS)
        self._context.decode([Piece(slot, length, others, len(others))])

    def _mate_slots(self) -> range:
        """The slots beside the first, as far as a batch has room for them."""
        return range(1, min(self._context.slots, 1 + MOST_MATES, 1 + (self._context.batch_tokens - HALF) // 24))

    def _uneven(self) -> Iterator[int]:
        left, turn = TOKENS, 0
        while left:
            length = min(CHUNKS[turn % len(CHUNKS)], left)
            left, turn = left - length, turn + 1
            yield length

    def _pieces(self, slot: int, lengths: Sequence[int], at: int = 0) -> Rows:
        """The tokens from `at` on, behind the first `at` of `slot`, in pieces of these lengths; their rows, copied."""
        self._context.trim(slot, at)
        rows: Rows = []
        for length in lengths:
            rows += _copied(self._context.decode([Piece(slot, at, self._ids[at : at + length], 0)])[0])
            at += length
        return rows

    def _sequence(self, salt: int, count: int) -> list[int]:
        return sequence(self._context.model.vocabulary, count, salt)


def _mate_length(mate: int) -> int:
    return 3 + 5 * mate % 20


def _copied(rows: Rows) -> Rows:
    return [row.copy() for row in rows]
