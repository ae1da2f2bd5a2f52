"""One pinned model in a sealed worker, to ask directly: what the bridges to other harnesses are built on.

    with open_session(Path("model.gguf")) as session:
        likelihoods = session.ask_all([choose("2 + 2 =", [" 4", " 5"]), choose("3 + 3 =", [" 6", " 7"])])

What a session opens with is a run's own: engine and model are hashed into sealed memory, the worker seals itself and
tries what it must not be able to do, and the self-test has to find every bit independent of how it was computed. So a
reply is a function of the pinned bytes and of the request: not of what else was asked, nor in which order.

Sealed is the model. Whoever holds the session is an ordinary process, and nothing that it makes of replies is signed.
"""

from __future__ import annotations

import itertools
import os
import selectors
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from appliance import boot, lock, workers
from appliance.engine import places
from appliance.engine.recipe import load_record, require_cpu
from appliance.evals.conversation import Answer, Ask, request
from appliance.evals.sample import read
from appliance.frames import MAX_PAYLOAD_BYTES, ChannelError, Frame, Kind
from appliance.job import LoadedJob
from appliance.memfd import no_progress
from appliance.relay import GRACE_S, Station, WorkerFailure
from appliance.selftests import TIMEOUT_S, SelfTests
from attest import canonical, lockfile
from attest.canonical import Model
from attest.errors import MalformedInput
from attest.job import Job, JobModel, JobSuite, Limits, Numerics, Sampling
from attest.lockfile import Artifact
from attest.sample import Message, SampleError
from attest.seal import WorkerSeal

MODEL = "target"
Request = dict[str, Any]
"""What a model worker is sent, see `appliance.evals.conversation.request`."""


class Settings(Model):
    """How a session computes, and what bounds it."""

    limits: Limits = Limits()
    """Context, memory and time; `wall_time_s` bounds nothing here."""
    numerics: Numerics = Numerics()
    """Engine profile, requests side by side, threads. The replies are the same for any number of both."""
    seed: int = Field(default=0, ge=0, le=2**53 - 1)
    """Decides, with the name of a request, what is drawn."""


USUAL = Settings()


@dataclass(frozen=True)
class Roll(Ask):
    """Weigh the one option as a whole text, after nothing, in windows of the context where it is longer than that."""


@dataclass(frozen=True)
class Reply:
    """What the worker says to one request."""

    answer: Answer
    """Tokens and text, or options with their log-likelihoods; or the error."""
    greedy: tuple[bool, ...] = ()
    """Of each option, whether each of its tokens was the likeliest where it stands."""


@dataclass
class Session:
    """An open session. Any thread may ask; replies come as they are ready."""

    settings: Settings
    """As it was opened."""
    pins: tuple[Artifact, ...]
    """What was hashed: model, engine, record of its build, system call policies."""
    seal: WorkerSeal
    """What the worker reports of its seal."""
    _station: Station
    _writing: threading.Lock = field(default_factory=threading.Lock)
    _tags: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _asked: dict[int, tuple[Ask, Future[Reply]]] = field(default_factory=dict)
    _over: WorkerFailure | None = None

    @property
    def model(self) -> Artifact:
        """What was pinned of the model."""
        return next(item for item in self.pins if item.kind == "model")

    def submit(self, ask: Ask, stream: str = "") -> Future[Reply]:
        """Put one request; `stream` names its draws. The future raises `WorkerFailure` when the worker is gone.

        A request that the model cannot serve is answered with an error, as in a sample's record.
        """
        future: Future[Reply] = Future()
        payload = canonical.dumps(self.request(ask, stream))
        if len(payload) > MAX_PAYLOAD_BYTES:
            message = f"expected a request of at most {MAX_PAYLOAD_BYTES} bytes, found {len(payload)}"
            future.set_result(Reply(Answer(error=SampleError(code="size", message=message))))
            return future
        with self._writing:
            if self._over is not None:
                raise self._over
            tag = next(self._tags)
            self._asked[tag] = (ask, future)
            self._station.send(Kind.REQUEST, payload, tag=tag)
        return future

    def ask_all(self, asks: Iterable[Ask], streams: Iterable[str] = itertools.repeat("")) -> list[Reply]:
        """The replies to all of `asks`, in their order. Raises `WorkerFailure`."""
        futures = [self.submit(ask, stream) for ask, stream in zip(asks, streams, strict=False)]
        return [future.result() for future in futures]

    def request(self, ask: Ask, stream: str) -> Request:
        """What the worker is sent for `ask`."""
        settings = self.settings
        timeout_s = settings.limits.sample_timeout_s
        if isinstance(ask, Roll):
            return {"op": "roll", "text": (ask.options or ("",))[0], "timeout_s": timeout_s}
        sent = request(ask, timeout_s=timeout_s, sampling=Sampling(), seed=settings.seed, stream=stream)
        return sent | ({"from_start": True} if ask.raw else {})

    def listen(self) -> None:
        """Hand replies to whoever asked, until the worker is gone or hangs. Runs in a thread of its own."""
        patience_s = 2 * self.settings.limits.sample_timeout_s + GRACE_S
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._station.worker.replies, selectors.EVENT_READ)
                while True:
                    if not selector.select(patience_s):
                        if self._asked:
                            raise ChannelError(f"expected an answer within {patience_s:g} s, found none")
                        continue
                    self._station.reader.fill()
                    while (frame := self._station.reader.take()) is not None:
                        self._take(frame)
        except (ChannelError, MalformedInput, KeyError) as error:
            self._end(self._station.failure(str(error)))

    def close(self) -> None:
        """Tell the worker to stop; what is still asked fails."""
        with self._writing, suppress(WorkerFailure):
            self._station.send(Kind.STOP, b"")

    def _take(self, frame: Frame) -> None:
        if frame.kind != Kind.REPLY:
            raise ChannelError(f"{frame.kind.name} is out of place")
        ask, future = self._asked.pop(frame.tag)
        future.set_result(read_reply(ask, frame.payload))

    def _end(self, failure: WorkerFailure) -> None:
        with self._writing:
            self._over = failure
            asked = [future for _, future in self._asked.values()]
            self._asked.clear()
        for future in asked:
            future.set_exception(failure)


