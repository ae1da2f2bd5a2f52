"""Holds a generation to a grammar: which tokens may come next, given the tokens so far.

A text is read byte by byte by a set of stacks of places in the rules (a pushdown automaton, all readings at once).
Sets of stacks are numbered, and the step from one to the next by each byte is a table that fills as it is used, so all
tokens of the vocabulary are tried together in NumPy. The tables are a cache that all generations of a model share and
that is emptied when it is full: what a token may be depends on the grammar and on the text alone, and so do all limits.

Assumes a parsed grammar without left recursion (`appliance.runtime.gbnf`). No call of the engine is involved but
reading the vocabulary: llama.cpp's own matcher aborts the process or never returns on some grammars.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.runtime import gbnf
from appliance.runtime.gbnf import GrammarError

MAX_STACKS = 500
"""Ways in which one text may be read at once."""
MAX_WORK = 20_000
"""Stacks that one step may look at, over all bytes."""
MAX_NESTING = 256
"""Rules inside rules; a text that nests deeper is not in the language."""
MAX_SETS_A_MASK = 2048
"""Sets of stacks that the tokens of one mask may lead to."""
CACHED_SETS = 8192
CACHED_STACKS = 500_000
CACHED_MASKS = 256
CACHED_GRAMMARS = 16
MAX_PIECE_BYTES = 4096

DEAD, UNKNOWN = -1, -2
BOTTOM = 0
END = -1

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Pieces:
    """The bytes of every token of a vocabulary, end to end."""

    data: NDArray[np.uint8]
    """All bytes."""
    starts: NDArray[np.int64]
    """Where each token's bytes begin."""
    lengths: NDArray[np.int64]
    """How many there are; 0 for tokens that are not text, which a grammar never allows."""
    ends: Mask
    """The tokens that end a generation."""

    @classmethod
    def read(cls, library: Any, vocab: Any) -> Pieces:
        """The vocabulary behind a `llama_vocab *`, as text is made of it: control tokens are empty."""
        count = int(library.llama_vocab_n_tokens(vocab))
        buffer, texts = ctypes.create_string_buffer(MAX_PIECE_BYTES), []
        for token in range(count):
            length = int(library.llama_token_to_piece(vocab, token, buffer, MAX_PIECE_BYTES, 0, False))
            texts.append(buffer.raw[:length] if length > 0 else b"")
        ends = np.array([bool(library.llama_vocab_is_eog(vocab, token)) for token in range(count)])
        return cls.of(texts, ends)

    @classmethod
    def of(cls, texts: list[bytes], ends: Mask) -> Pieces:
        """A vocabulary of these tokens; those in `ends` are never text."""
        lengths = np.array([0 if end else len(text) for text, end in zip(texts, ends, strict=True)], dtype=np.int64)
        kept = b"".join(text for text, end in zip(texts, ends, strict=True) if not end)
        return cls(np.frombuffer(kept, dtype=np.uint8), np.cumsum(lengths) - lengths, lengths, ends)

    def text(self, token: int) -> bytes:
        """The bytes of one token."""
        return self.data[self.starts[token] : self.starts[token] + self.lengths[token]].tobytes()


