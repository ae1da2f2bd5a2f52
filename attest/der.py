"""The values of DER, as far down as one has to go for a signature's place: tags, lengths, contents, nothing else.

Refuses what DER forbids: indefinite and overlong lengths, tags of several bytes, values that end beyond their data.
"""

from __future__ import annotations

from attest.errors import MalformedInput

SEQUENCE, BIT_STRING, OCTET_STRING = 0x30, 0x03, 0x04
MAX_VALUES = 64
MAX_LENGTH_BYTES = 4


def values(data: bytes, what: str) -> tuple[tuple[int, bytes], ...]:
    """Tags and contents of the values that fill `data`, 64 at most. Raises `MalformedInput` of `what`."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if len(found) == MAX_VALUES:
            raise MalformedInput(what, f"expected at most {MAX_VALUES} values in one, found more")
        tag, start, end = _value(data, at, what)
        found.append((tag, data[start:end]))
        at = end
    return tuple(found)


def _value(data: bytes, at: int, what: str) -> tuple[int, int, int]:
    """Tag, start and end of the contents of the value at this offset."""
    short = data[at + 1] if at + 1 < len(data) else 0x80
    more = max(short - 0x80, 0)
    start = at + 2 + more
    size = int.from_bytes(data[at + 2 : start], "big") if more else short
    shortest = not more or (more <= MAX_LENGTH_BYTES and size >= 0x80 and size.bit_length() > 8 * (more - 1))
    if data[at] & 0x1F == 0x1F or short == 0x80 or not shortest or start + size > len(data):
        raise MalformedInput(what, f"expected a DER value at offset {at}, found {data[at : at + 6].hex()}")
    return data[at], start, start + size
