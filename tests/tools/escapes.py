"""Lets hostile code in a sealed worker try every escape, and judges from outside whether it was contained.

    python -m tests.tools.escapes [--kind eval|model] [--without LAYERS]

prints a line for each escape and one for each trace outside, and ends with 0 when all was contained. It needs nothing
but this project and Python, so it runs on a host, and in a container or a virtual machine, behind the wall that it
tests.

`--without` switches layers of the seal off, for the one worker of this test, and tries what should succeed then: the
counter-example that shows that the escapes and the witnesses work.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from appliance.seal import ReadOnlyPath, Worker, enter, plan_for, received, sealed_file, spawn
from appliance.seal.outcome import errno_name, unavailable
from attest.sealplan import SEALED_ID, Kind
from tests.tools import escape_attempts, escape_files, escape_table
from tests.tools.escape_table import ESCAPES, Escape, Stage

MODULE = "tests.tools.escapes"
MEMORY_BYTES = 256 << 20
DEADLINE_S = 60.0
DATA = b"data set " * 1000
CANARY = b"nobody writes here\n"
CLOCK_S = 5.0
"""More than this is no adjustment."""
DEATH_S = 5.0
SHARED_KEY = str(0x7654321)
TABLES = (escape_attempts, escape_files)
"""Who fill the table, in this order."""


@dataclass(frozen=True)
class Result:
    """What came of the escapes of one worker."""

    status: int
    """How the worker ended: 0 when it could still report."""
    outcomes: Mapping[str, str]
    """By escape: the error that refused it, or `allowed: ...`."""
    traces: tuple[str, ...]
    """What the witnesses saw outside: nothing, when all was contained."""
    said: str
    """The worker's last words on standard error."""

    @property
    def violations(self) -> list[str]:
        """Escapes that succeeded, or that were refused by an error that the seal does not give."""
        rows = {row.name: row for row in ESCAPES}
        return [f"{name}: {end}" for name, end in self.outcomes.items() if end not in _errors(rows[name])]


def _errors(row: Escape) -> set[str]:
    return {errno_name(number) for number in row.denials}


def rows(missing: frozenset[str] = frozenset()) -> list[Escape]:
    """All escapes; with layers `missing`, those that these let through."""
    return [row for row in ESCAPES if not missing or row.opened_by == missing]


def run(kind: Kind, missing: frozenset[str] = frozenset(), *, action: str = "all") -> Result:
    """Have a sealed worker of `kind` try `rows(missing)`, or another of `ACTIONS`."""
    with _stage() as (stage, witness):
        data = sealed_file("data", DATA)
        lines: list[bytes] = []
        plan = plan_for(
            kind, memory_bytes=MEMORY_BYTES, threads=2, read_only=[ReadOnlyPath(role="shown", path=stage.shown)]
        )
        try:
            worker = spawn(
                MODULE,
                [action, json.dumps(asdict(stage)), ",".join(sorted(missing))],
                fds={"data": data},
                plan=plan,
                log=lines.append,
            )
            report = _read(worker, DEADLINE_S)
            status = worker.stop()
            traces = witness.traces(worker)
            if os.pread(data, len(DATA) + 1, 0) != DATA:
                traces.append("the memory file was changed")
        finally:
            os.close(data)
    said = lines[-1].decode("utf-8", "replace") if lines else ""
    return Result(status, json.loads(report) if report else {}, tuple(traces), said)


def _read(worker: Worker, deadline_s: float) -> bytes:
    """What the worker reports, until it ends or is late."""
    report, end = b"", time.monotonic() + deadline_s
    while (left := end - time.monotonic()) > 0 and select.select([worker.replies], [], [], left)[0]:
        piece = os.read(worker.replies, 1 << 16)
        if not piece:
            break
        report += piece
    return report


