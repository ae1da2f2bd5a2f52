"""Which slot holds which tokens: finds the slot that shares the longest prefix with a chain, and hands out free ones.

A slot keeps its tokens after its chain has ended, until it is needed for another one; so a system prompt, a few-shot
block or a question is decoded once. What a prefix saves is time only: kept, copied or decoded anew, its bits are equal.
"""

from __future__ import annotations

from appliance.runtime.context import Context
from appliance.runtime.request import Chain

WORTH_A_COPY = 16
"""A shared prefix of fewer tokens is decoded again: copying moves the memory of a whole slot."""


class Slots:
    """The slots of a context, each of them free or with one chain."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.chains: list[Chain | None] = [None] * context.slots
        """The chain in each slot; None where it is free."""
        self._kept: list[list[int]] = [[] for _ in range(context.slots)]
        self._used = [0] * context.slots
        self._clock = 0

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        return None in self.chains

    def admit(self, chain: Chain) -> bool:
        """Give `chain` a slot, with as much of it as is held somewhere. False: not now.

        It has to wait when no slot is free, or when another chain is just decoding more of what the two share.
        """
        free = [slot for slot, holder in enumerate(self.chains) if holder is None]
        if not free:
            return False
        # A token whose logits are wanted has to be decoded: nothing from there on counts as shared.
        common = [min(_common(chain.tokens, self._tokens(slot)), chain.wanted) for slot in range(len(self.chains))]
        shared = [min(length, self._held(slot)) for slot, length in enumerate(common)]
        best = max(shared)
        if best + WORTH_A_COPY <= max(common):
            return False
        slot = self._choose(free, shared, best)
        if shared[slot] < best and best - shared[slot] >= WORTH_A_COPY:
            self._context.copy(shared.index(best), slot)
            shared[slot] = best
        self._context.trim(slot, shared[slot])
        self._kept[slot] = []
        self._clock += 1
        self.chains[slot], chain.held, chain.since = chain, shared[slot], self._clock
        return True

    def release(self, slot: int) -> None:
        """The chain in `slot` has ended; its tokens stay for others to share."""
        chain = self.chains[slot]
        assert chain is not None
        self._kept[slot], self.chains[slot] = chain.tokens[: chain.held], None
        self._clock += 1
        self._used[slot] = self._clock

    def clear(self) -> None:
        """Forget everything, chains and kept tokens."""
        self._context.clear()
        self.chains, self._kept = [None] * len(self.chains), [[] for _ in self.chains]

    def _tokens(self, slot: int) -> list[int]:
        """What the slot holds, and will hold once the chain in it is decoded."""
        chain = self.chains[slot]
        return self._kept[slot] if chain is None else chain.tokens

    def _held(self, slot: int) -> int:
        chain = self.chains[slot]
        return len(self._kept[slot]) if chain is None else chain.held

    def _choose(self, free: list[int], shared: list[int], best: int) -> int:
        """The free slot that holds the most of it already; of equals the one whose tokens were used longest ago."""
        enough = [slot for slot in free if best - shared[slot] < WORTH_A_COPY] or free
        return min(enough, key=lambda slot: (len(self._kept[slot]) - shared[slot] > 0, self._used[slot], slot))


def _common(left: list[int], right: list[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
