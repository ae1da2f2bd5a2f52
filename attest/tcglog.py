"""The firmware's event log (TCG PC Client, crypto-agile form), as Linux hands it out.

A log is a claim: it counts only when it replays to the registers of a quote. The parser is strict and bounded; it
refuses a log without SHA-256 digests, unknown algorithms, and bytes left over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from attest.digest import sha256
from attest.errors import MalformedInput

WHAT = "TCG event log"
SHA256 = 0x000B
NO_ACTION = 3
"""An event that says something and extends nothing."""
MAX_BYTES = 1 << 20
MAX_EVENTS = 4096
MAX_ALGORITHMS = 8
SIGNATURE = b"Spec ID Event03\0"


@dataclass(frozen=True)
class Event:
    """One event of the log."""

    register: int
    """The register that it extends."""
    kind: int
    """Its type, as TCG numbers them."""
    digest: bytes
    """The SHA-256 digest that the register was extended by, 32 bytes."""
    data: bytes
    """What the firmware says that it measured; not always what was hashed."""


def parse(data: bytes) -> tuple[Event, ...]:
    """The events in `data`, without those that extend nothing. Raises `MalformedInput`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    reader = _Reader(data)
    sizes = _algorithms(reader)
    events: list[Event] = []
    while reader.left():
        register, kind, count = reader.numbers("III")
        if count > len(sizes) or register >= 24 or len(events) >= MAX_EVENTS:
            raise MalformedInput(WHAT, f"expected an event at offset {reader.at}, found other bytes")
        digests = {}
        for _ in range(count):
            (algorithm,) = reader.numbers("H")
            if algorithm not in sizes:
                raise MalformedInput(WHAT, f"expected an algorithm of the header, found {algorithm:#06x}")
            digests[algorithm] = reader.take(sizes[algorithm])
        content = reader.take(*reader.numbers("I"))
        if kind == NO_ACTION:
            continue
        if SHA256 not in digests:
            raise MalformedInput(WHAT, f"expected a SHA-256 digest of event {len(events)}, found none")
        events.append(Event(register, kind, digests[SHA256], content))
    return tuple(events)


def replay(events: Iterable[Event]) -> dict[int, bytes]:
    """The registers that `events` extend, and their values of 32 bytes."""
    values: dict[int, bytes] = {}
    for event in events:
        values[event.register] = sha256(values.get(event.register, bytes(32)), event.digest)
    return values


def _algorithms(reader: _Reader) -> dict[int, int]:
    """Digest sizes by algorithm, from the first event, which has the old form."""
    register, kind = reader.numbers("II")
    reader.take(20)
    header = _Reader(reader.take(*reader.numbers("I")))
    if (register, kind) != (0, NO_ACTION) or header.take(16) != SIGNATURE:
        raise MalformedInput(WHAT, "expected the header of a crypto-agile log")
    header.take(8)
    (count,) = header.numbers("I")
    if not 0 < count <= MAX_ALGORITHMS:
        raise MalformedInput(WHAT, f"expected 1 to {MAX_ALGORITHMS} algorithms, found {count}")
    pairs = [header.numbers("HH") for _ in range(count)]
    sizes = {pair[0]: pair[1] for pair in pairs}
    if sizes.get(SHA256) != 32 or any(not 20 <= size <= 64 for size in sizes.values()):
        raise MalformedInput(WHAT, f"expected digest sizes, SHA-256 among them, found {sizes}")
    return sizes


class _Reader:
    """Takes little-endian numbers and bytes from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def left(self) -> int:
        return len(self._data) - self.at

    def take(self, count: int) -> bytes:
        if count > self.left():
            raise MalformedInput(WHAT, f"expected {count} bytes at offset {self.at}, found {self.left()}")
        self.at += count
        return self._data[self.at - count : self.at]

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))
