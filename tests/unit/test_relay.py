"""The relay over real pipes: frames reach whom they are for, in any order, and nobody can hold up the others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.frames import ChannelError, Frame, Kind, Reader, pack, write_all
from appliance.programs import PROGRAMS
from appliance.programs.pool import Programs
from appliance.relay import Station, WorkerFailure, finish, relay
from appliance.seal.launch import Worker
from appliance.stream import Listener
from appliance.transcript import TranscriptWriter


class Ended:
    """Stands for the process of a worker that runs as a thread: it is never seen to end."""

    def wait(self, timeout: float) -> int:
        raise subprocess.TimeoutExpired("worker", timeout)


@dataclass
class End:
    """The worker's ends of its pipes."""

    reader: Reader
    out: int

    def send(self, kind: Kind, payload: bytes = b"", route: int = 0, tag: int = 0) -> None:
        write_all(self.out, pack(kind, payload, route, tag), 20)

    def receive(self) -> Frame:
        return self.reader.receive(20)


Work = Callable[[End], None]


@pytest.fixture
def start() -> Iterator[Callable[[str, Work], Station]]:
    """Starts a worker as a thread; an end of the stream ends it."""
    open_fds: list[int] = []

    def make(name: str, work: Work) -> Station:
        requests, replies = os.pipe(), os.pipe()
        open_fds.extend((*requests, *replies))

        def body() -> None:
            with contextlib.suppress(ChannelError, OSError):
                work(End(Reader(requests[0]), replies[1]))

        threading.Thread(target=body, daemon=True).start()
        return Station(name, cast(Worker, Worker(cast(Any, Ended()), requests[1], replies[0], threading.Thread())))

    yield make
    for fd in open_fds:
        os.close(fd)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[TranscriptWriter]:
    with TranscriptWriter(tmp_path / "transcript.jsonl") as made:
        made.open({})
        yield made


def carry(
    evals: Station,
    models: list[Station],
    writer: TranscriptWriter,
    seconds: float = 20,
    listener: Listener | None = None,
) -> bytes:
    return relay(
        evals,
        models,
        writer,
        sample_timeout_s=seconds,
        end=time.monotonic() + seconds,
        on_sample=lambda: None,
        on_tested=lambda _route, _payload: None,
        listener=listener,
    )


def idle(end: End) -> None:
    while True:
        end.receive()


def test_replies_come_back_in_any_order_with_their_route_and_tag(start: Any, writer: TranscriptWriter) -> None:
    got = []

    def evals(end: End) -> None:
        for tag in (7, 2**32 - 1, 0):
            end.send(Kind.REQUEST, b"%d" % tag, 1, tag)
        got.extend((frame.kind, frame.route, frame.tag, frame.payload) for frame in (end.receive() for _ in range(3)))
        end.send(Kind.SAMPLE, b"{}")
        end.send(Kind.RESULTS, b"done")

    def model(end: End) -> None:
        frames = [end.receive() for _ in range(3)]
        for frame in reversed(frames):
            end.send(Kind.REPLY, frame.payload * 2, frame.route, frame.tag)

    assert carry(start("eval", evals), [start("model.a", idle), start("model.b", model)], writer) == b"done"
    assert got == [(Kind.REPLY, 1, tag, b"%d" % tag * 2) for tag in (0, 2**32 - 1, 7)]
    assert writer.samples == [b"{}"]


