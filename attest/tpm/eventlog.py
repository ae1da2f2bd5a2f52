"""The firmware's event log (TCG PC Client), with the banks it has digests for, and its replay to registers.

A log is a claim: it counts only as far as it replays to registers that a quote carries. Read is the crypto-agile form,
and the old form, which has SHA-1 alone. The parser is strict and bounded: every event carries a digest of each bank of
the header, and nothing follows the last one. Banks that are not known here (SM3) are stepped over.

Source: TCG PC Client Platform Firmware Profile, revision 1.06, sections 10 (event logging) and 10.4 (event types).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from attest.errors import MalformedInput
from attest.tpm.layout import HASHES, REGISTERS, SIZES, Hash
from attest.tpm.reader import Reader

WHAT: Final = "TCG event log"
NO_ACTION: Final = 0x00000003
"""An event that says something and extends nothing."""
HEADER: Final = b"Spec ID Event03\0"
LOCALITY: Final = b"StartupLocality\0"
MAX_BYTES: Final = 1 << 20
MAX_EVENTS: Final = 4096
MAX_BANKS: Final = 8
MAX_DIGEST_BYTES: Final = 64
DYNAMIC: Final = range(17, 23)
"""Registers that hold ones until a dynamic launch sets them to zero."""


@dataclass(frozen=True)
class Event:
    """One event (TCG_PCR_EVENT2, 10.2.2)."""

    register: int
    """`pcrIndex`: the register that it extends."""
    kind: int
    """`eventType`."""
    digests: Mapping[Hash, bytes]
    """`digests`: by what each bank was extended."""
    data: bytes
    """`event`: what the firmware says of it; it need not be what was hashed."""


@dataclass(frozen=True)
class Log:
    """A log that was read."""

    banks: tuple[Hash, ...]
    """The banks that it has digests of."""
    events: tuple[Event, ...]
    """Its events in order, those that extend nothing among them; without the header."""
    locality: int
    """The locality that the TPM was started from; register 0 begins with it."""


def parse(data: bytes) -> Log:
    """The log in `data`. Raises `MalformedInput`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    reader = Reader(data, WHAT, "<")
    first = _old_event(reader)
    if first.kind != NO_ACTION:
        events = [first]
        while reader.left:
            _count(reader, events)
            events.append(_old_event(reader))
        return Log(("sha1",), tuple(events), _locality(reader, events))
    sizes = _header(first.data)
    events = []
    while reader.left:
        _count(reader, events)
        events.append(_event(reader, sizes))
    banks = tuple(HASHES[number] for number in sizes if number in HASHES)
    return Log(banks, tuple(events), _locality(reader, events))


def replay(log: Log, bank: Hash) -> dict[int, bytes]:
    """The registers of `bank` that `log` extends, and the values that it gives them.

    Raises `RuntimeError` for a bank that is not in `log.banks`.
    """
    if bank not in log.banks:
        raise RuntimeError(f"the log has {log.banks}, not {bank}")
    size = SIZES[bank]
    values: dict[int, bytes] = {}
    for event in log.events:
        if event.kind == NO_ACTION:
            continue
        start = log.locality if event.register == 0 else 0
        value = values.get(event.register, start.to_bytes(size, "big"))
        values[event.register] = hashlib.new(bank, value + event.digests[bank]).digest()
    return values


def untouched(register: int, bank: Hash) -> bytes:
    """The value of a register that nothing has extended."""
    return (b"\xff" if register in DYNAMIC else b"\0") * SIZES[bank]


def _count(reader: Reader, events: list[Event]) -> None:
    if len(events) == MAX_EVENTS:
        raise reader.malformed(f"expected at most {MAX_EVENTS} events")


def _old_event(reader: Reader) -> Event:
    """TCG_PCClientPCREvent (10.2.1): the form of the header, and of all events of an old log."""
    register, kind = reader.numbers("II")
    digest = reader.take(SIZES["sha1"])
    data = reader.take(reader.number("I"))
    return Event(_register(reader, register), kind, {"sha1": digest}, data)


def _event(reader: Reader, sizes: Mapping[int, int]) -> Event:
    register, kind, count = reader.numbers("III")
    if count != len(sizes):
        raise reader.malformed(f"expected {len(sizes)} digests, found {count}")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        number = reader.number("H")
        if number not in sizes or number in digests:
            raise reader.malformed(f"expected each algorithm of the header once, found {number:#06x}")
        digests[number] = reader.take(sizes[number])
    data = reader.take(reader.number("I"))
    known = {HASHES[number]: digest for number, digest in digests.items() if number in HASHES}
    return Event(_register(reader, register), kind, known, data)


def _register(reader: Reader, register: int) -> int:
    if register >= REGISTERS:
        raise reader.malformed(f"expected a register below {REGISTERS}, found {register}")
    return register


def _header(data: bytes) -> dict[int, int]:
    """Digest sizes by algorithm, of a TCG_EfiSpecIDEventStruct (10.4.5.1)."""
    header = Reader(data, WHAT, "<")
    if header.take(16) != HEADER:
        raise header.malformed("expected the header of a crypto-agile log")
    header.take(8)  # platform class, versions of the specification, width of a pointer
    count = header.number("I")
    if not 0 < count <= MAX_BANKS:
        raise header.malformed(f"expected 1 to {MAX_BANKS} algorithms, found {count}")
    pairs = [header.numbers("HH") for _ in range(count)]
    header.take(header.number("B"))  # the vendor's own information
    header.end()
    sizes = {pair[0]: pair[1] for pair in pairs}
    for number, size in sizes.items():
        wrong = size != SIZES[HASHES[number]] if number in HASHES else not 0 < size <= MAX_DIGEST_BYTES
        if wrong:
            raise header.malformed(f"expected the digest size of algorithm {number:#06x}, found {size}")
    if len(sizes) != count or not any(number in HASHES for number in sizes):
        raise header.malformed(f"expected different algorithms, SHA-1 or SHA-2 among them, found {pairs}")
    return sizes


def _locality(reader: Reader, events: list[Event]) -> int:
    """From the event that says it (10.4.5.3), which stands before any that extends register 0; 0 without one."""
    found: int | None = None
    extended = False
    for event in events:
        if event.kind != NO_ACTION:
            extended |= event.register == 0
        elif event.data.startswith(LOCALITY):
            if extended or found is not None or event.register or len(event.data) != len(LOCALITY) + 1:
                raise reader.malformed("expected one startup locality, before register 0 is extended")
            found = event.data[-1]
            if found not in (0, 3, 4):
                raise reader.malformed(f"expected locality 0, 3 or 4, found {found}")
    return found or 0
