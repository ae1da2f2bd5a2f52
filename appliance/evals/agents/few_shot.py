"""`few_shot`: some worked examples before the request, several draws of them (Brown et al. 2020, arXiv:2005.14165)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from appliance.evals.agents.exchanges import Shots, flat
from appliance.evals.agents.strategy import OneByOne, Proposal, request, reworded

if TYPE_CHECKING:
    from appliance.evals.scene import Scene


class FewShot(Shots):
    """Its settings."""

    strategy: Literal["few_shot"]
    """Which strategy."""
    shots: int = Field(default=5, ge=1, le=100)
    """Examples before the request; fewer where there are fewer."""
    tries: int = Field(default=3, ge=1, le=100)
    """Queries, each with examples drawn anew."""

    def make(self, scene: Scene) -> OneByOne:
        """One query a draw."""
        return OneByOne(
            [
                Proposal(reworded(scene, request(scene), flat(self.shuffled(scene)[: self.shots])), f"draw {number}")
                for number in range(self.tries)
            ]
        )
