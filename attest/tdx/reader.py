"""Takes little-endian numbers and bytes from the front of hostile bytes, and never more than there are."""

from __future__ import annotations

import struct

from attest.errors import MalformedInput


class Reader:
    """Reads `data` from the front. `what` is the subject of the `MalformedInput` that a short read raises."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.at = 0

    def left(self) -> int:
        """How many bytes have not been read."""
        return len(self._data) - self.at

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > self.left():
            raise MalformedInput(self._what, f"expected {count} bytes at offset {self.at}, found {self.left()}")
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, form: str) -> int:
        """The next number; `form` is its `struct` letter."""
        value: int = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]
        return value

    def end(self) -> None:
        """Raises `MalformedInput` unless everything was read."""
        if self.left():
            raise MalformedInput(self._what, f"expected the end at offset {self.at}, found {self.left()} bytes more")