class Heard:
    """Keeps what a listener is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, bytes | None]] = []

    def said(self, route: int, tag: int, data: bytes) -> None:
        self.told.append((route, tag, data))

    def ended(self, route: int, tag: int) -> None:
        self.told.append((route, tag, None))


def speaks(end: End) -> None:
    """Says two words before it replies."""
    frame = end.receive()
    for word in (b"a", b"\x1b"):
        end.send(Kind.WORDS, word, frame.route, frame.tag)
    end.send(Kind.REPLY, b"{}", frame.route, frame.tag)


def asks_once(end: End) -> None:
    end.send(Kind.REQUEST, b"?", 0, 7)
    assert end.receive().kind == Kind.REPLY
    end.send(Kind.RESULTS, b"done")


def test_words_are_for_who_asked_to_hear_them(start: Any, writer: TranscriptWriter) -> None:
    heard = Heard()
    assert carry(start("eval", asks_once), [start("model.a", speaks)], writer, listener=heard) == b"done"
    assert heard.told == [(0, 7, b"a"), (0, 7, b"\x1b"), (0, 7, None)]
    with pytest.raises(WorkerFailure, match=r"model\.a: WORDS is out of place"):
        carry(start("eval", asks_once), [start("model.a", speaks)], writer)


def test_words_about_what_nobody_asked_are_out_of_place(start: Any, writer: TranscriptWriter) -> None:
    def babbles(end: End) -> None:
        end.send(Kind.WORDS, b"a", 0, end.receive().tag + 1)
        idle(end)

    with pytest.raises(WorkerFailure, match=r"model\.a: WORDS is out of place"):
        carry(start("eval", asks_once), [start("model.a", babbles)], writer, listener=Heard())


def test_both_sides_may_write_much_before_they_read(start: Any, writer: TranscriptWriter) -> None:
    big, count = b"x" * (1 << 20), 12

    def evals(end: End) -> None:
        for tag in range(count):
            end.send(Kind.REQUEST, big, 0, tag)
        assert sorted(end.receive().tag for _ in range(count)) == list(range(count))
        end.send(Kind.RESULTS, b"done")

    def model(end: End) -> None:
        for _ in range(count):
            end.send(Kind.REPLY, big, 0, end.receive().tag)

    assert carry(start("eval", evals), [start("model.a", model)], writer) == b"done"


def test_a_request_can_be_cancelled(start: Any, writer: TranscriptWriter) -> None:
    def evals(end: End) -> None:
        end.send(Kind.REQUEST, b"long", 0, 5)
        end.send(Kind.CANCEL, b"", 0, 5)
        assert end.receive().payload == b"cancelled 5"
        end.send(Kind.RESULTS, b"done")

    def model(end: End) -> None:
        end.receive()
        frame = end.receive()
        assert frame.kind == Kind.CANCEL
        end.send(Kind.REPLY, b"cancelled %d" % frame.tag, 0, frame.tag)

    assert carry(start("eval", evals), [start("model.a", model)], writer) == b"done"


@pytest.mark.parametrize(
    ("evals", "model", "culprit"),
    [
        (lambda end: end.send(Kind.REQUEST, b"", 1, 0), idle, "eval"),
        (lambda end: (end.send(Kind.REQUEST, b"", 0, 3), end.send(Kind.REQUEST, b"", 0, 3)), idle, "eval"),
        (lambda end: end.send(Kind.CANCEL, b"", 1, 3), idle, "eval"),
        (lambda end: end.send(Kind.REPLY, b"", 0, 0), idle, "eval"),
        (lambda end: [end.send(Kind.REQUEST, b"", 0, tag) for tag in range(5000)], idle, "eval"),
        (lambda end: end.send(Kind.SAMPLE, b"two\nlines"), idle, "eval"),
        (idle, lambda end: end.send(Kind.REPLY, b"", 0, 0), "model.a"),
        (
            lambda end: (end.send(Kind.REQUEST, b"", 0, 3), idle(end)),
            lambda end: end.send(Kind.REPLY, b"", 0, end.receive().tag + 1),
            "model.a",
        ),
        (
            lambda end: (end.send(Kind.REQUEST, b"", 0, 3), idle(end)),
            lambda end: [end.send(Kind.REPLY, b"", 0, tag) for tag in [end.receive().tag] * 2],
            "model.a",
        ),
        (idle, lambda end: end.send(Kind.SAMPLE, b"{}"), "model.a"),
        (idle, lambda end: os.write(end.out, b"\xff" * 64), "model.a"),
    ],
)
def test_what_is_out_of_place_ends_the_run_and_names_its_sender(
    start: Any, writer: TranscriptWriter, evals: Work, model: Work, culprit: str
) -> None:
    with pytest.raises(WorkerFailure) as caught:
        carry(start("eval", evals), [start("model.a", model)], writer)
    assert caught.value.worker == culprit


def test_a_worker_that_does_not_read_ends_the_run(start: Any, writer: TranscriptWriter) -> None:
    def flood(end: End) -> None:
        for tag in range(100):
            end.send(Kind.REQUEST, b"x" * (1 << 20), 0, tag)
        idle(end)

    with pytest.raises(WorkerFailure, match="expected it to read") as caught:
        carry(start("eval", flood), [start("model.a", lambda end: time.sleep(5))], writer)
    assert caught.value.worker == "model.a"


def test_a_model_that_does_not_answer_in_time_ends_the_run(
    start: Any, writer: TranscriptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.relay.GRACE_S", 0.1)

    def evals(end: End) -> None:
        end.send(Kind.REQUEST, b"", 0, 3)
        idle(end)

    with pytest.raises(WorkerFailure, match="in time") as caught:
        relay(
            start("eval", evals),
            [start("model.a", idle)],
            writer,
            sample_timeout_s=0.1,
            end=time.monotonic() + 20,
            on_sample=lambda: None,
            on_tested=lambda _route, _payload: None,
        )
    assert caught.value.worker == "model.a"


def test_trials_that_take_long_are_not_held_against_the_eval_worker(
    start: Any, writer: TranscriptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.relay.EVAL_TIMEOUT_S", 3.0)
    monkeypatch.setattr("appliance.programs.pool.TRIAL_TIMEOUT_S", 4.0)
    replies = []

    def evals(end: End) -> None:
        end.send(Kind.REQUEST, b"{}", PROGRAMS, 4)
        replies.append(end.receive())
        time.sleep(1.3)
        end.send(Kind.RESULTS, b"done")

    def hire() -> Station:
        says = f"import os, time; os.write(1, {pack(Kind.HELLO, b'{}')!r}); time.sleep(60)"
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", says], **pipes, start_new_session=True)
        assert process.stdin is not None and process.stdout is not None
        pump = threading.Thread(target=lambda: None)
        pump.start()
        return Station("program", Worker(process, process.stdin.fileno(), process.stdout.fileno(), pump))

    found = relay(
        start("eval", evals),
        [],
        writer,
        sample_timeout_s=20,
        end=time.monotonic() + 60,
        on_sample=lambda: None,
        on_tested=lambda _route, _payload: None,
        programs=Programs(hire, lambda _hello: None),
    )
    assert found == b"done"
    assert [(reply.route, reply.tag, reply.payload) for reply in replies] == [
        (PROGRAMS, 4, b'{"reason":"","verdict":"timeout"}')
    ]


def test_no_sample_is_lost_behind_the_frame_that_ends_the_run(start: Any, writer: TranscriptWriter) -> None:
    def evals(end: End) -> None:
        samples = [pack(Kind.SAMPLE, b'{"n":%d}' % number) for number in range(3)]
        write_all(end.out, samples[0] + pack(Kind.REQUEST, b"", 9) + samples[1], 20)
        while end.receive().kind != Kind.STOP:
            pass
        write_all(end.out, samples[2] + pack(Kind.RESULTS, b"some"), 20)

    station = start("eval", evals)
    with pytest.raises(WorkerFailure, match="out of place"):
        carry(station, [start("model.a", idle)], writer)
    assert finish(station, writer, 20) == b"some"
    assert writer.samples == [b'{"n":0}', b'{"n":1}', b'{"n":2}']


def test_stopping_brings_the_results_of_what_there_is(start: Any, writer: TranscriptWriter) -> None:
    def evals(end: End) -> None:
        while end.receive().kind != Kind.STOP:
            pass
        end.send(Kind.SAMPLE, b"{}")
        end.send(Kind.RESULTS, b"some")

    station = start("eval", evals)
    station.forward(Frame(Kind.REPLY, 0, b"x" * (1 << 20), 1))
    assert finish(station, writer, 20) == b"some"
    assert writer.samples == [b"{}"]
