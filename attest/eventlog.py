"""The measured boot log: what was measured, in which order, and the register values that this order gives.

It works as a TPM log does. A register starts as 32 zero bytes, and each event extends one register:
`new = SHA-256(old || digest)`. `replay` computes the registers from the events, so that a verifier can compare them
with reference values, with those that a quote carries, or with those that a lock predicts.

One thing is stricter than in a TPM log. The digest of an event is SHA-256 over the canonical JSON of the whole record
without its `digest`: position, register, kind, name, size and content digest are all bound. A log whose events were
reordered, dropped, repeated or renamed therefore never replays to the same registers.

Refused: a record whose digest is not that of its content, an index out of sequence, an event in a register of another
kind, a lock that is not the first event or not the only one, and JSON that is not in canonical form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from attest import canonical
from attest.canonical import JSON, MAX_INTEGER, Model
from attest.digest import Digest, Hex32, digest_of, raw, sha256
from attest.errors import MalformedInput, VerificationError
from attest.job import Name

WHAT = "event log"
ALGORITHM: Final = "sha256"
START = bytes(32)
MAX_EVENTS = 4096
MAX_BYTES = 16 << 20

Size = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
"""A size in bytes."""

Kind = Literal["engine", "engine-record", "python", "model", "suite", "dataset", "policy"]
"""What an artifact is. A new kind needs a new version of the lock format."""

Registers = dict[str, Hex32]
"""The value of each register, 64 hexadecimal digits, under the name that `Register.label` gives it, in order."""


class Register(IntEnum):
    """The registers of the appliance. They are its own, not those of a TPM."""

    LOCK = 0
    """The lock file."""
    POLICY = 1
    """Policies, the system call filter among them."""
    PYTHON = 2
    """The Python environment."""
    ENGINE = 3
    """The inference engine and the record of its build."""
    MODEL = 4
    """Models."""
    SUITE = 5
    """Eval suites."""
    DATASET = 6
    """Data sets."""
    RUNTIME = 7
    """What is not pinned by the lock: the host, the seal, the self-test."""

    @property
    def label(self) -> str:
        """The register's name in a manifest: `lock`, `policy`, `python` and so on."""
        return self.name.lower()


REGISTER_OF: dict[Kind, Register] = {
    "policy": Register.POLICY,
    "python": Register.PYTHON,
    "engine": Register.ENGINE,
    "engine-record": Register.ENGINE,
    "model": Register.MODEL,
    "suite": Register.SUITE,
    "dataset": Register.DATASET,
}


class LockEvent(Model):
    """The lock file was read. Always the first event, and only the first."""

    type: Literal["lock"] = "lock"
    """The type of this event."""
    digest: Digest
    """SHA-256 over the bytes of the lock file as received."""
    size_bytes: Size
    """Size of the lock file."""
    version: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    """Version that the lock file declares."""


class ArtifactEvent(Model):
    """One artifact was measured."""

    type: Literal["artifact"] = "artifact"
    """The type of this event."""
    kind: Kind
    """What the artifact is."""
    name: Name
    """Its logical name, unique within its kind."""
    digest: Digest
    """The digest that the lock pins for it."""
    measured: Digest
    """What the boot computed over its content: that digest, or where the lock pins a tree the root of the tree.

    Of a model of several files: SHA-256 over the 32 bytes that were computed over each, in loading order.
    """
    size_bytes: Size
    """Its size, as measured."""


class DataEvent(Model):
    """A fact that is data, not a file, such as the plan of the seal. It is measured into `Register.RUNTIME`."""

    type: Literal["data"] = "data"
    """The type of this event."""
    name: Name
    """What the data is."""
    data: dict[str, JSON]
    """The data itself, without floats."""


Event = Annotated[LockEvent | ArtifactEvent | DataEvent, Field(discriminator="type")]
"""What was measured."""


class Record(Model):
    """One line of the log."""

    index: Annotated[int, Field(ge=0, lt=MAX_EVENTS)]
    """Position in the log, from 0."""
    register_: Annotated[int, Field(ge=0, le=max(Register), alias="register")]
    """The register that this event extends; `register` on the wire."""
    algorithm: Literal["sha256"] = ALGORITHM
    """Hash algorithm of the digest and of the extend operation."""
    digest: Digest
    """SHA-256 over the canonical JSON of this record without this field."""
    event: Event
    """What was measured."""


