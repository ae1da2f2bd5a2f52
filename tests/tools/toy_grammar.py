"""A small vocabulary, and what a grammar allows over it."""

from __future__ import annotations

import numpy as np

from appliance.runtime.grammar import Constraint, Grammars, Pieces

END = 0
WORDS = [
    "",
    *map(chr, range(32, 127)),
    "\n",
    "\t",
    "ab",
    "abc",
    "yes",
    "no",
    '{"',
    '":',
    " true",
    "é",
    "日本",
    "\U0001f600",
]
BYTES = [bytes([byte]) for byte in range(127, 256)]
TEXTS = [word.encode() for word in WORDS] + BYTES
PIECES = Pieces.of(TEXTS, np.arange(len(TEXTS)) == END)
LOGITS = np.linspace(-1, 1, len(TEXTS), dtype=np.float32)


def constraint(text: str) -> Constraint:
    return Grammars(PIECES).constraint(text)


def allowed(state: Constraint) -> set[bytes | None]:
    """What may come next; None is the end."""
    masked = state.mask(LOGITS)
    found = np.flatnonzero(np.isfinite(masked))
    assert (masked[found] == LOGITS[found]).all()
    assert all(state.permits(token) == (token in set(found.tolist())) for token in range(len(TEXTS)))
    return {None if token == END else TEXTS[token] for token in found.tolist()}


def accepts(text: str, said: str) -> bool:
    """Whether the grammar allows exactly `said`, byte by byte."""
    state = constraint(text)
    for byte in said.encode():
        token = TEXTS.index(bytes([byte]))
        if not state.permits(token):
            return False
        state.accept(token)
    return state.permits(END)
