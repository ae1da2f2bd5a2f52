"""The arguments of one instruction, read strictly from a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "less than": lambda found, wanted: found < wanted,
    "at least": lambda found, wanted: found >= wanted,
}


class UnfitError(ValueError):
    """An instruction that is not known, or arguments that are not those it takes."""


class Arguments:
    """Named values; whichever is asked for has to be there, in its form."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def count(self, name: str) -> int:
        """A whole number, 0 or more."""
        value = self._values.get(name)
        if type(value) is not int or value < 0:
            raise UnfitError(f"expected {name} to be a whole number, found {value!r:.80}")
        return value

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self._values.get(name)
        if not isinstance(value, str) or not value.strip():
            raise UnfitError(f"expected {name} to be a text, found {value!r:.80}")
        return value

    def texts(self, name: str) -> list[str]:
        """One text or more."""
        value = self._values.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise UnfitError(f"expected {name} to be a list of texts, found {value!r:.80}")
        return value

    def compare(self, found: int, relation: str, name: str) -> bool:
        """Whether `found` is `less than` or `at least` the number."""
        comparison = COMPARISONS.get(self.text(relation))
        if comparison is None:
            raise UnfitError(f"expected {relation} to be one of {list(COMPARISONS)}, found {self.text(relation)!r:.80}")
        return comparison(found, self.count(name))
