"""Starts a container by its plan, and leaves nothing behind: no container, no mount, no folder.

Nothing of a run has happened when a container says hello: no file of the job was read, nothing was registered. So the
trial of a runtime is the start itself, and one that fails is followed by the next that is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import structlog

from appliance.enclave import guard, seccomp
from appliance.enclave.channel import Host
from appliance.enclave.container import ContainerPlan, Runtime, needed
from appliance.enclave.render import SECCOMP_FD, Command, Place, render
from appliance.enclave.runtimes import PODMAN_ADVICE, RUNC_ADVICE
from appliance.enclave.words import Words
from appliance.seal import kernel
from appliance.seal.launch import Log, pump, sealed_file
from appliance.seal.requirement import given_by
from attest.errors import EnvironmentProblem, Unsupported, VitrineError

LOG = structlog.get_logger()
TOOLS: dict[Runtime, tuple[str, ...]] = {
    "runc": ("runc",),
    "podman": ("podman",),
    "bubblewrap": ("bwrap", "prlimit"),
}
"""The programs that each runtime needs."""
PACKAGES: dict[Runtime, str] = {"runc": "runc", "podman": "podman", "bubblewrap": "bubblewrap"}
NEEDS: dict[Runtime, str] = {
    "runc": RUNC_ADVICE,
    "podman": PODMAN_ADVICE,
    "bubblewrap": given_by("namespace-user"),
}
"""What each takes of a host for a user that is not root."""
HELLO_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 10.0
CLEANUP_TIMEOUT_S = 30.0


class Launched(NamedTuple):
    """A runtime that was started."""

    process: subprocess.Popen[bytes]
    """Its process, with pipes to the standard input and output of what runs inside."""
    reader: threading.Thread
    """Reads its standard error to the end."""


class StartRefused(EnvironmentProblem):
    """A container that did not come as far as hello: nothing of the run has happened."""


@dataclass
class Running:
    """A container that said hello."""

    host: Host
    """The host's end of the channel."""
    process: subprocess.Popen[bytes]
    """The runtime."""

    def wait(self) -> None:
        """Give it time to end by itself, after its last frame."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_TIMEOUT_S)


def choices(forced: Runtime | None) -> tuple[Runtime, ...]:
    """The runtimes to try, in order: those that are installed. Raises `EnvironmentProblem` where there is none.

    runc is the smallest, and needs root here; podman is what most hosts have; bubblewrap needs nothing.
    """
    order: tuple[Runtime, ...] = ("runc", "podman", "bubblewrap") if os.geteuid() == 0 else ("podman", "bubblewrap")
    if forced is not None:
        if forced == "runc" and os.geteuid() != 0:
            raise EnvironmentProblem(f"runc: {RUNC_ADVICE}; leave out --runtime, or use podman or bubblewrap")
        order = (forced,)
    found = tuple(name for name in order if all(map(shutil.which, TOOLS[name])))
    if not found:
        wanted = " or ".join(PACKAGES[name] for name in order)
        raise EnvironmentProblem(
            f"wall container: expected {wanted} on this host, found none: install one (Debian: apt install "
            f"{PACKAGES[order[-1]]}), or use --wall process"
        )
    return found


def can_limit(controller: str, root: Path = Path("/sys/fs/cgroup")) -> bool:
    """Whether this host's control groups have `controller`, `memory` or `pids`, and the caller may use it."""
    if os.geteuid() != 0:
        return False  # what is delegated to a user differs by host; the plan then says that there is no limit
    version_2 = root / "cgroup.controllers"
    if version_2.exists():
        return controller in version_2.read_text("ascii").split()
    return (root / controller).is_dir()


def check_root(plan: ContainerPlan) -> None:
    """Raises `EnvironmentProblem` unless the image has the places where something is mounted."""
    if missing := [path for path in needed(plan) if not os.path.lexists(plan.root + path)]:
        raise EnvironmentProblem(f"the image in {plan.root} lacks {', '.join(missing)}: build it from images/cpu.toml")


