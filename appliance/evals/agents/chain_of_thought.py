"""`chain_of_thought`: let the model think first, and then ask for the answer (Kojima et al. 2022, arXiv:2205.11916)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from appliance.evals.agents.strategy import Proposal, Seen, Spec, reworded, variables
from attest.sample import Message

if TYPE_CHECKING:
    from appliance.evals.conversation import Steps
    from appliance.evals.scene import Scene


class ChainOfThought(Spec):
    """Its settings."""

    strategy: Literal["chain_of_thought"]
    """Which strategy."""
    think: str = Field(default="{{ request }}\n\nLet's think step by step.", min_length=1, max_length=8000)
    """Template of the first query over the row's columns and `request`."""
    answer: str = Field(
        default="Therefore, what is the answer? Say the answer and nothing else.", min_length=1, max_length=8000
    )
    """Template of the second, which follows the model's thoughts."""

    def make(self, scene: Scene) -> Thoughts:
        """Two queries."""
        return Thoughts(
            Proposal(reworded(scene, scene.text("think", self.think, variables(scene))), "think"),
            Message(role="user", content=scene.text("answer", self.answer, variables(scene))),
        )


class Thoughts:
    """One conversation of two queries."""

    def __init__(self, first: Proposal, second: Message) -> None:
        self._next: Proposal | None = first
        self._second = second

    def propose(self) -> Steps[Sequence[Proposal]]:
        """The thoughts, then the answer."""
        yield from ()
        return [self._next] if self._next else []

    def observe(self, seen: Sequence[Seen]) -> None:
        """Go on with what the model thought; without a thought there is no answer to ask for."""
        thought = seen[0]
        if thought.proposal.label == "answer" or thought.answer.error is not None:
            self._next = None
            return
        said = Message(role="assistant", content=thought.answer.text)
        self._next = Proposal((*thought.proposal.messages, said, self._second), "answer")
