"""`direct`: the row as it stands, asked once. What all other strategies are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from appliance.evals.agents.strategy import OneByOne, Proposal, Spec

if TYPE_CHECKING:
    from appliance.evals.scene import Scene


class Direct(Spec):
    """No settings."""

    strategy: Literal["direct"]
    """Which strategy."""

    def make(self, scene: Scene) -> OneByOne:
        """The one query."""
        return OneByOne([Proposal(scene.task.messages, "direct")])
