"""Trials under way, as the controller sees them: each gets a sealed worker of its own, and an answer whatever happens.

A worker that ends, breaks the form or takes too long has a program that failed; one that is not sealed as it should be
ends the run. The controller reads no trial, and of an answer only that it is a verdict.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from appliance.frames import ChannelError, Frame, Kind
from appliance.programs import PROGRAMS
from appliance.programs.referee import Verdict
from appliance.relay import Station
from attest import canonical
from attest.errors import MalformedInput

SEAL_TIMEOUT_S = 300.0
TRIAL_TIMEOUT_S = 120.0
"""From a sealed worker's trial to its verdict; a trial's own time is less."""
MOST = 2
"""Workers at a time."""
MAX_WAITING = 4096


@dataclass
class _UnderWay:
    """A trial and its worker."""

    frame: Frame
    """What was asked."""
    deadline: float
    """A `time.monotonic()` value."""
    sealed: bool = False
    """Whether it has been told its trial."""


class Programs:
    """Starts workers with `hire`, and lets those work whose `HELLO` payload `admit` accepts (it raises otherwise)."""

    def __init__(self, hire: Callable[[], Station], admit: Callable[[bytes], object]) -> None:
        self._hire = hire
        self._admit = admit
        self._waiting: deque[Frame] = deque()
        self._running: dict[str, tuple[Station, _UnderWay]] = {}

    def submit(self, frame: Frame) -> bool:
        """Take a request; whether there was room for it."""
        self._waiting.append(frame)
        return len(self._waiting) <= MAX_WAITING

    def start(self) -> list[Station]:
        """Start workers for what waits, as far as there is room."""
        started = []
        while self._waiting and len(self._running) < MOST:
            station = self._hire()
            self._running[station.name] = (
                station,
                _UnderWay(self._waiting.popleft(), time.monotonic() + SEAL_TIMEOUT_S),
            )
            started.append(station)
        return started

    @property
    def busy(self) -> bool:
        """Whether any trial waits or runs."""
        return bool(self._waiting or self._running)

    @property
    def stations(self) -> list[Station]:
        """The workers there are."""
        return [station for station, _ in self._running.values()]

    def late(self, now: float) -> list[Station]:
        """Workers whose time is over."""
        return [station for station, trial in self._running.values() if trial.deadline < now]

    def read(self, station: Station) -> Frame | None:
        """Read what `station` says; the reply to the eval worker once there is one. Raises `WorkerFailure`."""
        trial = self._running[station.name][1]
        try:
            station.reader.fill()
            frame = station.reader.take()
        except ChannelError:
            if not trial.sealed:
                raise station.failure("expected it to seal itself, it ended") from None
            return self._answer(station, Verdict(verdict="failed", reason="the worker ended"))
        if frame is None:
            return None
        if frame.kind == Kind.FAILURE:
            raise station.reported(frame)
        if not trial.sealed:
            if frame.kind != Kind.HELLO:
                raise station.failure(f"expected HELLO, found {frame.kind.name}")
            self._admit(frame.payload)
            station.send(Kind.CONFIG, trial.frame.payload)
            trial.sealed, trial.deadline = True, time.monotonic() + TRIAL_TIMEOUT_S
            return None
        try:
            verdict = canonical.parse(Verdict, frame.payload, "verdict")
        except MalformedInput:
            verdict = Verdict(verdict="failed", reason="the verdict is none")
        return self._answer(station, verdict)

    def give_up(self, station: Station) -> Frame:
        """Kill a worker whose time is over; the reply to the eval worker. Raises `WorkerFailure` for one not sealed."""
        if not self._running[station.name][1].sealed:
            raise station.failure(f"expected it to seal itself within {SEAL_TIMEOUT_S:g} s")
        return self._answer(station, Verdict(verdict="timeout"))

    def _answer(self, station: Station, verdict: Verdict) -> Frame:
        _, trial = self._running.pop(station.name)
        station.worker.kill()
        return Frame(Kind.REPLY, PROGRAMS, canonical.dump_model(verdict), trial.frame.tag)