@contextlib.contextmanager
def start(plan: ContainerPlan, folder: Path) -> Iterator[Running]:
    """The container of `plan`, which has said hello; gone when the context ends. `folder` is made for what it needs.

    Raises `StartRefused` when it does not start, `EnvironmentProblem` for an image that nothing can be mounted in.
    """
    words = Words()
    with launched(plan, folder, words.take) as (process, reader):

        def gone() -> str:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
                reader.join(1.0)
            status = "it still runs, and is killed" if process.poll() is None else f"it ended with {process.returncode}"
            return f"{status}; its last words: {words}"

        host = Host(_pipe(process.stdout).fileno(), _pipe(process.stdin).fileno(), gone)
        try:
            hello = host.hello(HELLO_TIMEOUT_S)
        except VitrineError as error:
            advice = "" if os.geteuid() == 0 else f"; what a user needs for it: {NEEDS[plan.runtime]}"
            raise StartRefused(f"{plan.runtime}: {error}{advice}") from None
        LOG.info("container started", runtime=plan.runtime, version=hello.version, plan=plan.policy_digest())
        yield Running(host, process)


@contextlib.contextmanager
def launched(plan: ContainerPlan, folder: Path, log: Log) -> Iterator[Launched]:
    """The runtime, which runs the command of `plan`; `log` takes what it writes to standard error.

    Raises as `start` does, which also waits for hello.
    """
    check_root(plan)
    policy_data = seccomp.read()
    if (found := seccomp.digest(policy_data)) != plan.seccomp:
        raise EnvironmentProblem(f"container's system call policy: expected {plan.seccomp}, found {found}")
    place = Place(
        tools={name: path for names in TOOLS.values() for name in names if (path := shutil.which(name))},
        folder=folder,
        name=f"vitrine-{secrets.token_hex(8)}",
        root=os.geteuid() == 0,
        architecture=kernel.architecture(),
    )
    try:
        command = render(plan, seccomp.parse(policy_data), place)
    except Unsupported as error:
        raise StartRefused(str(error)) from None
    folder.mkdir(mode=0o700)
    for name, data in command.files.items():
        (folder / name).write_bytes(data)
    with _guard(command) as orders:
        process = _spawn(command)
        reader = threading.Thread(target=pump, args=(_pipe(process.stderr), log), name="container-log", daemon=True)
        reader.start()
        try:
            _order(orders, process=process.pid)
            yield Launched(process, reader)
        finally:
            _end(process)
    reader.join(CLEANUP_TIMEOUT_S)


@contextlib.contextmanager
def _guard(command: Command) -> Iterator[IO[bytes]]:
    """A guard (`appliance.enclave.guard`) that cleans up after `command` when this context or this process ends: where
    its orders go."""
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", guard.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        cwd="/",
        start_new_session=True,
    )
    orders = _pipe(watcher.stdin)
    try:
        _order(orders, cleanup=command.cleanup)
        yield orders
    finally:
        orders.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            watcher.wait(CLEANUP_TIMEOUT_S)


def _order(orders: IO[bytes], **order: object) -> None:
    orders.write(json.dumps(order).encode("ascii") + b"\n")


def _spawn(command: Command) -> subprocess.Popen[bytes]:
    """The runtime, in a session of its own: Ctrl-C in the terminal reaches it through the channel, not as a signal."""
    fds = [sealed_file("vitrine-seccomp", command.program)] if command.program else []
    argv = [str(fds[0]) if word == SECCOMP_FD else word for word in command.argv]
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=tuple(fds),
            cwd="/",
            start_new_session=True,
            umask=0o077,
        )
    except OSError as error:
        raise StartRefused(f"{argv[0]}: cannot be started: {error.strerror}") from None
    finally:
        for fd in fds:
            os.close(fd)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever happened: the runtime ends. What it leaves is the guard's."""
    with contextlib.suppress(OSError):
        _pipe(process.stdin).close()  # the inside ends when its channel does
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CLEANUP_TIMEOUT_S)
    _pipe(process.stdout).close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RuntimeError("expected a pipe to the container")
    return stream
