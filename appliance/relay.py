"""The controller's loop: carries frames between the sealed workers, and stores what is to be stored.

It parses nothing that a model produced. Requests and replies pass through unread; a sample record is bytes that go
into the transcript; of the rest, names and counts are read against strict models. A worker that breaks the form, ends,
or does not answer in time ends the run with a `WorkerFailure` that names it.
"""

from __future__ import annotations

import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from appliance.frames import ChannelError, Frame, Kind, Reader, pack, write_all, write_some
from appliance.programs import PROGRAMS
from appliance.redact import Discretion
from appliance.seal.launch import Worker
from appliance.selftests import TIMEOUT_S
from appliance.transcript import Records
from attest import canonical
from attest.canonical import Model
from attest.errors import MalformedInput

if TYPE_CHECKING:
    from appliance.programs.pool import Programs
    from appliance.stream import Listener

WRITE_TIMEOUT_S = 60.0
GRACE_S = 30.0
"""Beyond a sample's own time limit, before a model worker counts as hanging."""
EVAL_TIMEOUT_S = 600.0
"""How long the eval worker may think between two frames."""
MAX_RESULTS_BYTES = 4 << 20
MAX_UNSENT_BYTES = 64 << 20
"""What may wait for a worker to read it."""
MAX_WAITING = 4096
"""Requests under way, over all models."""
EXIT_WAIT_S = 0.5
"""How long a worker whose stream broke may take to end, so that its failure can say how it ended."""


Waiting = dict[tuple[int, int], float]
"""Requests under way, by route and tag, and the `time.monotonic()` value by which each has to be answered."""


class WorkerFailure(Exception):  # noqa: N818
    """A worker that could not go on, or that was not allowed to. `exit_code` is what the run returns for it.

    `words`: what it said itself, where that may quote prompts: for `appliance.redact.keep`, not for the operator.
    """

    def __init__(self, worker: str, problem: str, exit_code: int = 1, words: str = "") -> None:
        super().__init__(f"worker {worker}: {problem}")
        self.worker = worker
        self.exit_code = exit_code
        self.words = words


class FailureReport(Model):
    """What a `FAILURE` frame says."""

    code: str
    """The class of the error."""
    message: str
    """For people."""
    exit: Literal[1, 10, 20, 30]
    """Exit code of the command line: never 0, whatever a worker says."""


