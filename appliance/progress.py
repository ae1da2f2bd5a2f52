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
        self._started: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Report that `done` of `total` of `phase` is done."""
        with self._lock:
            now = time.monotonic()
            elapsed = now - self._started.setdefault(phase, now)
            unit, scale = (" MiB", BYTES) if total >= BYTES else ("", 1)
            rate = f"{done / scale / elapsed:.1f}{unit}/s" if elapsed > 0 and done else ""
            if self._drawn:
                if phase not in self._tasks:
                    self._tasks[phase] = self._bars.add_task(phase, total=total / scale, rate="")
                finished = done >= total
                self._bars.update(
                    self._tasks[phase], completed=done / scale, total=total / scale, rate=rate, visible=not finished
                )
            elif elapsed and now - self._said.setdefault(phase, self._started[phase]) >= INTERVAL_S:
                self._said[phase] = now
                left = f", {elapsed / done * (total - done):.0f} s left" if done else ""
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
