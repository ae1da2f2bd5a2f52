"""How a bundle leaves a wall: its named files and nothing else, out of a folder or over the channel.

What was inside may have put anything into the output folder: links, devices, other files. Only regular files with the
names of a bundle are looked at, links are not followed, sizes are bounded, and the rest is thrown away.

A piece on the channel is the file's name, a zero byte, and content that follows what came before; files come in the
order of their names, and a name never comes back.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from appliance import resume
from appliance.frames import Kind
from attest import verify
from attest.errors import MalformedInput

NAMES = tuple(sorted((verify.SIGNATURE, *verify.FILES, *verify.MACHINE)))
"""The files that a bundle may have."""
INCOMPLETE = ("failure.txt", resume.TRANSCRIPT)
"""The files that a run without a bundle may leave in its folder; on the channel they are below `incomplete/`."""
LEFT = (*INCOMPLETE, resume.MARK)
"""The same in a folder, where a run can be gone on with."""
PIECE_BYTES = 1 << 20
MAX_DELIVERY_BYTES = 8 << 30
"""Of all files together."""

Send = Callable[[Kind, bytes, int], None]
"""Sends a frame: kind, payload, route."""
FILE_ROUTE = 2


class Inbox:
    """Takes files that come over the channel, into memory."""

    def __init__(self, max_bytes: int = MAX_DELIVERY_BYTES) -> None:
        self._left = max_bytes
        self._open = ""
        self._files: dict[str, bytearray] = {}

    def take(self, payload: bytes) -> None:
        """One piece. Raises `MalformedInput`."""
        head, mark, content = payload.partition(b"\0")
        name = head.decode("ascii", "replace")
        if not mark or name not in (*NAMES, *(f"incomplete/{left}" for left in INCOMPLETE)):
            raise MalformedInput("delivery", f"expected a piece of a bundle's file, found {name[:80]!r}")
        if name < self._open:
            raise MalformedInput("delivery", f"expected files in order, found {name} after {self._open}")
        self._left -= len(content)
        if self._left < 0:
            raise MalformedInput("delivery", "expected a bundle within its bounds, found more bytes than that")
        self._open = name
        self._files.setdefault(name, bytearray()).extend(content)

    def bundle(self) -> dict[str, bytes]:
        """The files of the bundle. Raises `MalformedInput` where one is missing."""
        return _whole({name: bytes(data) for name, data in self._files.items() if name in NAMES})

    def incomplete(self) -> dict[str, bytes]:
        """What came of a run that left no bundle, by its name in the folder of such a run."""
        return {name: bytes(self._files[at]) for name in INCOMPLETE if (at := f"incomplete/{name}") in self._files}


def send_bundle(folder: Path, send: Send) -> None:
    """Send the files of the bundle in `folder`."""
    for name in NAMES:
        if (folder / name).exists() or name not in verify.MACHINE:
            _send(name, folder / name, send)


def send_incomplete(out: Path, send: Send) -> None:
    """Send what a run left that was to write its bundle to `out`."""
    folder = resume.incomplete(out)
    for name in INCOMPLETE:
        if (folder / name).exists():
            _send(f"incomplete/{name}", folder / name, send)


def collect(folder: Path) -> dict[str, bytes]:
    """The files of the bundle that the inside put into `folder`. Raises `MalformedInput`."""
    return _whole(_taken(folder, NAMES))


def collect_incomplete(folder: Path) -> dict[str, bytes]:
    """What is in the folder of a run that left no bundle, by name. Raises `MalformedInput`."""
    return _taken(folder, LEFT)


def _whole(files: dict[str, bytes]) -> dict[str, bytes]:
    if missing := sorted({verify.SIGNATURE, *verify.FILES} - set(files)):
        raise MalformedInput("delivery", f"expected every file of a bundle, missing are {missing}")
    return files


def _taken(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Those of the files `names` that are in `folder`, all together within the bound."""
    found: dict[str, bytes] = {}
    left = MAX_DELIVERY_BYTES
    for name in names:
        data = _read(folder, name, left)
        if data is not None:
            found[name] = data
            left -= len(data)
    return found


def _send(name: str, path: Path, send: Send) -> None:
    with path.open("rb") as file:
        first = True
        while (piece := file.read(PIECE_BYTES)) or first:
            send(Kind.REQUEST, name.encode("ascii") + b"\0" + piece, FILE_ROUTE)
            first = False


def _read(folder: Path, name: str, max_bytes: int) -> bytes | None:
    """A regular file below `folder`, no link on the way; None where there is none. Raises `MalformedInput`."""
    follow_nothing = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    *folders, last = name.split("/")
    fds: list[int] = []
    try:
        fds.append(os.open(folder, follow_nothing | os.O_DIRECTORY))
        for part in folders:
            fds.append(os.open(part, follow_nothing | os.O_DIRECTORY, dir_fd=fds[-1]))
        fds.append(os.open(last, follow_nothing, dir_fd=fds[-1]))
        status = os.fstat(fds[-1])
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            raise MalformedInput("delivery", f"expected {name} as a file of at most {max_bytes} bytes, found another")
        with os.fdopen(os.dup(fds[-1]), "rb") as file:
            return file.read(status.st_size)  # not `max_bytes`: so much would be allocated first
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MalformedInput("delivery", f"expected {name} as a regular file, found: {error.strerror}") from None
    finally:
        for fd in fds:
            os.close(fd)
