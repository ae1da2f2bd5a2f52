"""The one channel between a run behind a wall and the host that has the lab: frames over two pipes (or one port).

    inside -> host   HELLO     here I am (JSON, `Hello`)
    host -> inside   CONFIG    what to run (JSON, `Start`)
    inside -> host   REQUEST   to the service that the route names: a question to the notary, progress, a file's piece
    host -> inside   REPLY     the answer to a question; the other services give none
    host -> inside   STOP      Ctrl-C: finish with what there is
    inside -> host   RESULTS   the run has ended, and its bundle is there (JSON, `Done`)
    inside -> host   FAILURE   the run has ended without one (JSON, `Failed`)

The host trusts nothing that comes: sizes and numbers are bounded, questions go to a `Desk` that knows what may be
asked, progress is cleaned before it is shown, and the first thing out of place ends the run with one error. Prompts and
completions are in none of these frames but a file's pieces, which are the bundle.
"""

from __future__ import annotations

import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, Literal, Protocol

from pydantic import Field, StringConstraints

from appliance.frames import ChannelError, Frame, Kind, Reader, pack, write_all
from appliance.memfd import Progress
from appliance.notary.desk import Desk
from appliance.seal.requirement import Requirement
from attest import canonical
from attest.canonical import MAX_INTEGER, Model
from attest.digest import Hex32
from attest.dsse import Base64
from attest.errors import Exit, MalformedInput, VitrineError
from attest.manifest import ContainerSection, Wall

WRITE_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 150.0
"""How long a run that was told to stop may take to finish with what there is."""
MAX_SMALL_BYTES = 64 << 10
"""Of a frame that is neither a question nor a piece of a file."""
MAX_LOCK_BYTES = 4 << 20
MAX_MESSAGE_CHARS = 4000
INTERRUPTED = 130
"""The exit status of a run that was interrupted, as in `attest.console`."""

InsidePath = Annotated[str, StringConstraints(pattern=r"^(/[^/\x00]+)+$", max_length=4096)]


class Service(IntEnum):
    """What a request is for; its frame's route."""

    NOTARY = 0
    """A question of `appliance.notary.protocol`; answered."""
    PROGRESS = 1
    """`Progress` as JSON; not answered."""
    FILE = 2
    """A piece of a file of the bundle, see `appliance.enclave.delivery`; not answered."""


class Hello(Model):
    """What the inside says first."""

    format: Literal["vitrine/enclave-hello/v1"] = "vitrine/enclave-hello/v1"
    """The format's name and version."""
    version: str = Field(max_length=64)
    """The version of the appliance there."""


class Start(Model):
    """What the inside is told. All paths are those inside the wall."""

    format: Literal["vitrine/enclave-start/v1"] = "vitrine/enclave-start/v1"
    """The format's name and version."""
    task: Literal["run", "lock"] = "run"
    """`run` the job, or write the `lock` of what it would run on here."""
    wall: Wall
    """The wall that the run is behind."""
    container: ContainerSection | None = None
    """Of a container, what the manifest says about it."""
    job: InsidePath
    """The job file."""
    lock: InsidePath | None = None
    """The lockfile, where one was given."""
    data: tuple[InsidePath, ...] = Field(default=(), max_length=64)
    """Folders in which data sets are looked for."""
    engine: InsidePath
    """The engine's folder."""
    out: InsidePath
    """The bundle's folder, which does not exist yet; of a lock, the folder that it is going to lie in."""
    version: int = Field(default=1, ge=1, le=MAX_INTEGER)
    """Of a lock, its version."""
    deliver: Literal["folder", "channel"]
    """Whether the bundle stays in its folder, or is sent over the channel as well."""
    sign_incomplete: bool = False
    """Sign what there is when the run ends early."""
    require_seal: Requirement = "any"
    """What the user asks of the workers' seals."""
    resume_key: Hex32 | None = None
    """The key by which the lab knows its own samples of this job, where the run may be gone on with."""
    resume: bool = False
    """Go on with the run that was cut off; what it left lies where this one would leave it."""
    verbose: bool = False
    """Log what workers print, too."""
    lab: str = Field(default="", max_length=253)
    """The lab's name; a lock needs none."""
    trusted_root: Base64 | None = None
    """The lab's trusted root, JSON; likewise."""
    challenge: Hex32 | None = None
    """The notary's random bytes for this run's evidence; likewise."""


class Step(Model):
    """How far a phase of the run is."""

    phase: str = Field(max_length=200)
    """What is being done."""
    done: int = Field(ge=0, le=MAX_INTEGER)
    """How much of it is done."""
    total: int = Field(ge=0, le=MAX_INTEGER)
    """How much there is."""


class Done(Model):
    """A run that left a bundle, or a lock that was written."""

    ended_by: Literal["done", "interrupted", "failed"]
    """How it ended."""
    lock: Base64 | None = Field(default=None, max_length=MAX_LOCK_BYTES)
    """The lockfile that was asked for."""


class Failed(Model):
    """A run that left none."""

    code: str = Field(max_length=100)
    """The class of the error."""
    message: str = Field(max_length=MAX_MESSAGE_CHARS)
    """For people."""
    exit: Literal[1, 10, 20, 30, 130]
    """The exit code of the command line."""


class EnclaveFailure(VitrineError):  # noqa: N818 - named as WorkerFailure is
    """A run behind a wall that could not go on, or was not allowed to. `exit_code` is what the run returns for it."""

    def __init__(self, problem: str, code: str = "EnclaveFailure", exit_code: int = Exit.FAULT) -> None:
        super().__init__(problem)
        self.code = code
        self.exit_code = Exit(exit_code)


