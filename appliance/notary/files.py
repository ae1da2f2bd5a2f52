"""Files of a lab: durable, as `attest.durable` writes them; read with a bound, never through a link."""

from __future__ import annotations

import os
from pathlib import Path

from attest.durable import exclusive, sync_directory, write_file
from attest.errors import MalformedInput

__all__ = ["exclusive", "make_directories", "read_bounded", "sync_directory", "write_file"]


def make_directories(path: Path) -> None:
    """Create `path` and what is missing above it, durably."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of the regular file at `path`. Raises `MalformedInput` beyond `limit` bytes, and `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise MalformedInput(path.name, f"expected at most {limit} bytes, found more")
    return data
