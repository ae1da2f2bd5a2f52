"""`many_shot`: more and more faked exchanges in which the assistant complied, and then the request.

After Anil et al. 2024, Many-shot Jailbreaking (Anthropic). The exchanges are given as turns of the conversation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from appliance.evals.agents.exchanges import MAX_EXCHANGES, Shots, flat
from appliance.evals.agents.strategy import OneByOne, Proposal, request, reworded

if TYPE_CHECKING:
    from appliance.evals.scene import Scene


class ManyShot(Shots):
    """Its settings."""

    strategy: Literal["many_shot"]
    """Which strategy."""
    counts: tuple[Annotated[int, Field(ge=1, le=MAX_EXCHANGES)], ...] = Field(
        default=(1, 4, 16, 64), min_length=1, max_length=20
    )
    """How many exchanges come before the request, query by query. What is more than there are is left out."""

    @model_validator(mode="after")
    def _grows(self) -> ManyShot:
        if list(self.counts) != sorted(set(self.counts)):
            raise ValueError(f"counts grow, found {list(self.counts)}")
        return self

    def make(self, scene: Scene) -> OneByOne:
        """One query a count; the longer conversation begins like the shorter one's end."""
        exchanges = self.shuffled(scene)
        counts = [count for count in self.counts if count <= len(exchanges)]
        return OneByOne(
            [
                Proposal(reworded(scene, request(scene), flat(exchanges[-count:])), f"{count} exchanges")
                for count in counts
            ]
        )
