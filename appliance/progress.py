"""Progress on standard error: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from attest.console import ERR

INTERVAL_S = 5.0
BYTES = 1 << 20
"""Totals from here on are sizes, and shown in MiB."""


class Reporter:
    """Called with (phase, done, total), from any thread; a context manager. `bars`: draw some on a terminal."""

    def __init__(self, *, bars: bool = True) -> None:
        self._drawn = bars and ERR.is_terminal
        self._lock = threading.Lock()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=ERR,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}
        """When a phase was first heard of, and how much of it was done by then, in an earlier run."""
        self._done: dict[str, int] = {}
        self._said: dict[str, float] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Report that `done` of `total` of `phase` is done. It never goes back, nor beyond the whole."""
        with self._lock:
            now = time.monotonic()
            done = self._done[phase] = max(min(done, total), self._done.get(phase, 0))
            began, before = self._began.setdefault(phase, (now, done))
            speed = (done - before) / (now - began) if now > began else 0.0
            unit, scale = (" MiB", BYTES) if total >= BYTES else ("", 1)
            rate = f"{speed / scale:.1f}{unit}/s" if speed else ""
            if self._drawn:
                if phase not in self._tasks:
                    self._tasks[phase] = self._bars.add_task(phase, total=total / scale, rate="")
                finished = done >= total
                self._bars.update(
                    self._tasks[phase], completed=done / scale, total=total / scale, rate=rate, visible=not finished
                )
            elif now - self._said.setdefault(phase, began) >= INTERVAL_S:
                self._said[phase] = now
                left = f", {(total - done) / speed:.0f} s left" if speed else ""
                ERR.print(f"{phase}: {done / scale:.0f}/{total / scale:.0f}{unit} {rate}{left}")

    def __enter__(self) -> Reporter:
        if self._drawn:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self._bars.stop()
