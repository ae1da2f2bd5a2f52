"""Mutations of bytes and of JSON for property tests. `VITRINE_MUTATIONS` says how many; by default a few hundred."""

from __future__ import annotations

import base64
import copy
import json
import os
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("VITRINE_MUTATIONS", "200"))
"""Of each test that mutates."""
MUTATIONS = settings(
    max_examples=EXAMPLES,
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


HOSTILE: list[Any] = [
    None, True, 0, -1, 2**53, -(2**64), 10**40, 1.5, float("nan"), float("inf"), "", "\0", "\ud800", "A", "=",
    "x" * 70_000, [], {}, [[]], {"": {}}, "__proto__", "2026-02-30T00:00:00Z", "sha256:" + "0" * 64,
]  # fmt: skip


@st.composite
def mutated_json(draw: st.DrawFn, data: bytes) -> bytes:
    """The JSON text `data` with one to three changes: values and keys that are others, base64 of other bytes, members
    dropped, doubled or put elsewhere; at times a key twice, or brackets without end.
    """
    value = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        holder, key = draw(st.sampled_from(places))
        found = holder[key]
        kind = draw(st.sampled_from(["bytes", "bytes", "hostile", "drop", "other", "key", "list"]))
        if kind == "bytes" and isinstance(found, str):
            holder[key] = draw(_text(found))
        elif kind == "drop":
            del holder[key]
            if not value:
                return b"{}"
        elif kind == "other":
            other, name = draw(st.sampled_from(places))
            holder[key] = copy.deepcopy(other[name])
        elif kind == "key" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["", "format", "__class__", f"{key} "]))] = holder.pop(key)
        elif kind == "list" and isinstance(found, list) and found:
            found.append(copy.deepcopy(found[0]))
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
    text = json.dumps(value).encode()
    spelling = draw(st.integers(0, 15))
    if spelling == 0 and text.startswith(b'{"'):
        return text[:1] + text[1 : text.index(b":")] + b":0," + text[1:]
    if spelling == 1:
        return text.replace(b"null", b"[" * 2000, 1)
    return draw(mutated(text)) if spelling == 2 else text


@st.composite
def _text(draw: st.DrawFn, text: str) -> str:
    """Other text of the same kind: base64 or hexadecimal digits of other bytes, or other characters."""
    try:
        return draw(mutated(bytes.fromhex(text))).hex()
    except ValueError:
        pass
    try:
        return base64.b64encode(draw(mutated(base64.b64decode(text, validate=True)))).decode()
    except ValueError:
        return draw(mutated(text.encode("utf-8", "replace"))).decode("utf-8", "replace")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as what holds it and its key there."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
