"""As much of Protocol Buffers' wire format as vectors need: the fields of one message."""

from __future__ import annotations


def fields(data: bytes) -> dict[int, list[bytes]]:
    """The length-delimited fields of a message, by number; others are passed over."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 2:
            size, at = _varint(data, at)
            found.setdefault(tag >> 3, []).append(data[at : at + size])
            at += size
        else:
            raise ValueError(f"expected a varint or bytes at {at}, found wire type {kind}")
    return found


def at(data: bytes, *path: int) -> bytes:
    """The bytes of the one field at `path`, a number for each level."""
    for number in path:
        (data,) = fields(data)[number]
    return data


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
