"""What rendering one template may cost, in steps and in characters made. Both are counted, so that a template that is
refused on one machine is refused on every machine, at the same place.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Undefined

MAX_STEPS = 1_000_000
"""Parts of templates run through and values looked at: a few seconds of work."""
MAX_MADE_CHARS = 12 << 20
"""Characters of all values made, also of those that are gone again: at most four bytes of memory each."""
MAX_TEXT_CHARS = 1 << 20
MAX_OPERAND_CHARS = 4 << 20
MAX_DEPTH = 64
MAX_INTEGER_BITS = 256
CHARS_A_STEP = 256
ITEM_CHARS = 16
"""What an item of a list counts for, in characters."""


class Exceeded(ValueError):  # noqa: N818 - an event, not an error in itself
    """A template wants more than it may have."""


class Budget:
    """What is left for one rendering."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._chars = MAX_MADE_CHARS

    def spend(self, steps: int) -> None:
        """Count steps. Raises `Exceeded`."""
        self._steps -= steps
        if self._steps < 0:
            raise Exceeded(f"expected at most {MAX_STEPS} steps, found more")

    def make(self, chars: int) -> None:
        """Count characters that are about to be made. Raises `Exceeded`."""
        self._chars -= chars
        if self._chars < 0:
            raise Exceeded(f"expected at most {MAX_MADE_CHARS} characters to be made, found more")

    def text(self, chars: int) -> None:
        """Count one text of this length that is about to be made. Raises `Exceeded`."""
        if chars > MAX_TEXT_CHARS:
            raise Exceeded(f"expected texts of at most {MAX_TEXT_CHARS} characters, found {chars}")
        self.make(chars)

    def weigh(self, *values: object) -> tuple[int, int, int]:
        """Count what an operation has to look at; the number of parts, of characters, and of levels.

        A list that holds another twice counts it twice, as printing and comparing do. Raises `Exceeded`, and
        `TypeError` for what is not data: the text of a function holds an address of this process.
        """
        parts = chars = depth = 0
        level: list[Any] = list(values)
        while level:
            depth += 1
            parts += len(level)
            self.spend(len(level))
            below: list[Any] = []
            for value in level:
                if isinstance(value, str):
                    chars += len(value)
                elif isinstance(value, dict):
                    self.spend(len(value))
                    below += value.keys()
                    below += value.values()
                elif isinstance(value, list | tuple):
                    self.spend(len(value))
                    below += value
                elif isinstance(value, range):
                    self.spend(len(value))
                elif isinstance(value, int):
                    if value.bit_length() > MAX_INTEGER_BITS:
                        raise Exceeded(f"expected integers of at most {MAX_INTEGER_BITS} bits, found a longer one")
                elif not (value is None or isinstance(value, float | Undefined)):
                    raise TypeError(f"expected text, numbers and lists of them, found {type(value).__name__}")
            if depth > MAX_DEPTH:
                raise Exceeded(f"expected values at most {MAX_DEPTH} levels deep, found deeper ones")
            level = below
        self.spend(chars // CHARS_A_STEP)
        if chars > MAX_OPERAND_CHARS:
            raise Exceeded(f"expected values of at most {MAX_OPERAND_CHARS} characters, found {chars}")
        return parts, chars, depth

    def made(self, value: object) -> None:
        """Count a value that an operation has made."""
        if isinstance(value, str):
            self.text(len(value))
        elif isinstance(value, dict | list | tuple):
            self.make(ITEM_CHARS * len(value) + sum(len(item) for item in value if isinstance(item, str)))
        elif isinstance(value, int):
            self.weigh(value)
