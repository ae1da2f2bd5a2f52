"""Mutations of bytes for property tests. `VITRINE_MUTATIONS` says how many; CI has a few hundred."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

MUTATIONS = settings(
    max_examples=int(os.environ.get("VITRINE_MUTATIONS", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with one to four changes: bits flipped, bytes replaced, cut out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "copy", "insert", "end"]))
        if kind == "flip" and changed:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and changed:
            changed[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x5F, 0x9F, 0xBF, 0xF6, 0x1B]))
        elif kind == "cut":
            del changed[at : at + draw(st.integers(1, 64))]
        elif kind == "copy":
            changed[at:at] = changed[at : at + draw(st.integers(1, 64))]
        elif kind == "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del changed[at:]
    return bytes(changed)