class Grammars:
    """The grammars in use on one model: `constraint` makes the state of one generation."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._known: OrderedDict[str, Automaton] = OrderedDict()

    def constraint(self, text: str) -> Constraint:
        """The GBNF grammar `text` at its beginning. Raises `GrammarError`."""
        if text not in self._known:
            self._known[text] = Automaton(gbnf.parse(text), self._pieces)
        self._known.move_to_end(text)
        if len(self._known) > CACHED_GRAMMARS:
            self._known.popitem(last=False)
        return Constraint(self._known[text])


class Constraint:
    """What one generation may say next. Independent of every other, whatever they share."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._tokens: list[int] = []
        self._epoch = -1
        self._place = DEAD

    def permits(self, token: int) -> bool:
        """Whether `token` may come next. Raises `GrammarError` where the text can be read in too many ways."""
        place, automaton = self._now(), self._automaton
        if automaton.pieces.ends[token]:
            return automaton.complete(place)
        return automaton.pieces.lengths[token] > 0 and automaton.walk(place, token) != DEAD

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of `logits` (one a token) with minus infinity wherever a token may not come next.

        Raises `GrammarError` if none may, or if the text can be read in too many ways.
        """
        allowed = self._automaton.allowed(self._now())
        if not allowed.any():
            raise GrammarError("the grammar wants a text here that no token of the vocabulary goes on with")
        return np.where(allowed, logits, np.float32(-np.inf))

    def accept(self, token: int) -> None:
        """Go on to after `token`. Raises `GrammarError` unless it is permitted and not an end."""
        place = DEAD if self._automaton.pieces.lengths[token] == 0 else self._automaton.walk(self._now(), token)
        if place == DEAD:
            raise GrammarError(f"expected a token that the grammar allows, found {token}")
        self._tokens.append(token)
        self._place = place

    def _now(self) -> int:
        """The number of the set of stacks after the tokens so far."""
        epoch = self._automaton.refresh()
        if self._epoch != epoch:
            self._epoch, self._place = epoch, self._automaton.start
            for token in self._tokens:
                self._place = self._automaton.walk(self._place, token)
        return self._place


class Automaton:
    """The table of steps of one grammar over one vocabulary, as far as it was needed so far.

    A place in the rules is an index into `_symbols`. A stack is a pair of a place and the stack below it, and has a
    number; the empty one is `BOTTOM`. A set of stacks has a number as well: its row in the table.
    """

    def __init__(self, grammar: gbnf.Grammar, pieces: Pieces) -> None:
        self.pieces = pieces
        self._symbols: list[gbnf.Symbol] = []
        self._starts: list[list[int]] = []
        for alternatives in grammar.rules:
            self._starts.append([])
            for sequence in alternatives:
                self._starts[-1].append(len(self._symbols))
                self._symbols += [*sequence, END]
        self._root = grammar.root
        self._epoch = 0
        self._clear()

    def refresh(self) -> int:
        """Empty the tables if they are full; the number of times that this has happened."""
        if len(self._sets) > CACHED_SETS or self._members + len(self._stacks) > CACHED_STACKS:
            self._epoch += 1
            self._clear()
        return self._epoch

    def complete(self, place: int) -> bool:
        """Whether the text may end here."""
        return place != DEAD and BOTTOM in self._sets[place]

    def walk(self, place: int, token: int) -> int:
        """The set of stacks after the bytes of `token`, or `DEAD`."""
        for byte in self.pieces.text(token):
            if place == DEAD:
                break
            place = int(self._row(place)[byte])
        return place

    def allowed(self, place: int) -> Mask:
        """Which tokens may come next."""
        if place not in self._masks:
            if len(self._masks) >= CACHED_MASKS:
                self._masks.clear()
            self._masks[place] = self._try_all(place)
        return self._masks[place]

    def _try_all(self, place: int) -> Mask:
        allowed = self.pieces.ends & self.complete(place)
        tokens = np.flatnonzero(self.pieces.lengths)
        places = np.full(len(tokens), place, dtype=np.int32)
        seen: set[int] = set()
        for depth in range(int(self.pieces.lengths.max(initial=0))):
            wanted = set(np.unique(places).tolist())
            seen |= wanted
            if len(seen) > MAX_SETS_A_MASK:
                raise GrammarError(f"expected tokens to lead to at most {MAX_SETS_A_MASK} states, found more")
            for number in wanted:
                self._row(number)
            places = self._table[places, self.pieces.data[self.pieces.starts[tokens] + depth]]
            alive = places != DEAD
            tokens, places = tokens[alive], places[alive]
            whole = self.pieces.lengths[tokens] == depth + 1
            allowed[tokens[whole]] = True
            tokens, places = tokens[~whole], places[~whole]
        return allowed

    # -- sets of stacks -----------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        self._stacks: list[tuple[int, int]] = [(END, BOTTOM)]
        self._heights = [0]
        self._stack_numbers: dict[tuple[int, int], int] = {}
        self._after: dict[int, frozenset[int]] = {}
        self._sets: list[frozenset[int]] = []
        self._set_numbers: dict[frozenset[int], int] = {}
        self._members = 0
        self._table = np.full((64, 256), UNKNOWN, dtype=np.int32)
        self._masks: dict[int, Mask] = {}
        first: set[int] = set()
        for at in self._starts[self._root]:
            first |= self._closed(at, BOTTOM)
        self.start = self._set(frozenset(first))
        if self.start == DEAD:
            raise GrammarError(f"expected rules at most {MAX_NESTING} deep, found none at the start of a text")

    def _row(self, number: int) -> NDArray[np.int32]:
        """The numbers of the sets after each byte."""
        if self._table[number, 0] == UNKNOWN:
            self._table[number] = self._steps(self._sets[number])
        row: NDArray[np.int32] = self._table[number]
        return row

    def _steps(self, stacks: frozenset[int]) -> NDArray[np.int32]:
        ranges = [(*self._symbols[self._stacks[stack][0]], stack) for stack in stacks if stack != BOTTOM]  # type: ignore[misc]
        edges = sorted({0, 256, *(first for first, _, _ in ranges), *(last + 1 for _, last, _ in ranges)})
        places = {edge: place for place, edge in enumerate(edges)}
        following: list[set[int]] = [set() for _ in edges]
        work = 0
        for first, last, stack in ranges:
            after = self._following(stack)
            work += len(after) * (places[last + 1] - places[first])
            if work > MAX_WORK:
                raise GrammarError(f"expected at most {MAX_WORK} readings to compare for one byte, found more")
            for place in range(places[first], places[last + 1]):
                following[place] |= after
        row = np.full(256, DEAD, dtype=np.int32)
        for (low, high), found in zip(pairwise(edges), following, strict=False):
            row[low:high] = self._set(frozenset(found))
        return row

    def _set(self, stacks: frozenset[int]) -> int:
        if not stacks:
            return DEAD
        if len(stacks) > MAX_STACKS:
            raise GrammarError(f"expected a text that can be read in at most {MAX_STACKS} ways, found more")
        number = self._set_numbers.setdefault(stacks, len(self._sets))
        if number == len(self._sets):
            self._sets.append(stacks)
            self._members += len(stacks)
            if number == len(self._table):
                self._table = np.concatenate([self._table, np.full_like(self._table, UNKNOWN)])
        return number

    def _following(self, stack: int) -> frozenset[int]:
        """The stacks after the byte that `stack` waits for."""
        if stack not in self._after:
            at, below = self._stacks[stack]
            self._after[stack] = frozenset(self._closed(at + 1, below))
        return self._after[stack]

    def _closed(self, at: int, below: int) -> set[int]:
        """Every stack that waits for a byte, or is empty, when the place `at` is reached on top of `below`."""
        found: set[int] = set()
        seen = {(at, below)}
        todo = [(at, below)]
        while todo:
            at, below = todo.pop()
            symbol = self._symbols[at]
            if isinstance(symbol, tuple):
                found.add(self._stack(at, below))
                continue
            if symbol == END:
                if below == BOTTOM:
                    found.add(BOTTOM)
                    continue
                steps = [self._stacks[below]]
            else:
                if self._symbols[at + 1] != END:  # else nothing is left to do after the rule
                    below = self._stack(at + 1, below)
                if self._heights[below] > MAX_NESTING:
                    continue
                steps = [(start, below) for start in self._starts[symbol]]
            new = [step for step in steps if step not in seen]
            seen.update(new)
            todo += new
            if len(seen) > MAX_WORK:
                raise GrammarError(f"expected at most {MAX_WORK} ways to go on from one place, found more")
        return found

    def _stack(self, at: int, below: int) -> int:
        number = self._stack_numbers.setdefault((at, below), len(self._stacks))
        if number == len(self._stacks):
            self._stacks.append((at, below))
            self._heights.append(self._heights[below] + 1)
        return number
