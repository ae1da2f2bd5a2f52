"""Event logs: read strictly, and believed only where they replay."""

from __future__ import annotations

import json
import struct
from hashlib import sha384
from typing import Any

import pytest

from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.tdx import eventlog, layout
from attest.tdx.eventlog import DSTACK_RUNTIME, END, Event
from tests.fakes import tdx

DIGEST = sha384(b"measured").digest()


def header(signature: bytes = b"Spec ID Event03\0", algorithms: tuple[tuple[int, int], ...] = ((12, 48),)) -> bytes:
    body = signature + bytes(8) + struct.pack("<I", len(algorithms))
    body += b"".join(struct.pack("<HH", *pair) for pair in algorithms) + b"\2ok"
    return struct.pack("<II", 1, 3) + bytes(20) + struct.pack("<I", len(body)) + body


def event(index: int = 1, kind: int = 13, data: bytes = b"data", digest: bytes = DIGEST) -> bytes:
    return struct.pack("<IIIH", index, kind, 1, 12) + digest + struct.pack("<I", len(data)) + data


def dstack(**changes: Any) -> bytes:
    fields = {"imr": 3, "event_type": 4, "digest": DIGEST.hex(), "event": "", "event_payload": "00"}
    return json.dumps([fields | changes]).encode()


def test_a_log() -> None:
    log = eventlog.parse(header() + event() + event(4, data=b"measured") + event(2, kind=3))
    assert log == (Event(0, 13, DIGEST, b"data"), Event(3, 13, DIGEST, b"measured"))
    assert [item.measured for item in log] == [False, True]


@pytest.mark.parametrize("rest", [b"", b"\0", b"\xff" * 3, bytes(8), b"\xff" * 100, bytes(64)])
def test_the_unused_rest(rest: bytes) -> None:
    assert len(eventlog.parse(header() + event() + rest)) == 1


@pytest.mark.parametrize(
    "rest",
    [
        b"\1",
        bytes(8) + b"\1",
        b"\xff" * 8 + b"\0",
        b"\xff" * 8 + event(),
        bytes(8) + event(),
        struct.pack("<II", 0, 5) + bytes(60),
        struct.pack("<II", 0, END) + bytes(60),
        event(0),
        event(5),
        event(END),
        event()[:-1],
        event().replace(struct.pack("<IH", 1, 12), struct.pack("<IH", 2, 12)),
        event().replace(struct.pack("<IH", 1, 12), struct.pack("<IH", 0, 12)),
        event().replace(struct.pack("<IH", 1, 12), struct.pack("<IH", 1, 11)),
    ],
)
def test_events_out_of_form(rest: bytes) -> None:
    with pytest.raises(MalformedInput, match="CC event log"):
        eventlog.parse(header() + event() + rest)


@pytest.mark.parametrize(
    "head",
    [
        header(signature=b"Spec ID Event02\0"),
        header().replace(struct.pack("<II", 1, 3), struct.pack("<II", 1, 4)),
        header()[:-1] + b"k" + b"more",
        header()[:-2],
        header().replace(b"\2ok", b"\1ok"),
        b"",
    ],
)
def test_headers_out_of_form(head: bytes) -> None:
    with pytest.raises(MalformedInput):
        eventlog.parse(head)


@pytest.mark.parametrize("algorithms", [((11, 32),), ((12, 48), (11, 32)), ((12, 32),), (), ((12, 48),) * 9])
def test_digests_other_than_sha_384(algorithms: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(Unsupported, match="SHA-384"):
        eventlog.parse(header(algorithms=algorithms))


def test_bounds() -> None:
    most = header() + event(data=b"") * eventlog.MAX_EVENTS
    assert len(eventlog.parse(most)) == eventlog.MAX_EVENTS
    with pytest.raises(MalformedInput, match="at most"):
        eventlog.parse(most + event())
    whole = (header() + event()).ljust(eventlog.MAX_BYTES, b"\0")
    assert len(eventlog.parse(whole)) == 1
    with pytest.raises(MalformedInput, match="at most"):
        eventlog.parse(whole + b"\0")
    text = dstack().ljust(eventlog.MAX_BYTES)
    assert len(eventlog.parse_dstack(text)) == 1
    with pytest.raises(MalformedInput, match="at most"):
        eventlog.parse_dstack(text + b" ")


def test_a_log_of_dstack() -> None:
    assert eventlog.parse_dstack(dstack()) == (Event(3, 4, DIGEST, b"\0", ""),)
    assert eventlog.parse_dstack(b"[]") == ()


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[1]",
        b"",
        dstack(imr=4),
        dstack(imr=-1),
        dstack(event_type=1 << 32),
        dstack(digest="00"),
        dstack(event_payload="0"),
        dstack(event_payload="0g"),
        dstack(more=1),
        dstack(event="x" * 1001),
    ],
)
def test_logs_of_dstack_out_of_form(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="CC event log"):
        eventlog.parse_dstack(data)


def test_dstacks_own_events_are_measured_by_name_and_content() -> None:
    head = struct.pack("<I", DSTACK_RUNTIME)
    digest = sha384(head + b":app-id:" + b"\1\2").digest()
    right = Event(3, DSTACK_RUNTIME, digest, b"\1\2", "app-id")
    assert right.measured
    body = layout.parse_domain(tdx.domain(rtmrs=(bytes(48),) * 3 + (eventlog.replay([right])[3],)))
    assert eventlog.explain([right], body) == ("rtmr3",)
    for wrong in (
        Event(3, DSTACK_RUNTIME, digest, b"\1\3", "app-id"),
        Event(3, DSTACK_RUNTIME, digest, b"\1\2", "app-ie"),
        Event(3, DSTACK_RUNTIME, sha384(b"\1\2").digest(), b"\1\2", "app-id"),
    ):
        assert not wrong.measured
        body = layout.parse_domain(tdx.domain(rtmrs=(bytes(48),) * 3 + (eventlog.replay([wrong])[3],)))
        with pytest.raises(VerificationError) as caught:
            eventlog.explain([wrong], body)
        assert caught.value.code == "event-digest"


def test_replay_extends() -> None:
    first, second = Event(1, 4, DIGEST, b""), Event(1, 4, bytes(48), b"")
    once = sha384(bytes(48) + DIGEST).digest()
    assert eventlog.replay([first]) == {1: once}
    assert eventlog.replay([first, second]) == {1: sha384(once + bytes(48)).digest()}
    assert eventlog.replay([second, first]) != eventlog.replay([first, second])
    assert eventlog.replay([]) == {}


def test_a_log_explains_what_it_replays_to() -> None:
    events = eventlog.parse(header() + event(2) + event(4) + event(2, data=b"again"))
    values = eventlog.replay(events)
    body = layout.parse_domain(tdx.domain(rtmrs=(b"\1" * 48, values[1], bytes(48), values[3])))
    assert eventlog.explain(events, body) == ("rtmr1", "rtmr3")
    assert eventlog.explain([], body) == ()
    for wrong in (events[:-1], events[::-1][1:], (*events, events[0]), (Event(0, 4, DIGEST, b""), *events)):
        with pytest.raises(VerificationError) as caught:
            eventlog.explain(wrong, body)
        assert (caught.value.layer, caught.value.code) == ("tdx", "event-log")
