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
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import structlog

from appliance.enclave import seccomp
from appliance.enclave.channel import Host, printable
from appliance.enclave.container import ContainerPlan, Runtime, needed
from appliance.enclave.render import SECCOMP_FD, Command, Place, render
from appliance.seal import kernel
from appliance.seal.launch import sealed_file
from attest.errors import EnvironmentProblem, VitrineError

LOG = structlog.get_logger()
TOOLS: dict[Runtime, tuple[str, ...]] = {
    "runc": ("runc",),
    "podman": ("podman",),
    "bubblewrap": ("bwrap", "prlimit"),
}
"""The programs that each runtime needs."""
PACKAGES: dict[Runtime, str] = {"runc": "runc", "podman": "podman", "bubblewrap": "bubblewrap"}
HELLO_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 10.0
CLEANUP_TIMEOUT_S = 30.0
LINE_BYTES = 4096
LAST_WORDS = 5
SHOWN_LEVELS = ("debug", "info", "warning", "error")
MAX_FIELDS = 16
OURS = frozenset({"inside", "timestamp", "exc_info", "stack_info"})
"""Fields of a log line that the host writes itself."""


class StartRefused(EnvironmentProblem):
    """A container that did not come as far as hello: nothing of the run has happened."""


@dataclass
class Running:
    """A container that said hello."""

    host: Host
    """The host's end of the channel."""
    process: subprocess.Popen[bytes]
    """The runtime."""
    words: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_WORDS))
    """The last lines that it wrote to standard error."""

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
            raise EnvironmentProblem("runc: expected root, or podman or bubblewrap in its place: leave out --runtime")
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
    command = render(plan, seccomp.parse(policy_data), place)
    folder.mkdir(mode=0o700)
    for name, data in command.files.items():
        (folder / name).write_bytes(data)
    process = _spawn(command)
    words: deque[str] = deque(maxlen=LAST_WORDS)
    pump = threading.Thread(target=_pump, args=(_pipe(process.stderr), words), name="container-log", daemon=True)
    pump.start()

    def gone() -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        status = "it still runs, and is killed" if process.poll() is None else f"it ended with {process.returncode}"
        pump.join(1.0)
        return f"{status}; its last words: {' / '.join(words) or 'none'}"

    host = Host(_pipe(process.stdout).fileno(), _pipe(process.stdin).fileno(), gone)
    try:
        try:
            hello = host.hello(HELLO_TIMEOUT_S)
        except VitrineError as error:
            raise StartRefused(f"{plan.runtime}: {error}") from None
        LOG.info("container started", runtime=plan.runtime, version=hello.version, plan=plan.policy_digest())
        yield Running(host, process, words)
    finally:
        _end(process, command)
        pump.join(CLEANUP_TIMEOUT_S)


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


def _end(process: subprocess.Popen[bytes], command: Command) -> None:
    """Whatever happened: no process and no container is left."""
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
    for argv in command.cleanup:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(argv, check=False, capture_output=True, timeout=CLEANUP_TIMEOUT_S)


def _pump(stream: IO[bytes], words: deque[str]) -> None:
    """What the container writes to standard error: untrusted lines, cut, cleaned, and shown as log lines of ours."""
    line = bytearray()
    with stream:
        while data := stream.read(1 << 16):
            for piece in data.splitlines(keepends=True):
                line += piece[: LINE_BYTES - len(line)]
                if piece.endswith((b"\n", b"\r")):
                    _log(bytes(line), words)
                    line.clear()
    if line:
        _log(bytes(line), words)


def _log(line: bytes, words: deque[str]) -> None:
    text = printable(line.decode("utf-8", "replace").strip())
    if not text:
        return
    record = _record(text)
    level, event = record.pop("level", None), record.pop("event", None)
    if level not in SHOWN_LEVELS or not isinstance(event, str):
        words.append(text[:300])
        LOG.debug("container log", line=text)
        return
    if level in ("warning", "error"):
        words.append(event)
    fields = {key: value for key, value in record.items() if key not in OURS and isinstance(value, (str, int))}
    getattr(LOG, level)(event, inside=True, **dict(list(fields.items())[:MAX_FIELDS]))


def _record(text: str) -> dict[str, Any]:
    """A log line of the appliance in the container; empty for any other line."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RuntimeError("expected a pipe to the container")
    return stream
