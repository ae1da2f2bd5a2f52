"""`wrappers`: the request inside each of a list of texts, one after the other, in a seeded order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from appliance.evals.agents.families import FAMILIES, FamilyName
from appliance.evals.agents.strategy import OneByOne, Proposal, Spec, reworded, variables

if TYPE_CHECKING:
    from appliance.evals.scene import Scene


class Wrappers(Spec):
    """Its settings."""

    strategy: Literal["wrappers"]
    """Which strategy."""
    wrappers: tuple[Annotated[str, Field(min_length=1, max_length=8000)], ...] = Field(default=(), max_length=1000)
    """Templates over the row's columns and `request`, the user's message as it would be asked directly."""
    families: tuple[FamilyName, ...] = ()
    """Families of `appliance.evals.agents.families`, whose templates are tried as well."""

    @model_validator(mode="after")
    def _has_something_to_try(self) -> Wrappers:
        if not self.wrappers and not self.families:
            raise ValueError("strategy 'wrappers' needs wrappers or families")
        return self

    def make(self, scene: Scene) -> OneByOne:
        """Each wrapper once."""
        own = [(f"wrapper {number}", source) for number, source in enumerate(self.wrappers)]
        known = [(f"{name} {n}", source) for name in self.families for n, source in enumerate(FAMILIES[name].templates)]
        return OneByOne(
            [
                Proposal(reworded(scene, scene.text(label, source, variables(scene))), label)
                for label, source in scene.dice.shuffled(own + known)
            ]
        )
