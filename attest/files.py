"""Files that the command line is given: regular ones, bounded, no link followed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from attest.errors import MalformedInput


def read_file(path: Path, max_bytes: int) -> bytes:
    """A regular file's bytes. Raises `MalformedInput` for links, devices, pipes, and files that are too large."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MalformedInput(str(path), f"expected a readable file, found: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise MalformedInput(str(path), "expected a regular file, found something else")
        if status.st_size > max_bytes:
            raise MalformedInput(str(path), f"expected at most {max_bytes} bytes, found {status.st_size}")
        return file.read()
