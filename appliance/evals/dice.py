"""Randomness of solvers and strategies: a function of the job's seed and the sample's name, and of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """SHA-256 over seed, name and a counter; the same numbers on every machine and in every Python."""

    def __init__(self, seed: int, name: str) -> None:
        self._key = hashlib.sha256(f"vitrine/dice/v1\n{seed}\n{name}".encode()).digest()
        self._count = 0

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1. Its bias is below `limit` / 2**256."""
        if limit < 1:
            raise ValueError(f"expected a limit of 1 or more, found {limit}")
        self._count += 1
        drawn = hashlib.sha256(self._key + self._count.to_bytes(8, "big")).digest()
        return int.from_bytes(drawn, "big") % limit

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """`count` of `items`, or all of them, none twice, in another order."""
        moved: dict[int, int] = {}
        found = []
        for place in range(min(count, len(items))):
            other = place + self.below(len(items) - place)
            found.append(items[moved.get(other, other)])
            moved[other] = moved.get(place, place)
        return found

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All of `items` in another order (Fisher and Yates)."""
        return self.some(items, len(items))