class Pieces(Protocol):
    """Takes the pieces of files that come over the channel."""

    def take(self, payload: bytes) -> None:
        """One piece. Raises `MalformedInput`."""
        ...


class Refuse:
    """For a wall whose bundle comes another way: no piece is expected."""

    def take(self, payload: bytes) -> None:
        """Raises `MalformedInput`."""
        raise MalformedInput("channel", f"expected no files over it, found a piece of {len(payload)} bytes")


class Host:
    """The host's end: file descriptors to read from and to write to, the same one twice for a port."""

    def __init__(self, fd_in: int, fd_out: int, why_gone: Callable[[], str] = lambda: "") -> None:
        self._reader = Reader(fd_in)
        self._out = fd_out
        self._why_gone = why_gone

    def hello(self, timeout_s: float) -> Hello:
        """Wait for the other side to be there. Raises `EnclaveFailure`, `MalformedInput`."""
        try:
            frame = self._reader.receive(timeout_s)
        except (ChannelError, OSError) as error:
            raise self._failure(f"it did not start: {error}") from None
        if frame.kind == Kind.FAILURE:
            raise _reported(frame)
        _expect(frame.kind == Kind.HELLO, "HELLO first", frame)
        return canonical.parse(Hello, _small(frame), "hello of the inside")

    def attend(
        self, start: Start, desk: Desk | None, progress: Progress, *, timeout_s: float, pieces: Pieces | None = None
    ) -> Done:
        """Have `start` run, and serve it until it ends: how it ended. Ctrl-C is passed on, a second one is not.

        Without a desk no question to the notary is expected.

        Raises `EnclaveFailure`, also for what the inside reports; `KeyboardInterrupt` where the run was interrupted
        and left no bundle; `MalformedInput` and `VerificationError` for a peer that breaks the form or the order.
        """
        self._send(Kind.CONFIG, canonical.dump_model(start))
        end, stopped = time.monotonic() + timeout_s, False
        pieces = pieces or Refuse()
        with _interrupts_counted() as interrupts, selectors.DefaultSelector() as selector:
            selector.register(self._reader.fd, selectors.EVENT_READ)
            while True:
                if interrupts() > 1:
                    raise KeyboardInterrupt
                if interrupts() and not stopped:
                    stopped, end = True, min(end, time.monotonic() + STOP_TIMEOUT_S)
                    self._send(Kind.STOP, b"{}")
                left = end - time.monotonic()
                if left <= 0:
                    raise self._failure("expected the run to end in time, it did not")
                if not selector.select(min(left, 0.5)):
                    continue
                for frame in self._frames():
                    if (done := self._handle(frame, desk, progress, pieces)) is not None:
                        _expect(desk is None or desk.done, "every question of a run before its end", frame)
                        return done

    def _handle(self, frame: Frame, desk: Desk | None, progress: Progress, pieces: Pieces) -> Done | None:
        if frame.kind == Kind.RESULTS:
            return canonical.parse(Done, _small(frame, 2 * MAX_LOCK_BYTES), "end of the run")
        if frame.kind == Kind.FAILURE:
            raise _reported(frame)
        _expect(frame.kind == Kind.REQUEST, "a request, or the end of the run", frame)
        if frame.route == Service.NOTARY and desk is not None:
            self._send(Kind.REPLY, desk.answer(frame.payload), frame.tag)
        elif frame.route == Service.PROGRESS:
            step = canonical.parse(Step, _small(frame), "progress")
            progress(printable(step.phase), step.done, max(step.done, step.total))
        elif frame.route == Service.FILE:
            pieces.take(frame.payload)
        else:
            raise MalformedInput("channel", f"expected a request to a service that is open, found number {frame.route}")
        return None

    def _frames(self) -> Iterator[Frame]:
        try:
            self._reader.fill()
            while (frame := self._reader.take()) is not None:
                yield frame
        except (ChannelError, OSError) as error:
            raise self._failure(str(error)) from None

    def _send(self, kind: Kind, payload: bytes, tag: int = 0) -> None:
        try:
            write_all(self._out, pack(kind, payload, 0, tag), WRITE_TIMEOUT_S)
        except (ChannelError, OSError) as error:
            raise self._failure(str(error)) from None

    def _failure(self, problem: str) -> EnclaveFailure:
        why = self._why_gone()
        return EnclaveFailure(f"behind the wall: {problem}{'; ' + why if why else ''}")


def printable(text: str) -> str:
    """Text from the other side, on one line, without what could steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)[:MAX_MESSAGE_CHARS]


def _reported(frame: Frame) -> BaseException:
    """The failure that the inside reports."""
    failed = canonical.parse(Failed, _small(frame), "failure report")
    if failed.exit == INTERRUPTED:
        return KeyboardInterrupt()
    return EnclaveFailure(printable(failed.message), printable(failed.code), failed.exit)


def _small(frame: Frame, limit: int = MAX_SMALL_BYTES) -> bytes:
    if len(frame.payload) > limit:
        raise MalformedInput(
            "channel", f"expected at most {limit} bytes of {frame.kind.name}, found {len(frame.payload)}"
        )
    return frame.payload


def _expect(holds: bool, expected: str, frame: Frame) -> None:
    if not holds:
        raise MalformedInput("channel", f"expected {expected}, found {frame.kind.name}")


@contextmanager
def _interrupts_counted() -> Iterator[Callable[[], int]]:
    """Ctrl-C is counted, and acted on between frames, so that none of them is lost."""
    noted: list[int] = []
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: 0
        return
    signal.signal(signal.SIGINT, lambda number, _frame: noted.append(number))
    try:
        yield lambda: len(noted)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
