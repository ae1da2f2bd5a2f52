"""Folders that belong to one run and are gone after it; those of a run that was killed are removed by the next one.

A folder is locked while its run lives, and the kernel takes the lock back however that ends. So a folder with a run's
prefix that nobody holds is a leftover. One that was just made is left alone: its lock may be a moment away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.enclave.discard import discard

FRESH_S = 60.0
"""How young a folder is that nobody holds yet."""
OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def private_folder(prefix: str, parent: Path) -> Iterator[Path]:
    """A new folder `PREFIX...` in `parent`, for its owner alone; removed in the end with all that is in it.

    What killed runs left by the same prefix is removed first.
    """
    for leftover in find(prefix, parent):
        discard(leftover)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
    held = os.open(folder, OPEN)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield folder
    finally:
        discard(folder)
        os.close(held)


def find(prefix: str, parent: Path, fresh_s: float = FRESH_S) -> list[Path]:
    """The folders of this user with that prefix in `parent` that belong to no run that lives, `fresh_s` old at least.

    Whoever asks for younger ones leaves alone what a run has not begun to fill.
    """
    found = []
    with contextlib.suppress(OSError), os.scandir(parent) as listing:
        ours = [entry.path for entry in listing if entry.name.startswith(prefix)]
        found = [Path(path) for path in ours if _abandoned(path, fresh_s)]
    return sorted(found)


def _abandoned(path: str, fresh_s: float) -> bool:
    with contextlib.suppress(OSError):
        folder = os.open(path, OPEN)
        try:
            status = os.fstat(folder)
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < fresh_s:
                return False
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(folder)
    return False
