"""`wrappers`: the request inside each of a list of texts, one after the other, in a seeded order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from appliance.evals.agents.direct import OneByOne
from appliance.evals.agents.strategy import Proposal, Spec

if TYPE_CHECKING:
    from appliance.evals.scene import Scene


class Wrappers(Spec):
    """Its settings."""

    strategy: Literal["wrappers"]
    """Which strategy."""
    wrappers: tuple[Annotated[str, Field(min_length=1, max_length=8000)], ...] = Field(min_length=1, max_length=1000)
    """Templates over the row's columns and `request`, the user's message as it would be asked directly."""

    def make(self, scene: Scene) -> OneByOne:
        """Each wrapper once."""
        *before, last = scene.task.messages
        variables = {**scene.task.row, "request": last.content}
        return OneByOne(
            [
                Proposal((*before, last.model_copy(update={"content": content})), f"wrapper {number}")
                for number in scene.dice.shuffled(range(len(self.wrappers)))
                for content in [scene.text(f"wrappers.{number}", self.wrappers[number], variables)]
            ]
        )
