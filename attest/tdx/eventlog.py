"""What was measured into a trust domain's runtime registers (RTMR): the CC event log, and dstack's in JSON.

A log is a claim: it counts only when it replays to the registers of an authenticated quote (`explain`). The readers are
strict and bounded. A log proves digests: what the events say beside them is the log's word, except where `measured`
shows that the digest is over exactly that.

Sources: "Intel TDX Guest-Hypervisor Communication Interface", 4.3.3 (CCEL: the ACPI table; register index 0 is MRTD, 1
to 4 are RTMR0 to 3); TCG PC Client Platform Firmware Profile, 10.2 (crypto-agile log); dstack, `cc-eventlog`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha384
from typing import Annotated

from pydantic import Field, StringConstraints

from attest import canonical
from attest.canonical import Model
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.tdx.layout import Domain
from attest.tdx.reader import Reader

WHAT = "CC event log"
LAYER = "tdx"
SHA384 = 0x000C
DIGEST = 48
NO_ACTION = 3
"""An event that says something and extends nothing."""
DSTACK_RUNTIME = 0x08000001
"""dstack's own events, whose digest is over name and content."""
END = 0xFFFFFFFF
"""What firmware leaves in the unused rest of the table, or zero."""
MAX_BYTES = 4 << 20
MAX_EVENTS = 4096
SIGNATURE = b"Spec ID Event03\0"
REGISTERS = 4


@dataclass(frozen=True)
class Event:
    """One event that extended a register."""

    register: int
    """Which RTMR: 0 to 3."""
    kind: int
    """Its type, as TCG numbers them (or dstack: `DSTACK_RUNTIME`)."""
    digest: bytes
    """SHA-384 of what was measured, 48 bytes."""
    data: bytes
    """What the log says of it."""
    name: str = ""
    """dstack's name of the event."""

    @property
    def measured(self) -> bool:
        """Whether the digest is over `data`, as TCG or as dstack's runtime forms it: then `data` is proven too."""
        if self.kind == DSTACK_RUNTIME:
            head = DSTACK_RUNTIME.to_bytes(4, "little") + b":" + self.name.encode() + b":"
            return self.digest == sha384(head + self.data).digest()
        return self.digest == sha384(self.data).digest()


def parse(data: bytes) -> tuple[Event, ...]:
    """The events of a CC event log, as the firmware keeps it. Raises `MalformedInput` and `Unsupported`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    reader = Reader(data, WHAT)
    _header(reader)
    events: list[Event] = []
    while reader.left() >= 8:
        start = reader.at
        index, kind = reader.number("I"), reader.number("I")
        if (index, kind) in ((0, 0), (END, END)):
            return _ended(events, data[start:])
        if not 1 <= index <= REGISTERS:
            raise MalformedInput(WHAT, f"expected a register of 1 to {REGISTERS} at offset {start}, found {index}")
        if len(events) == MAX_EVENTS:
            raise MalformedInput(WHAT, f"expected at most {MAX_EVENTS} events, found more")
        if (reader.number("I"), reader.number("H")) != (1, SHA384):
            raise MalformedInput(WHAT, f"expected one SHA-384 digest at offset {reader.at}, found others")
        digest = reader.take(DIGEST)
        content = reader.take(reader.number("I"))
        if kind != NO_ACTION:
            events.append(Event(index - 1, kind, digest, content))
    return _ended(events, data[reader.at :])


class DstackEvent(Model):
    """An event in dstack's log."""

    imr: int = Field(ge=0, lt=REGISTERS)
    """Which RTMR."""
    event_type: int = Field(ge=0, le=0xFFFFFFFF)
    """The type, as TCG numbers them; or `DSTACK_RUNTIME`."""
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
    """SHA-384, hexadecimal digits."""
    event: str = Field(max_length=1000)
    """The event's name."""
    event_payload: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})*$")]
    """Its content, hexadecimal digits; shortened for the firmware's events."""


class _DstackLog(Model):
    events: Annotated[tuple[DstackEvent, ...], Field(max_length=MAX_EVENTS)]


def parse_dstack(data: bytes) -> tuple[Event, ...]:
    """The events of dstack's log, a JSON list. Raises `MalformedInput`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    log = canonical.validate(_DstackLog, {"events": canonical.loads(data, WHAT)}, WHAT)
    return tuple(
        Event(item.imr, item.event_type, bytes.fromhex(item.digest), bytes.fromhex(item.event_payload), item.event)
        for item in log.events
    )


def replay(events: Iterable[Event]) -> dict[int, bytes]:
    """The registers that `events` extend, by number, and their values of 48 bytes."""
    values: dict[int, bytes] = {}
    for event in events:
        values[event.register] = sha384(values.get(event.register, bytes(DIGEST)) + event.digest).digest()
    return values


def explain(events: Iterable[Event], domain: Domain) -> tuple[str, ...]:
    """Which registers of `domain` the events give the values of: `rtmr0` and so on.

    A register that the log leaves out is not explained. One that it gives another value of makes the log a lie, and so
    does an event of dstack's whose digest is over another content, since that is what an application is known by: both
    raise `VerificationError`.
    """
    events = tuple(events)
    for event in events:
        if event.kind == DSTACK_RUNTIME and not event.measured:
            expected = f"the event {event.name!r} as its digest has it: {event.digest.hex()}"
            raise VerificationError(LAYER, "event-digest", expected=expected, found=event.data.hex())
    values = replay(events)
    for register, value in sorted(values.items()):
        found = domain.rtmrs[register]
        if value != found:
            expected = f"RTMR{register} as the log replays: {value.hex()}"
            raise VerificationError(LAYER, "event-log", expected=expected, found=found.hex())
    return tuple(f"rtmr{register}" for register in sorted(values))


def _header(reader: Reader) -> None:
    """The first event, which has the old form and says that digests are SHA-384."""
    reader.take(4)  # a register, which firmware sets to 0 or 1, and which is not extended
    kind = reader.number("I")
    reader.take(20)
    header = Reader(reader.take(reader.number("I")), WHAT)
    if kind != NO_ACTION or header.take(len(SIGNATURE)) != SIGNATURE:
        raise MalformedInput(WHAT, "expected the header of a crypto-agile log, found another event")
    header.take(8)
    algorithms = [(header.number("H"), header.number("H")) for _ in range(min(header.number("I"), 8))]
    if algorithms != [(SHA384, DIGEST)]:
        raise Unsupported(WHAT, f"expected digests of SHA-384 and no others, found {algorithms}")
    header.take(header.number("B"))  # the vendor's own words
    header.end()


def _ended(events: list[Event], rest: bytes) -> tuple[Event, ...]:
    if rest.strip(b"\0") and rest.strip(b"\xff"):
        raise MalformedInput(WHAT, "expected nothing after the last event, found other bytes")
    return tuple(events)
