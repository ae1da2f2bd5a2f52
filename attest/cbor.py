"""Strict CBOR in (RFC 8949): what COSE and attestation documents are made of, and nothing else.

`loads` returns integers, byte strings, texts, lists, dictionaries, `Tagged`, booleans and None. It refuses what
decoders disagree on: duplicate keys, numbers not in their shortest form, strings and arrays of indefinite length,
trailing bytes, nesting beyond `MAX_DEPTH`. Maps of indefinite length are read where the caller says so. Floats and
other simple values are `Unsupported`: no format read here has them. General decoders keep the last of two equal keys
and act on tags (dates, regular expressions, shared references), so this one is our own.

`dumps` writes the same values in their shortest form, keys in the order given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attest.errors import MalformedInput, Unsupported

MAX_DEPTH = 8
"""Levels of arrays, maps and tags: a document of any platform has at most four."""

UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)
"""The major types, RFC 8949 section 3.1."""
INDEFINITE = 31
BREAK = 0xFF
SIMPLE_VALUES = {20: False, 21: True, 22: None}
SHORTEST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
"""The smallest number that needs the length which this additional information announces."""

CBOR = Any
"""What `loads` returns."""


@dataclass(frozen=True)
class Tagged:
    """A tagged value, RFC 8949 section 3.4; no tag is acted upon."""

    tag: int
    """The tag's number."""
    value: CBOR
    """What is tagged."""


def loads(data: bytes, what: str, *, indefinite_maps: bool = False) -> CBOR:
    """The one value that `data` is. Raises `MalformedInput` or `Unsupported`, whose subject is `what`."""
    reader = _Reader(data, what, indefinite_maps)
    value = reader.value(MAX_DEPTH)
    if reader.offset != len(data):
        raise MalformedInput(what, f"expected {reader.offset} bytes of CBOR, found {len(data)}")
    return value


class _Reader:
    """A place in the bytes; every read moves it on or raises."""

    def __init__(self, data: bytes, what: str, indefinite_maps: bool) -> None:
        self.data, self.what, self.indefinite_maps = data, what, indefinite_maps
        self.offset = 0

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        end = self.offset + length
        if end > len(self.data):
            raise self.malformed(f"expected {length} more bytes, found {len(self.data) - self.offset}")
        taken = self.data[self.offset : end]
        self.offset = end
        return taken

    def value(self, depth: int) -> CBOR:
        """The next value, of at most `depth` levels."""
        if depth == 0:
            raise self.malformed(f"expected at most {MAX_DEPTH} levels, found more")
        major, info = divmod(self.take(1)[0], 32)
        if major == MAP and info == INDEFINITE and self.indefinite_maps:
            return self.pairs(None, depth)
        if major == SIMPLE:
            if info not in SIMPLE_VALUES:
                raise Unsupported(self.what, f"offset {self.offset - 1}: simple value or float {info}")
            return SIMPLE_VALUES[info]
        number = self.number(info)
        if major == UNSIGNED:
            return number
        if major == NEGATIVE:
            return -1 - number
        if major == BYTES:
            return self.take(number)
        if major == TEXT:
            return self.text(number)
        if major == ARRAY:
            return [self.value(depth - 1) for _ in range(number)]
        if major == MAP:
            return self.pairs(number, depth)
        return Tagged(number, self.value(depth - 1))

    def number(self, info: int) -> int:
        """The number that additional information `info` holds or announces."""
        if info < 24:
            return info
        if info not in SHORTEST:
            raise self.malformed(f"expected a definite length, found additional information {info}")
        number = int.from_bytes(self.take(1 << (info - 24)), "big")
        if number < SHORTEST[info]:
            raise self.malformed(f"expected the shortest form of {number}, found a longer one")
        return number

    def text(self, length: int) -> str:
        """A text of `length` bytes of UTF-8."""
        try:
            return self.take(length).decode("utf-8", "strict")
        except UnicodeDecodeError:
            raise self.malformed("expected UTF-8, found other bytes") from None

    def pairs(self, count: int | None, depth: int) -> dict[int | str, CBOR]:
        """A map of `count` pairs, or up to the break; its keys are integers or texts."""
        pairs: dict[int | str, CBOR] = {}
        while not self.at_end(count):
            key = self.value(depth - 1)
            if isinstance(key, bool) or not isinstance(key, (int, str)):
                raise self.malformed(f"expected an integer or a text as key, found {type(key).__name__}")
            if key in pairs:
                raise self.malformed(f"expected unique keys, found {str(key)[:80]!r} twice")
            pairs[key] = self.value(depth - 1)
            count = None if count is None else count - 1
        return pairs

    def at_end(self, count: int | None) -> bool:
        """Whether a map ends here, past its break where it has one."""
        if count is not None:
            return count == 0
        ends = self.data[self.offset : self.offset + 1] == bytes([BREAK])
        self.offset += ends
        return ends

    def malformed(self, problem: str) -> MalformedInput:
        """The error of a problem at this place."""
        return MalformedInput(self.what, f"offset {self.offset}: {problem}")


def dumps(value: CBOR) -> bytes:
    """The shortest CBOR of `value`. Raises `TypeError` for what `loads` would not return."""
    if value is None or isinstance(value, bool):
        return _head(SIMPLE, next(code for code, simple in SIMPLE_VALUES.items() if simple is value))
    if isinstance(value, int):
        return _head(UNSIGNED, value) if value >= 0 else _head(NEGATIVE, -1 - value)
    if isinstance(value, bytes):
        return _head(BYTES, len(value)) + value
    if isinstance(value, str):
        text = value.encode("utf-8")
        return _head(TEXT, len(text)) + text
    if isinstance(value, (list, tuple)):
        return _head(ARRAY, len(value)) + b"".join(map(dumps, value))
    if isinstance(value, dict):
        return _head(MAP, len(value)) + b"".join(dumps(key) + dumps(item) for key, item in value.items())
    if isinstance(value, Tagged):
        return _head(TAG, value.tag) + dumps(value.value)
    raise TypeError(f"no CBOR here for {type(value).__name__}")


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for info in (24, 25, 26, 27):
        size = 1 << (info - 24)
        if number < 1 << (8 * size):
            return bytes([major << 5 | info]) + number.to_bytes(size, "big")
    raise TypeError(f"no CBOR here for a number of {number.bit_length()} bits")