@dataclass(frozen=True)
class EventLog:
    """An event log: an immutable sequence of records. `append` returns a longer log."""

    records: tuple[Record, ...] = ()
    """The records, in order."""

    def append(self, event: LockEvent | ArtifactEvent | DataEvent) -> EventLog:
        """This log and one more `event`, in the register that its kind has. Raises `RuntimeError` when misplaced."""
        index = len(self.records)
        if isinstance(event, LockEvent) != (index == 0) or index >= MAX_EVENTS:
            raise RuntimeError(f"the lock is the first event and only the first, found {event.type!r} at {index}")
        unsigned = {
            "algorithm": ALGORITHM,
            "event": event.model_dump(mode="json"),
            "index": index,
            "register": int(register_of(event)),
        }
        digest = digest_of(canonical.dumps(unsigned))
        record = canonical.validate(Record, {**unsigned, "digest": digest}, WHAT)
        return EventLog((*self.records, record))

    @property
    def registers(self) -> Registers:
        """The register values that these records replay to."""
        return replay(self.records)

    def dump(self) -> bytes:
        """The log as JSON lines, each canonical and ended by a line feed."""
        return b"".join(canonical.dumps(_wire(record)) + b"\n" for record in self.records)


def register_of(event: LockEvent | ArtifactEvent | DataEvent) -> Register:
    """The register that `event` extends."""
    if isinstance(event, LockEvent):
        return Register.LOCK
    return REGISTER_OF[event.kind] if isinstance(event, ArtifactEvent) else Register.RUNTIME


def extend(old: bytes, digest: bytes) -> bytes:
    """The next value of a register: SHA-256(`old` || `digest`), each of 32 bytes. Raises `RuntimeError` otherwise."""
    if len(old) != len(START) or len(digest) != len(START):
        raise RuntimeError(f"extend takes 32 and 32 bytes, found {len(old)} and {len(digest)}")
    return sha256(old, digest)


def replay(records: Iterable[Record]) -> Registers:
    """The registers after `records`. Raises `VerificationError` (layer `eventlog`) where a record does not fit."""
    values = [START] * len(Register)
    for position, record in enumerate(records):
        # 1. Its place in the sequence.
        if record.index != position:
            raise _rejected("index", position, record.index, "an event was dropped, repeated or moved")
        # 2. Its register: the one of its kind, and the lock first.
        register = register_of(record.event)
        if record.register_ != register:
            raise _rejected("register", int(register), record.register_, f"event {position} has the wrong register")
        if (register == Register.LOCK) != (position == 0):
            raise _rejected("order", "the lock as first event only", record.event.type, f"look at event {position}")
        # 3. Its digest.
        digest = digest_of(_measured(record))
        if record.digest != digest:
            raise _rejected("event-digest", record.digest, digest, f"event {position} is not what was measured")
        # 4. The extend operation itself.
        values[register] = extend(values[register], raw(digest))
    return {register.label: values[register].hex() for register in Register}


def parse(data: bytes) -> EventLog:
    """The log in `data`: canonical JSON lines, replayed once. Raises `MalformedInput` or `VerificationError`."""
    if not data.endswith(b"\n") or len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected lines of JSON, {MAX_BYTES} bytes at most, found {len(data)} bytes")
    lines = data.split(b"\n")[:-1]
    if len(lines) > MAX_EVENTS:
        raise MalformedInput(WHAT, f"expected at most {MAX_EVENTS} events, found {len(lines)}")
    log = EventLog(tuple(_parse_line(line, number) for number, line in enumerate(lines)))
    replay(log.records)
    return log


def compare(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise `VerificationError` that names the first register whose value is absent or not the expected one."""
    labels = [register.label for register in Register]
    for side in (found, expected):
        if sorted(side) != sorted(labels):
            raise _rejected("registers", ", ".join(labels), ", ".join(side), "")
    for label in labels:
        if found[label] != expected[label]:
            advice = f"the register {label!r} was extended with other content, or in another order"
            raise _rejected("register-value", expected[label], found[label], advice)


def measurement(registers: Mapping[str, str]) -> str:
    """What a certificate's identity names: SHA-256 over the canonical JSON of all registers, 64 hexadecimal digits."""
    return sha256(canonical.dumps(dict(registers))).hex()


def _parse_line(line: bytes, number: int) -> Record:
    what = f"{WHAT}, line {number + 1}"
    value = canonical.loads(line, what)
    try:
        if canonical.dumps(value) != line:
            raise MalformedInput(what, "expected canonical JSON (RFC 8785), found another spelling")
    except TypeError:
        raise MalformedInput(what, "expected no floats, found one") from None
    return canonical.validate(Record, value, what)


def _wire(record: Record) -> dict[str, JSON]:
    return record.model_dump(mode="json", by_alias=True)


def _measured(record: Record) -> bytes:
    """What the digest of a record covers: its canonical JSON without the digest."""
    value = _wire(record)
    del value["digest"]
    return canonical.dumps(value)


def _rejected(code: str, expected: object, found: object, advice: str) -> VerificationError:
    return VerificationError("eventlog", code, expected=expected, found=found, advice=advice)