class Witness:
    """Looks at the world outside of the worker, before and after."""

    def __init__(self, folder: Path, listeners: list[socket.socket], victim: subprocess.Popen[bytes]) -> None:
        self._folder = folder
        self._listeners = listeners
        self._victim = victim
        self._places = {"/", escape_table.STDLIB, str(folder), f"{folder}/folder", f"{folder}/shown"}
        self._offset_s = time.time() - time.monotonic()
        self._before = self._world()

    def traces(self, worker: Worker) -> list[str]:
        """What the worker left behind or changed, for people."""
        found = []
        for name, now in self._world().items():
            before = self._before[name]
            if isinstance(now, list) and isinstance(before, list):
                found += [f"{name}: new or changed: {one}" for one in now if one not in before]
                found += [f"{name}: gone or changed: {one}" for one in before if one not in now]
            elif now != before:
                found.append(f"{name}: expected {before}, found {now}")
        if abs(time.time() - time.monotonic() - self._offset_s) > CLOCK_S:
            found.append("the clock was set")
        if self._victim.poll() is not None:
            found.append("the victim was killed")
        elif (tracer := _status(self._victim.pid, "TracerPid")) != "0":
            found.append(f"the victim is traced by {tracer}")
        if ready := select.select(self._listeners, [], [], 0)[0]:
            found.append(f"{len(ready)} of the controller's sockets heard something")
        if left := left_of(worker):
            found.append(f"processes are left: {left}")
        return found

    def _world(self) -> dict[str, object]:
        return {
            "files": _tree(self._folder),
            "host name": tuple(os.uname())[1],
            "core dumps": [name for name in os.listdir("/") if name.startswith("core")],  # noqa: PTH208 - names only
            "mounts": [line for line in _text("/proc/self/mountinfo").splitlines() if line.split()[4] in self._places],
            "swaps": _text("/proc/swaps"),
            "shared memory": SHARED_KEY in _text("/proc/sysvipc/shm"),
            "limits": _text(f"/proc/{self._victim.pid}/limits"),
            "priority": _text(f"/proc/{self._victim.pid}/stat").rpartition(")")[2].split()[15:17],
        }


