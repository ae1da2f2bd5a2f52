"""Starts workers: a Python process with the plan's environment only, three pipes, and named descriptors.

`standby` starts the process, which imports its code and waits at its door; `Standby.begin` gives it plan and files;
then it is a `Worker`. `spawn` does both at once. Before `begin` the process has seen no plan and no byte of a job. The
plan travels as a sealed memory file under the name `plan`. The worker calls `received` first, and with what it finds
there `enter`. Workers are started from a thread that lives as long as they do: the kernel kills a sealed worker when
the thread that started it ends.

What is started is `keeper.py`, which forks the worker into a PID namespace of its own and waits for it.

The interpreter runs with -P (no script directory on the path) -s (no user packages) -B (no bytecode written). Not with
-I, which would also ignore the fixed PYTHONHASHSEED; nothing else that Python would read is in the environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import appliance
from appliance.seal.door import DOOR, PLAN, pass_on, received
from appliance.seal.plan import ENVIRONMENT, Identity, Kind, SealPlan
from attest import canonical
from attest.errors import EnvironmentProblem
from attest.sealplan import Variable

__all__ = ["LINE_BYTES", "Log", "Standby", "Worker", "pump", "received", "sealed_file", "spawn", "standby"]

Log = Callable[[bytes], None]
"""Takes one line of a worker's standard error, of at most `LINE_BYTES`: untrusted bytes."""

LINE_BYTES = 4096
READ_BYTES = 1 << 16
KEEPER = Path(__file__).with_name("keeper.py")
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True)
class Worker:
    """A running worker. `requests` and `replies` are raw file descriptors of the controller's ends of its pipes."""

    process: subprocess.Popen[bytes]
    """The process, of its own session and process group: the keeper, which ends as the worker ends, or the worker."""
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


@dataclass
class Standby:
    """A worker's process that waits for its plan."""

    module: str
    """What it runs."""
    environment: tuple[Variable, ...]
    """The environment in which its interpreter started."""
    identity: Identity | None
    """The user that it would be in a PID namespace; None where it was started without asking for one."""
    process: subprocess.Popen[bytes]
    """The process."""
    door: socket.socket
    """Where plan and files go."""
    sink: _Sink
    """Takes what it prints."""

    def fits(self, module: str, plan: SealPlan) -> bool:
        """Whether this process, as it was started, can be the worker `module` of `plan`."""
        return (
            self.module == module
            and set(self.environment) <= set(plan.environment)
            and self.identity == _alone(plan)
            and self.process.poll() is None
        )

    def begin(self, plan: SealPlan, fds: Mapping[str, int], log: Log, args: Sequence[str] = ()) -> Worker:
        """Give it `plan`, `args` and the named descriptors, which stay open here. Once; `log` as in `spawn`.

        Raises `RuntimeError` for a plan that it does not fit.
        """
        if not self.fits(self.module, plan) and self.process.poll() is None:
            raise RuntimeError("expected the plan for which the process was started, found another one")
        self.sink.log = log
        plan_fd = sealed_file("vitrine-plan", canonical.dump_model(plan))
        try:
            pass_on(self.door, args, {**fds, PLAN: plan_fd})
        finally:
            os.close(plan_fd)
            self.door.close()
        return self._worker()

    def kill(self) -> None:
        """End it; for one that did not begin."""
        self.door.close()
        self._worker().kill()

    def _worker(self) -> Worker:
        process = self.process
        return Worker(process, _pipe(process.stdin).fileno(), _pipe(process.stdout).fileno(), self.sink.thread)


class _Sink:
    """Hands what a worker prints to `log`, line by line, from a thread."""

    def __init__(self, stream: IO[bytes], log: Log) -> None:
        self.log = log
        self.thread = threading.Thread(target=pump, args=(stream, self.take), name="worker-log", daemon=True)
        self.thread.start()

    def take(self, line: bytes) -> None:
        """One line, for whoever listens now."""
        self.log(line)


def spawn(
    module: str,
    args: Sequence[str] = (),
    *,
    fds: Mapping[str, int],
    plan: SealPlan,
    log: Log,
) -> Worker:
    """Start `module` as a worker that will seal itself by `plan`.

    `fds`: descriptors that it gets, by name; they stay open here. `log` is called from a thread.
    """
    return _stand_by(module, plan.environment, _alone(plan), log).begin(plan, fds, log, args)


def standby(module: str, kind: Kind, log: Log) -> Standby:
    """Start the process of `module`, a worker of `kind`, ahead of its plan. Who starts it begins or kills it."""
    return _stand_by(module, ENVIRONMENT[kind], Identity(), log)


def _stand_by(module: str, environment: tuple[Variable, ...], identity: Identity | None, log: Log) -> Standby:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-s", "-B", str(KEEPER), f"--controller={os.getpid()}"),
                *([f"--user={identity.uid}:{identity.gid}"] if identity else []),
                *(f"--root={root}" for root in _roots(module)),
                *(module, f"{DOOR}{theirs.fileno()}"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(theirs.fileno(),),
            env={variable.name: variable.value for variable in environment},
            cwd="/",
            start_new_session=True,
            umask=0o077,
        )
    return Standby(module, environment, identity, process, ours, _Sink(_pipe(process.stderr), log))


def _alone(plan: SealPlan) -> Identity | None:
    """Who the worker of `plan` is in a PID namespace of its own, None when the plan asks for no such namespace."""
    return plan.identity if "pid" in plan.namespaces else None


def _roots(module: str) -> list[str]:
    """The folders in which the worker finds this project and `module`."""
    spec = find_spec(module.partition(".")[0])
    places = [*appliance.__path__, *((spec.submodule_search_locations or []) if spec else [])]
    return list(dict.fromkeys(str(Path(place).parent) for place in places))


def sealed_file(name: str, data: bytes) -> int:
    """A descriptor of a memory file with `data`, at its start, that nobody can change. The caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd


def pump(stream: IO[bytes], log: Log) -> None:
    """Hand the lines of `stream` to `log` until it ends, each cut to `LINE_BYTES`; then close it."""
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
