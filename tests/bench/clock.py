"""Wall and CPU seconds: of this process, and of another one while it runs.

The machine is shared, so what counts is CPU time; wall time stands beside it. A program that reports how long its last
phase took is sampled while it runs, so that the CPU time of that phase can be told from the rest.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.01
"""How often another process's clock is read."""


@dataclass(frozen=True)
class Spent:
    """What one phase took."""

    wall_s: float
    cpu_s: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)

    def part(self, share: float) -> Spent:
        """This times `share`."""
        return Spent(self.wall_s * share, self.cpu_s * share)


class Watch:
    """Measures a block in this process: `with Watch() as watch: ...; watch.spent`."""

    spent: Spent

    def __enter__(self) -> Watch:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.spent = Spent(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def cpu_of(pid: int) -> float:
    """CPU seconds of a running process, all its threads. Raises `OSError` once it has ended."""
    # linux/posix-timers.h: a process's clock is its inverted id, shifted, with CPUCLOCK_SCHED (2).
    return time.clock_gettime((~pid << 3) | 2)


def run(command: Sequence[str | Path], *, cwd: Path, environment: Mapping[str, str] | None = None) -> Spent:
    """Run a program to its end, with the processes that it waits for. Raises `RuntimeError` with its last words."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said.decode(errors='replace')[-2000:]}")
    return Spent(time.perf_counter() - started, usage.ru_utime + usage.ru_stime)


class Sampled:
    """A program whose output is read line by line while its CPU clock is sampled."""

    def __init__(self, command: Sequence[str | Path], *, environment: Mapping[str, str]) -> None:
        self._command = [str(part) for part in command]
        self._process = subprocess.Popen(
            self._command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._times: list[float] = []
        self._cpu: list[float] = []

    def lines(self) -> Iterator[str]:
        """Each line of standard output as it comes. Raises `RuntimeError` if the program fails."""
        process, errors, pending = self._process, b"", b""
        assert process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            stack.callback(self._stop)
            for stream in (process.stdout, process.stderr):
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(SAMPLE_S)
                with contextlib.suppress(OSError):
                    self._cpu.append(cpu_of(process.pid))
                    self._times.append(time.perf_counter())
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stderr:
                        errors = (errors + data)[-4000:]
                    else:
                        *complete, pending = (pending + data).split(b"\n")
                        for line in complete:
                            yield line.decode("utf-8", "replace")
            if process.wait() != 0:
                text = errors.decode(errors="replace")
                raise RuntimeError(f"{' '.join(self._command)} ended with {process.returncode}: {text}")

    def last(self, wall_s: float) -> Spent:
        """The phase of `wall_s` seconds that ended with the line that was just read."""
        before = self._times[-1] - wall_s
        at = bisect.bisect_left(self._times, before)
        if at == 0:
            raise RuntimeError(f"expected a phase that began while the program ran, found one of {wall_s:g} s")
        (t0, c0), (t1, c1) = ((self._times[i], self._cpu[i]) for i in (at - 1, at))
        return Spent(wall_s, self._cpu[-1] - (c0 + (c1 - c0) * (before - t0) / (t1 - t0)))

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def say(text: str) -> None:
    """A line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)