def _text(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text("utf-8", "replace")
    return ""


def _tree(folder: Path) -> list[tuple[object, ...]]:
    """Every file below `folder`: name, mode, owner, links, content."""
    found = []
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append((str(path), oct(state.st_mode), state.st_uid, state.st_nlink, content))
    return found


def _status(pid: int, name: str) -> str:
    lines = (line.partition(":") for line in _text(f"/proc/{pid}/status").splitlines())
    return next((value.strip() for key, _, value in lines if key == name), "0")


def left_of(worker: Worker) -> list[int]:
    """Processes of `worker`, which was ended; a killed process takes a moment to be gone."""
    end = time.monotonic() + DEATH_S
    while (left := _of_session(worker.process.pid)) and time.monotonic() < end:
        time.sleep(0.01)
    return left


def _of_session(session: int) -> list[int]:
    """Living processes of the worker's session; it cannot leave that."""
    found = []
    for entry in Path("/proc").iterdir():
        fields = _text(f"{entry}/stat").rpartition(")")[2].split() if entry.name.isdigit() else []
        if len(fields) > 3 and fields[0] not in "ZX" and int(fields[3]) == session:  # proc(5)
            found.append(int(entry.name))
    return found


@contextlib.contextmanager
def _stage() -> Iterator[tuple[Stage, Witness]]:
    """Everything that an escape could reach for: files, sockets, a process of the worker's own user."""
    # Not /tmp, over which the worker's new root may be made.
    place = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None
    top = Path(tempfile.mkdtemp(prefix="vitrine-escapes-", dir=place))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, top)
        folder, shown = top / "folder", top / "shown"
        for path, mode in ((top, 0o755), (folder, 0o777), (shown, 0o777)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        for path in (folder / "canary", shown / "file"):
            path.write_bytes(CANARY)
            path.chmod(0o666)
        with contextlib.suppress(PermissionError):  # behind a wall that refuses links there is none to follow
            (shown / "way-out").symlink_to(folder / "canary")

        abstract = f"vitrine-escapes-{os.getpid()}-{time.monotonic_ns()}"
        listeners = _listen(stack, abstract, folder / "socket")
        port = listeners[0].getsockname()[1] if listeners else 9  # discard
        user = {"user": SEALED_ID, "group": SEALED_ID, "extra_groups": []} if os.geteuid() == 0 else {}
        victim = subprocess.Popen(
            [_base_python(), "-I", "-S", "-c", "import time; time.sleep(600)"], cwd="/", start_new_session=True, **user
        )
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        stage = Stage(str(folder), str(shown), port, abstract, os.getpid(), victim.pid)
        yield stage, Witness(top, listeners, victim)


def _listen(stack: contextlib.ExitStack, abstract: str, path: Path) -> list[socket.socket]:
    """Sockets to reach for: TCP, UDP, abstract, by path; none behind a wall that refuses sockets to all."""
    try:
        tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        hidden, named = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    except PermissionError:
        return []
    made = [stack.enter_context(one) for one in (tcp, udp, hidden, named)]
    tcp.bind(("127.0.0.1", 0))
    udp.bind(tcp.getsockname())
    hidden.bind(f"\0{abstract}")
    named.bind(str(path))
    path.chmod(0o777)
    for one in (tcp, hidden, named):
        one.listen()
    return made


def _base_python() -> str:
    """An interpreter that every user can run, if there is one."""
    return next(
        (path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if Path(path).exists()), sys.executable
    )


# ---- the worker's side


def _switch_off(missing: frozenset[str]) -> None:
    """Leave out layers of the seal of this process: for a test of the tests, nowhere else."""
    from appliance.seal import landlock, limits, namespaces, seccomp

    if escape_table.SECCOMP in missing:
        seccomp.install = lambda plan, program: unavailable("seccomp", "switched off")
    if missing & {escape_table.FILES, escape_table.NETWORK}:
        landlock.restrict = lambda plan: [
            unavailable(layer.name, "switched off") for layer in landlock.layers(plan, landlock.abi())
        ]
    if escape_table.FILES in missing:
        namespaces.root.replace = lambda paths: None
    if escape_table.NETWORK in missing:
        namespaces.FLAGS["net"] = 0
    if escape_table.LIMITS in missing:
        limits.apply = lambda *_args, **_more: unavailable("limits", "switched off")


def _try(row: Escape, stage: Stage) -> str:
    try:
        got = row.attempt(stage)
    except OSError as error:
        return errno_name(error.errno or errno.EIO)
    except MemoryError:
        return "ENOMEM"
    return f"allowed: {got!r:.60}"


def _all(stage: Stage, missing: frozenset[str]) -> None:
    outcomes = {row.name: _try(row, stage) for row in rows(missing)}
    data = json.dumps(outcomes).encode()
    while data:
        data = data[os.write(1, data) :]


def _hang(_stage: Stage, _missing: frozenset[str]) -> None:
    """Never end, whatever signal comes."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    os.write(1, b'{"hang": "here"}')
    os.close(1)
    while True:
        threading.Event().wait(1)  # sleep itself is not allowed


def _abort(_stage: Stage, _missing: frozenset[str]) -> None:
    """Leave a core dump."""
    os.abort()


ACTIONS = {"all": _all, "hang": _hang, "abort": _abort}


def work() -> None:
    """Seal this process, and try."""
    plan, fds, (action, stage, missing) = received(sys.argv[1:])
    switched_off = frozenset(filter(None, missing.split(",")))
    _switch_off(switched_off)
    enter(plan)
    ACTIONS[action](replace(Stage(**json.loads(stage)), data=fds["data"]), switched_off)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=("eval", "model"), action="append", help="default: both")
    parser.add_argument("--without", default="", metavar="LAYERS", help="seccomp, files, network, limits; with commas")
    options = parser.parse_args()
    missing = frozenset(filter(None, options.without.split(",")))
    contained = True
    for kind in options.kind or ("eval", "model"):
        result = run(kind, missing)
        for name, end in result.outcomes.items():
            print(f"{kind:<6} {name:<28} {end}")
        for trace in result.traces:
            print(f"{kind:<6} outside: {trace}")
        bad = result.violations
        good = result.status == 0 and not bad and not result.traces and len(result.outcomes) == len(rows(missing))
        contained = contained and good
        print(
            f"{kind:<6} {len(result.outcomes)} escapes, {len(bad)} not contained, {len(result.traces)} traces outside"
        )
        if result.status != 0:
            print(f"{kind:<6} the worker ended with {result.status}: {result.said}")
    sys.exit(0 if contained else 1)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("--door="):
        work()
    else:
        main()