@dataclass
class Station:
    """A worker and its channel."""

    name: str
    """`eval`, or `model.<id>`."""
    worker: Worker
    """The process."""
    reader: Reader = field(init=False)
    """Frames that it sends."""
    unsent: bytearray = field(init=False, default_factory=bytearray)
    """What `forward` could not write yet."""
    discretion: Discretion = field(default_factory=Discretion)
    """What the operator is shown of its words."""

    def __post_init__(self) -> None:
        self.reader = Reader(self.worker.replies)

    def forward(self, frame: Frame) -> None:
        """Send a frame without waiting: what the pipe does not take now is kept for `flush`.

        Two workers that both wait until the other reads would otherwise hold up each other and the controller. Raises
        `WorkerFailure`.
        """
        if len(self.unsent) > MAX_UNSENT_BYTES:
            raise self.failure(f"expected it to read, more than {MAX_UNSENT_BYTES} bytes wait for it")
        self.unsent += pack(frame.kind, frame.payload, frame.route, frame.tag)
        self.flush()

    def flush(self) -> None:
        """Write as much of `unsent` as the pipe takes. Raises `WorkerFailure`."""
        try:
            del self.unsent[: write_some(self.worker.requests, self.unsent)]
        except ChannelError as error:
            raise self.failure(str(error)) from None

    def send(self, kind: Kind, payload: bytes, route: int = 0, tag: int = 0) -> None:
        """Send a frame. Raises `WorkerFailure`."""
        try:
            write_all(self.worker.requests, pack(kind, payload, route, tag), WRITE_TIMEOUT_S)
        except ChannelError as error:
            raise self.failure(str(error)) from None

    def expect(self, kind: Kind, timeout_s: float) -> bytes:
        """The payload of the next frame, which has to be of `kind`. Raises `WorkerFailure`."""
        try:
            frame = self.reader.receive(timeout_s)
        except ChannelError as error:
            raise self.failure(str(error)) from None
        return self._payload(frame, kind)

    def last_word(self, kind: Kind, timeout_s: float) -> bytes:
        """Tell it to stop; the payload of its frame of `kind`. What it says before that is for nobody any more.

        Raises `WorkerFailure`.
        """
        try:
            write_all(self.worker.requests, bytes(self.unsent) + pack(Kind.STOP, b""), WRITE_TIMEOUT_S)
            self.unsent.clear()
            while (frame := self.reader.receive(timeout_s)).kind in (Kind.REPLY, Kind.WORDS):
                pass
        except ChannelError as error:
            raise self.failure(str(error)) from None
        return self._payload(frame, kind)

    def _payload(self, frame: Frame, kind: Kind) -> bytes:
        if frame.kind == Kind.FAILURE:
            raise self.reported(frame)
        if frame.kind != kind:
            raise self.failure(f"expected {kind.name}, found {frame.kind.name}")
        return frame.payload

    def reported(self, frame: Frame) -> WorkerFailure:
        """The failure that the worker itself reports."""
        try:
            report = canonical.parse(FailureReport, frame.payload, "failure report")
        except MalformedInput as error:
            return self.failure(*self.discretion.failure("MalformedInput", str(error)))
        message, words = self.discretion.failure(report.code, report.message)
        return WorkerFailure(self.name, _printable(message), report.exit, words)

    def failure(self, problem: str, words: str = "") -> WorkerFailure:
        """A failure of this worker, with what is known of its end."""
        try:
            status: int | None = self.worker.process.wait(EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            status = None
        if status is None:
            state = "it still runs, and is killed"
        elif status < 0:
            state = f"it was ended by {signal.Signals(-status).name}"
        else:
            state = f"it ended with status {status}"
        return WorkerFailure(self.name, f"{problem}; {state}", words=words)


def relay(
    evals: Station,
    models: Sequence[Station | None],
    writer: Records,
    *,
    sample_timeout_s: float,
    end: float,
    on_sample: Callable[[], None],
    on_tested: Callable[[int, bytes], None],
    programs: Programs | None = None,
    until: int | None = None,
    listener: Listener | None = None,
) -> bytes | None:
    """Carry frames until the eval worker sends the results; their bytes. `end` is a `time.monotonic()` value.

    With `until`, until the transcript has so many samples, and then None: the eval worker waits for a word there.
    `models` has None for one that is not loaded; a request to it is out of place.
    `programs` takes the trials that the eval worker asks for. A request may wait in its model's queue as long as one
    may run, and for the self-test that follows a model's first one. `on_tested` gets that test's report, and whatever
    it raises ends the relay. `listener` is told what models say while they say it. Raises `WorkerFailure`. A
    `KeyboardInterrupt` passes through; `finish` gets the results of what there is.
    """
    waiting: Waiting = {}
    eval_deadline = time.monotonic() + EVAL_TIMEOUT_S
    stations = (evals, *filter(None, models))
    limit_s, asked, tested = 2 * sample_timeout_s + GRACE_S, set[int](), set[int]()
    with _interrupts_held() as interrupted, selectors.DefaultSelector() as selector:
        for station in stations:
            selector.register(station.worker.replies, selectors.EVENT_READ, station)
        while until is None or len(writer.samples) < until:
            if interrupted():
                raise KeyboardInterrupt
            now = time.monotonic()
            if waiting or (programs is not None and programs.busy):
                eval_deadline = now + EVAL_TIMEOUT_S  # it waits itself
            limit = min([end, eval_deadline, *waiting.values()])
            if now > limit:
                raise _late(evals, models, waiting, now, end)
            _watch_writers(selector, stations)
            if programs is not None:
                _tend(programs, selector, evals, now)
            for key, events in selector.select(min(limit - now + 0.01, 1.0)):
                station = key.data
                if events & selectors.EVENT_WRITE:
                    station.flush()
                    continue
                if programs is not None and station in programs.stations:
                    _from_program(selector, station, evals, partial(programs.read, station))
                    continue
                for frame in _frames(station):
                    if station is not evals and frame.kind == Kind.TESTED:
                        route = models.index(station)
                        on_tested(route, frame.payload)
                        tested.add(route)
                        waiting |= {key: time.monotonic() + limit_s for key in waiting if key[0] == route}
                    elif station is not evals:
                        _from_model(frame, models.index(station), station, evals, waiting, listener)
                    elif frame.kind == Kind.RESULTS:
                        return frame.payload
                    elif programs is not None and frame.kind == Kind.REQUEST and frame.route == PROGRAMS:
                        if not programs.submit(frame):
                            raise evals.failure("it asks for more trials than may wait")
                    else:
                        # What comes after a model's first request waits for its self-test.
                        patience_s = TIMEOUT_S if frame.route in asked - tested else 0.0
                        _from_evals(frame, evals, models, writer, waiting, limit_s + patience_s, on_sample)
                        if frame.kind == Kind.REQUEST:
                            asked.add(frame.route)
                    eval_deadline = time.monotonic() + EVAL_TIMEOUT_S
    return None


def _tend(programs: Programs, selector: selectors.BaseSelector, evals: Station, now: float) -> None:
    """Start what can be started, and end what is late."""
    for station in programs.late(now):
        _from_program(selector, station, evals, partial(programs.give_up, station))
    for station in programs.start():
        selector.register(station.worker.replies, selectors.EVENT_READ, station)


def _from_program(
    selector: selectors.BaseSelector,
    station: Station,
    evals: Station,
    read: Callable[[], Frame | None],
) -> None:
    """Hand on the verdict, where there is one; its worker is gone then."""
    descriptor = station.worker.replies  # which is closed by the time that there is a reply
    selector.unregister(descriptor)
    reply = read()
    if reply is None:
        selector.register(descriptor, selectors.EVENT_READ, station)
    else:
        evals.forward(reply)


@contextmanager
def _interrupts_held() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is noted, and acted on between frames: one that was read and not stored yet would be lost."""
    noted: list[int] = []
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, lambda number, _frame: noted.append(number))
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _watch_writers(selector: selectors.BaseSelector, stations: Sequence[Station]) -> None:
    """Ask for a word when a pipe takes more, of those stations for which something is kept."""
    for station in stations:
        registered = station.worker.requests in selector.get_map()
        if station.unsent and not registered:
            selector.register(station.worker.requests, selectors.EVENT_WRITE, station)
        elif registered and not station.unsent:
            selector.unregister(station.worker.requests)


def finish(evals: Station, writer: Records, timeout_s: float = 60.0) -> bytes:
    """Tell the eval worker to stop; the results of what there is. Raises `WorkerFailure`."""
    evals.forward(Frame(Kind.STOP, 0, b"{}"))
    end = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(evals.worker.replies, selectors.EVENT_READ, evals)
        while (left := end - time.monotonic()) > 0:
            _watch_writers(selector, [evals])
            for _, events in selector.select(left):
                if events & selectors.EVENT_WRITE:
                    evals.flush()
                    continue
                for frame in _frames(evals):
                    if frame.kind == Kind.RESULTS:
                        return frame.payload
                    if frame.kind == Kind.FAILURE:
                        raise evals.reported(frame)
                    if frame.kind == Kind.SAMPLE:
                        _store(frame, evals, writer)
    raise evals.failure(f"expected results within {timeout_s:g} s, found none")


def _frames(station: Station) -> Iterator[Frame]:
    """What has come, one by one: what ends the run at one frame leaves those behind it for `finish`, which would
    otherwise store samples with a gap before them. Frames that came earlier are taken before the stream's end is told.
    """
    try:
        frame = station.reader.take()
        if frame is None:
            station.reader.fill()
            frame = station.reader.take()
    except ChannelError as error:
        raise station.failure(str(error)) from None
    while frame is not None:
        yield frame
        try:
            frame = station.reader.take()
        except ChannelError as error:
            raise station.failure(str(error)) from None


def _from_evals(
    frame: Frame,
    evals: Station,
    models: Sequence[Station | None],
    writer: Records,
    waiting: Waiting,
    timeout_s: float,
    on_sample: Callable[[], None],
) -> None:
    model = models[frame.route] if frame.route < len(models) else None
    if frame.kind == Kind.FAILURE:
        raise evals.reported(frame)
    if frame.kind == Kind.SAMPLE:
        _store(frame, evals, writer)
        on_sample()
    elif frame.kind == Kind.REQUEST and model is not None and _fits(frame, waiting):
        model.forward(frame)
        waiting[frame.route, frame.tag] = time.monotonic() + timeout_s
    elif frame.kind == Kind.CANCEL and model is not None:
        model.forward(frame)
    else:
        raise evals.failure(f"{frame.kind.name} to {frame.route} is out of place")


def _fits(frame: Frame, waiting: Waiting) -> bool:
    return (frame.route, frame.tag) not in waiting and len(waiting) < MAX_WAITING


def _from_model(
    frame: Frame, route: int, model: Station, evals: Station, waiting: Waiting, listener: Listener | None
) -> None:
    if frame.kind == Kind.FAILURE:
        raise model.reported(frame)
    if frame.kind == Kind.WORDS and listener is not None and (route, frame.tag) in waiting:
        listener.said(route, frame.tag, frame.payload)
        return
    if frame.kind != Kind.REPLY or (route, frame.tag) not in waiting:
        raise model.failure(f"{frame.kind.name} is out of place")
    del waiting[route, frame.tag]
    if listener is not None:
        listener.ended(route, frame.tag)
    evals.forward(Frame(Kind.REPLY, route, frame.payload, frame.tag))


def _store(frame: Frame, evals: Station, writer: Records) -> None:
    try:
        writer.sample(frame.payload)
    except MalformedInput as error:
        raise evals.failure(str(error)) from None


def _late(evals: Station, models: Sequence[Station | None], waiting: Waiting, now: float, end: float) -> WorkerFailure:
    if now > end:
        return WorkerFailure("eval", "expected the run to end within limits.wall_time_s, it did not")
    late = [models[route] for (route, _), deadline in waiting.items() if deadline < now]
    return ((late and late[0]) or evals).failure("expected an answer in time, found none")


def _printable(text: str) -> str:
    """Text that a worker wrote, without what could steer a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)[:4000]
