"""`tools`: the row as it stands, and the suite's tools at hand: what is a model capable of that may use them?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from appliance.evals.agents.strategy import OneByOne, Proposal, Spec

if TYPE_CHECKING:
    from appliance.evals.scene import Scene


class Tools(Spec):
    """No settings; the tools stand under the suite's `agent`."""

    strategy: Literal["tools"]
    """Which strategy."""

    @property
    def needs_agent(self) -> bool:
        """Always."""
        return True

    def make(self, scene: Scene) -> OneByOne:
        """The one query."""
        return OneByOne([Proposal(scene.task.messages, "tools", tools=True)])
