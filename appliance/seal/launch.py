"""Starts workers: a Python process with the plan's environment only, three pipes, and named descriptors.

The plan travels as a sealed memory file under the name `plan`. The worker calls `received` first, and with what it
finds there `enter`. Workers are started from a thread that lives as long as they do: the kernel kills a sealed worker
when the thread that started it ends.

The interpreter runs with -P (no script directory on the path) -s (no user packages) -B (no bytecode written). Not with
-I, which would also ignore the fixed PYTHONHASHSEED; nothing else that Python would read is in the environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import appliance
from appliance.seal.plan import SealPlan
from attest import canonical
from attest.errors import EnvironmentProblem

Log = Callable[[bytes], None]
"""Takes one line of a worker's standard error, of at most `LINE_BYTES`: untrusted bytes."""

LINE_BYTES = 4096
READ_BYTES = 1 << 16
PLAN = "plan"
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

# The import root goes last on the path, so that it shadows nothing; an installed project finds itself there anyway.
_START = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); module = sys.argv.pop(1); "
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True)
class Worker:
    """A running worker. `requests` and `replies` are raw file descriptors of the controller's ends of its pipes."""

    process: subprocess.Popen[bytes]
    """The process; its own session and process group."""
    requests: int
    """What is written here, the worker reads as descriptor 0."""
    replies: int
    """What the worker writes to descriptor 1, is read here."""
    _pump: threading.Thread

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def stop(self, deadline_s: float = 5.0) -> int:
        """Close its input, wait for it, and after half of `deadline_s` kill all that is left of it.

        Returns the exit status, negative for a signal. Raises `EnvironmentProblem` when it cannot be reaped in time.
        """
        with contextlib.suppress(OSError):
            _pipe(self.process.stdin).close()
        try:
            self.process.wait(deadline_s / 2)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        try:
            status = self.process.wait(deadline_s / 2)
        except subprocess.TimeoutExpired:
            raise EnvironmentProblem(f"worker {self.process.pid}: killed, not gone after {deadline_s:g} s") from None
        self._pump.join(deadline_s / 2)
        _pipe(self.process.stdout).close()
        return status

    def kill(self, deadline_s: float = 5.0) -> int:
        """Kill it at once, and reap it within `deadline_s`. Returns the exit status."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive():
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.stop(deadline_s)


def spawn(
    module: str,
    args: Sequence[str] = (),
    *,
    fds: Mapping[str, int],
    plan: SealPlan,
    log: Log,
) -> Worker:
    """Start `module` as a worker that will seal itself by `plan`.

    `fds`: descriptors that it inherits under their own numbers, by name; they stay open here. `log` is called from a
    thread.
    """
    plan_fd = sealed_file("vitrine-plan", canonical.dump_model(plan))
    try:
        named = {**fds, PLAN: plan_fd}
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-s", "-B", "-c", _START),
                *(str(Path(appliance.__path__[0]).parent), module, *args),
                *(f"--fd={name}:{fd}" for name, fd in sorted(named.items())),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=tuple(named.values()),
            env={variable.name: variable.value for variable in plan.environment},
            cwd="/",
            start_new_session=True,
            umask=0o077,
        )
    finally:
        os.close(plan_fd)
    pump = threading.Thread(target=_pump, args=(_pipe(process.stderr), log), name="worker-log", daemon=True)
    pump.start()
    return Worker(process, _pipe(process.stdin).fileno(), _pipe(process.stdout).fileno(), pump)


def received(argv: Sequence[str]) -> tuple[SealPlan, dict[str, int], list[str]]:
    """What a worker was given, from `sys.argv[1:]`: its plan, its named descriptors, and the other arguments.

    Raises `RuntimeError` when it was not started by `spawn`, `MalformedInput` when the plan is not well formed.
    """
    named: dict[str, int] = {}
    others: list[str] = []
    for argument in argv:
        if argument.startswith("--fd="):
            name, _, number = argument.removeprefix("--fd=").rpartition(":")
            named[name] = int(number)
        else:
            others.append(argument)
    if PLAN not in named:
        raise RuntimeError("expected a plan among the descriptors: workers are started by appliance.seal.spawn")
    with open(named.pop(PLAN), "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        return canonical.parse(SealPlan, file.read(), "seal plan"), named, others


def sealed_file(name: str, data: bytes) -> int:
    """A descriptor of a memory file with `data`, at its start, that nobody can change. The caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd


def _pump(stream: IO[bytes], log: Log) -> None:
    """Hand lines to `log` until the stream ends; longer ones are cut."""
    line = bytearray()
    with stream:
        while data := stream.read(READ_BYTES):
            for piece in data.splitlines(keepends=True):
                line += piece[: LINE_BYTES - len(line)]
                if piece.endswith((b"\n", b"\r")):
                    log(bytes(line).rstrip(b"\r\n"))
                    line.clear()
    if line:
        log(bytes(line))


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RuntimeError("expected a pipe to the worker")
    return stream
