"""Attack agents: strategies that look for what a model under test does when it is asked in other ways.

`strategy` is the interface, and every other module one strategy with its settings. A strategy proposes and observes;
`appliance.evals.attack` asks the target, has the reply graded, and tells the strategy what came of it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from appliance.evals.agents import direct, wrappers

StrategySpec = Annotated[direct.Direct | wrappers.Wrappers, Field(discriminator="strategy")]
"""A strategy and its settings, as a suite says them."""
