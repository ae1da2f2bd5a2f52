"""`tap`: a tree of prompts: every leaf is rewritten several ways, what strays is cut off, the best leaves stay.

After Mehrotra et al. 2023, Tree of Attacks: Jailbreaking Black-Box LLMs Automatically (TAP, arXiv:2312.02119):

1. branch: the attacker rewrites each leaf `branching` times
2. prune: a judge cuts off prompts that ask for something else than the request (with `on_topic`)
3. ask the target, and have its replies graded
4. prune: the `width` leaves of the highest score stay
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from appliance.evals.agents.attacker import Attacker, AttackerSpec, Thread, topic
from appliance.evals.agents.pair import INSTRUCTIONS
from appliance.evals.agents.strategy import Proposal, Seen

if TYPE_CHECKING:
    from appliance.evals.conversation import Steps
    from appliance.evals.scene import Scene


class Tap(AttackerSpec):
    """Its settings."""

    strategy: Literal["tap"]
    """Which strategy."""
    width: int = Field(default=4, ge=1, le=50)
    """Leaves that stay after a round."""
    branching: int = Field(default=2, ge=1, le=20)
    """Prompts that are written from each leaf."""
    depth: int = Field(default=3, ge=1, le=50)
    """Rounds."""
    on_topic: bool = True
    """Have the judge cut off what strays."""

    @property
    def needs_judge(self) -> bool:
        """When it prunes by topic."""
        return self.on_topic

    def make(self, scene: Scene) -> Tree:
        """The tree, with its root alone."""
        return Tree(Attacker(scene, self, INSTRUCTIONS), self, scene)


class Tree:
    """The leaves of a growing tree."""

    def __init__(self, attacker: Attacker, spec: Tap, scene: Scene) -> None:
        self._attacker = attacker
        self._spec = spec
        self._scene = scene
        self._rounds_left = spec.depth
        self._leaves = [attacker.begin()]
        self._grown: list[Thread] = []

    def propose(self) -> Steps[Sequence[Proposal]]:
        """The prompts of the next round. One in which nothing grew is lost."""
        while self._rounds_left and not self._attacker.is_spent:
            self._rounds_left -= 1
            level = f"level {self._spec.depth - self._rounds_left}"
            # 1. Branch.
            branches = [leaf for leaf in self._leaves for _ in range(self._spec.branching)]
            written = yield from self._attacker.refine(branches, level)
            self._grown = [thread for thread in written if thread]
            # 2. Prune by topic. What the judge was not asked about, or did not answer, strays.
            if self._spec.on_topic:
                asks = [topic(self._scene, thread.prompt, "topic") for thread in self._grown]
                rulings = yield from self._attacker.ask(asks)
                self._grown = [
                    thread for thread, ruling in zip(self._grown, rulings, strict=False) if ruling.text == "yes"
                ]
            # 3. Ask.
            if self._grown:
                return [self._attacker.proposal(thread, level) for thread in self._grown]
        return []

    def observe(self, seen: Sequence[Seen]) -> None:
        """4. Prune by score; of equal ones the earlier stays."""
        ranked = sorted(zip(self._grown, seen, strict=False), key=lambda pair: -pair[1].progress)
        self._leaves = [thread.told(each, self._attacker.objective) for thread, each in ranked[: self._spec.width]]
