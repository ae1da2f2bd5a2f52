"""The boot log: replay equals extend, and no change of a log goes unnoticed."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import canonical, eventlog
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError
from attest.eventlog import ArtifactEvent, DataEvent, EventLog, LockEvent, Record, Register

ZERO = "00" * 32
LOCK = LockEvent(digest=digest_of(b"lock"), size_bytes=4, version=1)

digests = st.binary(min_size=32, max_size=32).map(lambda raw: "sha256:" + raw.hex())
names = st.from_regex(r"\A[a-z0-9]([a-z0-9_.-]{0,6}[a-z0-9])?\Z")
artifacts = st.builds(
    ArtifactEvent,
    kind=st.sampled_from(sorted(eventlog.REGISTER_OF)),
    name=names,
    digest=digests,
    measured=digests,
    size_bytes=st.integers(0, 2**53 - 1),
)
facts = st.builds(
    DataEvent,
    name=names,
    data=st.dictionaries(st.text(max_size=4), st.none() | st.integers(-9, 9) | st.text(max_size=4)),
)
logs = st.lists(artifacts | facts, min_size=1, max_size=6).map(lambda events: make(*events))


def make(*events: ArtifactEvent | DataEvent) -> EventLog:
    log = EventLog().append(LOCK)
    for event in events:
        log = log.append(event)
    return log


def renumbered(records: list[Record]) -> bytes:
    """The log that an attacker would write: new positions, and digests that fit."""
    lines = []
    for index, record in enumerate(records):
        value = {**record.model_dump(mode="json", by_alias=True), "index": index}
        del value["digest"]
        lines.append(canonical.dumps({**value, "digest": digest_of(canonical.dumps(value))}) + b"\n")
    return b"".join(lines)


def rejected(code: str, records: list[Record] | tuple[Record, ...]) -> None:
    with pytest.raises(VerificationError) as caught:
        eventlog.replay(records)
    assert (caught.value.layer, caught.value.code) == ("eventlog", code)


def test_extend_is_the_hash_of_old_and_new() -> None:
    assert eventlog.extend(bytes(32), b"\1" * 32) == hashlib.sha256(bytes(32) + b"\1" * 32).digest()
    for old, new in ((b"", bytes(32)), (bytes(32), bytes(31))):
        with pytest.raises(RuntimeError):
            eventlog.extend(old, new)


def test_known_values() -> None:
    """The format, computed here by hand once."""
    event = {"digest": digest_of(b"lock"), "size_bytes": 4, "type": "lock", "version": 1}
    body = {"algorithm": "sha256", "event": event, "index": 0, "register": 0}
    digest = hashlib.sha256(canonical.dumps(body)).digest()
    log = make()
    assert log.dump() == canonical.dumps({**body, "digest": "sha256:" + digest.hex()}) + b"\n"
    assert log.registers == {
        "lock": hashlib.sha256(bytes(32) + digest).hexdigest(),
        **dict.fromkeys(("policy", "python", "engine", "model", "suite", "dataset", "runtime"), ZERO),
    }


def test_empty_log_leaves_registers_at_zero() -> None:
    assert set(EventLog().registers.values()) == {ZERO}
    assert list(EventLog().registers) == [register.label for register in Register]


@given(logs)
@settings(deadline=None)
def test_replay_equals_extend_and_the_written_log_is_the_log(log: EventLog) -> None:
    values = dict.fromkeys((register.label for register in Register), bytes(32))
    for record in log.records:
        label = Register(record.register_).label
        values[label] = eventlog.extend(values[label], bytes.fromhex(record.digest[7:]))
    assert log.registers == {label: value.hex() for label, value in values.items()}
    parsed = eventlog.parse(log.dump())
    assert parsed == log
    assert parsed.dump() == log.dump()


@given(logs, st.data())
@settings(deadline=None)
def test_drop_repeat_and_reorder_change_the_registers_or_are_rejected(log: EventLog, data: st.DataObject) -> None:
    records = list(log.records)
    position = data.draw(st.integers(1, len(records) - 1))
    other = data.draw(st.integers(1, len(records) - 1))
    changed = {
        "drop": records[:position] + records[position + 1 :],
        "repeat": records[:position] + records[position:][:1] + records[position:],
        "swap": [*records],
    }
    changed["swap"][position], changed["swap"][other] = records[other], records[position]
    for kind, sequence in changed.items():
        if sequence == records:
            continue
        forged = eventlog.parse(renumbered(sequence))
        same = [record.event for record in forged.records] == [record.event for record in log.records]
        assert same or forged.registers != log.registers, kind
        try:
            assert eventlog.replay(sequence) != log.registers
        except VerificationError as error:
            assert error.code == "index"


@given(logs, st.data())
@settings(deadline=None)
def test_any_changed_event_changes_the_registers(log: EventLog, data: st.DataObject) -> None:
    records = list(log.records)
    position = data.draw(st.integers(1, len(records) - 1))
    event = data.draw((artifacts | facts).filter(lambda event: event != records[position].event))
    changed = make(*(event if at == position else record.event for at, record in enumerate(records) if at))  # type: ignore[misc]
    assert changed.registers != log.registers
    with pytest.raises(VerificationError, match="extended with other content"):
        eventlog.compare(changed.registers, log.registers)


@given(logs, st.data())
@settings(deadline=None)
def test_flipped_bytes_never_pass(log: EventLog, data: st.DataObject) -> None:
    wire = bytearray(log.dump())
    position = data.draw(st.integers(0, len(wire) - 1))
    wire[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((MalformedInput, VerificationError)):
        eventlog.parse(bytes(wire))


def test_every_field_is_bound() -> None:
    event = ArtifactEvent(kind="model", name="organism", digest=digest_of(b"x"), measured=digest_of(b"y"), size_bytes=1)
    for change in ({"name": "clean"}, {"digest": digest_of(b"")}, {"measured": digest_of(b"x")}, {"size_bytes": 2}):
        assert make(event).registers["model"] != make(event.model_copy(update=change)).registers["model"], change


def test_places_in_the_sequence() -> None:
    fact = DataEvent(name="seal", data={"a": 1})
    log = make(fact, fact)
    rejected("index", [log.records[0], log.records[2]])
    rejected("index", log.records[1:])
    rejected("register", [log.records[0], log.records[1].model_copy(update={"register_": 3})])
    rejected("event-digest", [log.records[0].model_copy(update={"digest": digest_of(b"")})])
    lockless = Record.model_validate({**log.records[1].model_dump(by_alias=True), "index": 0})
    rejected("order", [lockless])
    second = Record.model_validate({**log.records[0].model_dump(by_alias=True), "index": 1})
    rejected("order", [log.records[0], second])


def test_builder_keeps_the_order() -> None:
    with pytest.raises(RuntimeError, match="first event"):
        EventLog().append(DataEvent(name="a", data={}))
    with pytest.raises(RuntimeError, match="first event"):
        make().append(LOCK)


def test_builder_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "MAX_EVENTS", 1)
    with pytest.raises(RuntimeError):
        make(DataEvent(name="a", data={}))
    line = make().dump()
    with pytest.raises(MalformedInput, match="at most 1 events"):
        eventlog.parse(line + line)


def line(**changes: Any) -> bytes:
    value = make().records[0].model_dump(mode="json", by_alias=True)
    return canonical.dumps({**value, **changes}) + b"\n"


D = digest_of(b"")
ARTIFACT = {"type": "artifact", "kind": "model", "name": "a", "digest": D, "measured": D, "size_bytes": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        make().dump()[:-1],
        make().dump() + b"\n",
        b" " + make().dump(),
        make().dump().replace(b'"index":0', b'"index":0.5'),
        make().dump().replace(b'"index":0', b'"index":-1'),
        make().dump().replace(b'":', b'": ', 1),
        make().dump().replace(b"\n", b"\r\n"),
        line(algorithm="sha1"),
        line(register=8),
        line(register=True),
        line(extra=1),
        line(event={"type": "other"}),
        line(event=ARTIFACT | {"kind": "other"}),
        line(event=ARTIFACT | {"name": "../a"}),
        line(event=ARTIFACT | {"measured": "sha256:"}),
        line(event={key: value for key, value in ARTIFACT.items() if key != "measured"}),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        eventlog.parse(data)


def test_parse_checks_the_digests() -> None:
    with pytest.raises(VerificationError, match="event-digest"):
        eventlog.parse(line(digest=digest_of(b"other")))


@given(st.binary(max_size=120))
@settings(deadline=None)
def test_noise_raises_only_our_errors(noise: bytes) -> None:
    with pytest.raises((MalformedInput, VerificationError)):
        eventlog.parse(noise + b"\n")


def test_compare() -> None:
    registers = make().registers
    eventlog.compare(registers, dict(reversed(registers.items())))
    for side in ({}, {**registers, "other": ZERO}):
        with pytest.raises(VerificationError, match="eventlog/registers"):
            eventlog.compare(side, registers)
        with pytest.raises(VerificationError, match="eventlog/registers"):
            eventlog.compare(registers, side)
    with pytest.raises(VerificationError, match="register-value") as caught:
        eventlog.compare({**registers, "model": "11" * 32}, registers)
    assert (caught.value.expected, caught.value.found) == (ZERO, "11" * 32)


def test_one_value_for_all_registers() -> None:
    registers = make().registers
    assert eventlog.measurement(registers) == hashlib.sha256(canonical.dumps(dict(registers))).hexdigest()
    assert eventlog.measurement(dict(reversed(registers.items()))) == eventlog.measurement(registers)
    assert eventlog.measurement({**registers, "model": "11" * 32}) != eventlog.measurement(registers)
