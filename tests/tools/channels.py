"""Watches a command from outside: everything that it prints, shows in /proc or leaves in files, to be searched.

Beside what it prints and its files: arguments and environment of its processes, names that they give to files and
memory files, and what container runtimes and daemons of the host keep meanwhile. A process that leaves its parent, as
podman's monitor does, is followed as well.

A canary is a text or some bytes that stand nowhere else. `hits` looks for each in each channel, as it is and in the
forms that programs give to bytes: JSON escapes, hexadecimal, base64, and the decimal number of a key.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

POLL_S = 0.02
MAX_FILE_BYTES = 1 << 20
PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h"""
STORES = ("/run/containers", "/var/lib/containers", "/run/runc", "/run/crun", "/run/libpod", "/run/log", "/var/log")
"""Where runtimes keep what they know of containers, and daemons their logs."""
SHARED = ("/dev/shm", "/tmp", "/var/tmp")
"""Where programs that do not care for TMPDIR leave files."""


@dataclass
class Channels:
    """What a command let out."""

    status: int = 0
    """Its exit status, negative for a signal."""
    pids: set[int] = field(default_factory=set)
    """The processes that were looked at: its own, and all below it."""
    parts: dict[str, bytes] = field(default_factory=dict)
    """By name, `stdout`, `stderr`, `cmdline 17`, `environ 17`, `names 17`, `temp NAME`, `left NAME`, `filenames` or
    `host PATH`: what was found."""

    def text(self, name: str) -> str:
        """One channel as text."""
        return self.parts[name].decode("utf-8", "replace")

    def add(self, name: str, data: bytes) -> None:
        """Add what a channel holds now to what it held before."""
        if data not in self.parts.setdefault(name, b""):
            self.parts[name] += data + b"\n"


def watch(
    command: Sequence[str | Path],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    while_running: Callable[[subprocess.Popen[bytes]], None] | None = None,
    timeout_s: float = 120,
) -> Channels:
    """Run `command` in `folder`, with a temporary folder of its own, and collect its channels until it ends.

    `before` runs in the process before the command; `while_running` at every look at it.
    """

    def adopt() -> None:
        # Whoever among its descendants loses its parent becomes its child, and so stays below it.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if before is not None:
            before()

    since, old = time.time(), _entries()
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    found = Channels()
    out, err = folder / "stdout.channel", folder / "stderr.channel"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(temporary), **(environment or {})},
            preexec_fn=adopt,  # noqa: PLW1509 - sets limits and a signal, in a test
        )
        try:
            end = time.monotonic() + timeout_s
            while process.poll() is None:
                assert time.monotonic() < end, f"expected the command to end within {timeout_s:g} s"
                _look(process.pid, temporary, found)
                if while_running is not None:
                    while_running(process)
                time.sleep(POLL_S)
        finally:
            process.kill()
            found.status = process.wait()
    found.parts["stdout"], found.parts["stderr"] = out.read_bytes(), err.read_bytes()
    out.unlink()
    err.unlink()
    for path in files(folder):
        found.add(f"left {path.relative_to(folder)}", path.read_bytes())
    found.add("filenames", "\n".join(str(path.relative_to(folder)) for path in folder.rglob("*")).encode())
    _search_host(since, old, folder, found)
    return found


def files(folder: Path) -> list[Path]:
    """The regular files below `folder`."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def hits(channels: Mapping[str, bytes], canaries: Mapping[str, str | bytes]) -> set[tuple[str, str]]:
    """Which canary is found in which channel: (canary, channel)."""
    return {
        (canary, channel)
        for canary, value in canaries.items()
        for channel, data in channels.items()
        if any(form in data for form in forms(value))
    }


def forms(value: str | bytes) -> set[bytes]:
    """The ways in which a program may write `value`."""
    if isinstance(value, str):
        raw = value.encode()
        found = {raw, json.dumps(value)[1:-1].encode(), repr(value)[1:-1].encode()}
    else:
        raw = value
        found = {raw, repr(raw)[2:-1].encode(), str(int.from_bytes(raw, "big")).encode()}
    assert len(raw) >= 8, f"{value!r} is too short to be looked for"
    return found | {raw.hex().encode(), raw.hex().upper().encode(), base64.b64encode(raw).rstrip(b"=")[:-1]}


def below(pid: int) -> set[int]:
    """The process `pid` and all below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _look(pid: int, temporary: Path, found: Channels) -> None:
    for each in below(pid):
        found.pids.add(each)
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                found.add(f"{name} {each}", Path(f"/proc/{each}/{name}").read_bytes())
        found.add(f"names {each}", b"\n".join(_names(Path(f"/proc/{each}"))))
    for path in temporary.rglob("*"):
        found.add("filenames", path.name.encode())
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                found.add(f"temp {path.name}", path.read_bytes()[:MAX_FILE_BYTES])


def _names(process: Path) -> Iterator[bytes]:
    """The names of the files and memory files that a process has open."""
    with contextlib.suppress(OSError):
        for path in (process / "fd").iterdir():
            yield os.fsencode(path.readlink())


def _entries() -> set[Path]:
    return {path for folder in SHARED for path in Path(folder).glob("*")}


def _search_host(since: float, old: set[Path], folder: Path, found: Channels) -> None:
    """What is new or was written on this host since `since`, outside `folder`: other tests may have written it, too."""
    new = [path for path in _entries() - old if not folder.is_relative_to(path)]
    for root in (*new, *map(Path, STORES)):
        for path in (root, *root.rglob("*")):
            with contextlib.suppress(OSError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and max(status.st_mtime, status.st_ctime) >= since - 1:
                    with path.open("rb") as file:
                        file.seek(max(0, status.st_size - MAX_FILE_BYTES))
                        found.add(f"host {path}", str(path).encode() + b"\n" + file.read())
    if shutil.which("journalctl"):
        asked = ["journalctl", "--since", f"@{since:.0f}", "--output", "export"]
        found.add("host journal", subprocess.run(asked, capture_output=True, check=False).stdout)
