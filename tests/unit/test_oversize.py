"""Requests and records that no frame carries: their sample fails, and the run goes on."""

from __future__ import annotations

from typing import Any, cast

import pytest

from appliance.evals import worker
from appliance.frames import MAX_PAYLOAD_BYTES, Frame, Kind, pack
from appliance.worker import Link
from attest import canonical
from attest.sample import SampleRecord, Turn
from tests.fakes.models import REFUSED, Messages, attacked


class FakeLink:
    """Keeps what is sent, as long as a frame carries it; replies to everything with an error."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send_json(self, kind: Kind, value: Any, route: int, tag: int) -> None:
        self.sent.append(pack(kind, str(value).encode(), route, tag))

    def receive(self) -> Frame:
        return Frame(Kind.REPLY, 0, b'{"error":{"code":"deadline","message":"late"}}', 1)


def test_a_request_that_no_frame_carries_is_answered_with_an_error() -> None:
    link = FakeLink()
    desk = worker.LinkDesk(cast(Link, link))
    desk.ask(2, 7, {"messages": "x" * MAX_PAYLOAD_BYTES})
    desk.ask(0, 1, {"messages": "x"})
    route, tag, reply = desk.reply()
    assert (route, tag, reply["error"]["code"]) == (2, 7, "size")
    assert desk.reply()[2]["error"]["code"] == "deadline"
    assert len(link.sent) == 1


def big(_messages: Messages) -> str:
    return REFUSED + "x" * 700_000


@pytest.mark.parametrize("draws", [2, 20])
def test_a_record_that_no_frame_carries_says_that_its_sample_failed(draws: int) -> None:
    (record,), _ = attacked([{"strategy": "best_of_n", "n": draws}], big)
    kept, line = worker.fitting(record)
    assert len(line) <= MAX_PAYLOAD_BYTES
    assert canonical.parse(SampleRecord, line, "record") == kept
    if draws == 2:
        assert kept == record
        return
    assert kept.error is not None
    assert kept.error.code == "size"
    assert (kept.id, kept.attack, kept.scores) == (record.id, record.attack, {})
    assert not any(isinstance(event, Turn) for event in kept.events)
