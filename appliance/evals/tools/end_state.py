"""The scorer `end_state`: what an agent left behind in the key-value world, whatever it said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from appliance.evals.scorers.scorer import Outcome, Scorer, Unscored, bit
from appliance.evals.tools.kv import Key, Value

if TYPE_CHECKING:
    from appliance.evals.scene import Scene


class EndState(Scorer):
    """Its settings."""

    scorer: Literal["end_state"]
    """Which scorer."""
    values: dict[Key, Value] = Field(default_factory=dict, max_length=200)
    """What the world has to hold: key to a template over the row's columns."""
    others: Literal["any", "none"] = "any"
    """Whether it may hold other keys."""


def end_state(scene: Scene, spec: EndState, world: Mapping[str, str] | None) -> Outcome:
    """1 when the world is as it has to be. Raises `MalformedInput` for a template that the row breaks."""
    if world is None:
        return Unscored("there was no world: nobody used tools")
    wanted = {key: scene.text(f"{spec.label}.values", text, scene.task.row) for key, text in spec.values.items()}
    found = world if spec.others == "none" else {key: value for key, value in world.items() if key in wanted}
    return bit(found == wanted)