def choose(text: str, options: Sequence[str]) -> Ask:
    """Weigh `options` after `text`, which is put to the model as it is."""
    return Ask((Message(role="user", content=text),), options=tuple(options), raw=True)


def roll(text: str) -> Roll:
    """Weigh `text`, which may be longer than the context."""
    return Roll((Message(role="user", content=""),), options=(text,), raw=True)


def complete(text: str, sampling: Sampling, stop: Sequence[str] = ()) -> Ask:
    """Go on with `text`, which is put to the model as it is."""
    return Ask((Message(role="user", content=text),), sampling=sampling, stop=tuple(stop), raw=True)


def read_reply(ask: Ask, payload: bytes) -> Reply:
    """What a worker's reply says. Raises `MalformedInput` for what is no JSON object."""
    value = canonical.loads(payload, "reply")
    if not isinstance(value, dict):
        raise MalformedInput("reply", f"expected an object, found {type(value).__name__}")
    greedy = value.get("greedy")
    return Reply(read(ask, value), tuple(one is True for one in greedy) if isinstance(greedy, list) else ())


def decimal(value: float | str) -> str:
    """A number of another harness's settings as ours write it."""
    return f"{float(value):.12f}".rstrip("0").rstrip(".")


@contextmanager
def open_session(model: Path, *, engine: Path | None = None, settings: Settings = USUAL) -> Iterator[Session]:
    """A session with the GGUF file `model` (of shards, the first); the worker is killed when the context ends.

    `engine`: the folder of the engine; the checkout's or the cached one when absent. Raises `EnvironmentProblem` where
    there is none, `MalformedInput` for a file that is no model, `VerificationError` for a worker whose seal or
    self-test is not as it has to be, `WorkerFailure` for one that could not start.
    """
    folder = places.find(engine, settings.numerics.profile)
    record = load_record(folder)
    require_cpu(record, Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    root = Path.cwd()
    path = os.path.relpath(model.absolute(), root)
    job = Job(
        format="vitrine/job/v1",
        name="session",
        seed=settings.seed,
        models=(JobModel(id=MODEL, path=path),),
        suites=(JobSuite(path="session"),),  # asked from outside: no suite of ours
        limits=settings.limits,
        numerics=settings.numerics,
    )
    # 1. Hash, pin, load into sealed memory what was hashed.
    pins = lock.beneath(LoadedJob(job, root), folder, root)
    numerics = lockfile.Numerics(profile=record.profile, engine_recipe=record.recipe_digest)
    pinned = lockfile.write(lockfile.make(numerics, pins))
    with (
        boot.boot(pinned, root, lock.resolver(root, folder), progress=no_progress) as booted,
        # 2. The worker, sealed.
        workers.start_model(job, booted) as (station, seal),
    ):
        # 3. The first request, after which the worker tests itself.
        station.discretion.begin()
        tests = SelfTests(job)
        session = Session(settings, tuple(pins), seal, station)
        station.send(Kind.REQUEST, canonical.dumps(session.request(choose("", ["1"]), "")))
        station.expect(Kind.REPLY, TIMEOUT_S)
        tests.take(0, station.expect(Kind.TESTED, TIMEOUT_S))
        # 4. Whatever is asked.
        listener = threading.Thread(target=session.listen, name="session", daemon=True)
        listener.start()
        try:
            yield session
        finally:
            session.close()
            listener.join(GRACE_S)
