"""Takes numbers and bytes from the front of hostile bytes; what is missing or left over raises `MalformedInput`."""

from __future__ import annotations

import struct
from typing import Literal

from attest.errors import MalformedInput


class Reader:
    """A cursor over `data`. TPM structures are big endian (`>`), logs of firmware and kernel little endian (`<`)."""

    def __init__(self, data: bytes, what: str, order: Literal["<", ">"]) -> None:
        self._data, self._what, self._order = data, what, order
        self.at = 0

    @property
    def left(self) -> int:
        """How many bytes follow."""
        return len(self._data) - self.at

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > self.left:
            raise self.malformed(f"expected {count} bytes, found {self.left}")
        self.at += count
        return self._data[self.at - count : self.at]

    def numbers(self, form: str) -> tuple[int, ...]:
        """The next numbers, as `struct` names their widths."""
        form = self._order + form
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def number(self, form: str) -> int:
        """The next number."""
        return self.numbers(form)[0]

    def sized(self) -> bytes:
        """The bytes after a 16-bit size (TPM2B)."""
        return self.take(self.number("H"))

    def rest(self) -> bytes:
        """All bytes that follow."""
        return self.take(self.left)

    def end(self) -> None:
        """Nothing may follow."""
        if self.left:
            raise self.malformed(f"expected the end, found {self.left} bytes more")

    def malformed(self, problem: str) -> MalformedInput:
        """The error that says where `problem` is."""
        return MalformedInput(self._what, f"{problem}, at offset {self.at}")
