"""Attack agents: strategies that look for what a model under test does when it is asked in other ways.

`strategy` is the interface, and every other module one strategy with its settings, or what several of them share. A
strategy proposes and observes; `appliance.evals.attack` asks the target, has the reply graded, and tells the strategy
what came of it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from appliance.evals.agents.best_of_n import BestOfN
from appliance.evals.agents.chain_of_thought import ChainOfThought
from appliance.evals.agents.continuation import Continuation
from appliance.evals.agents.direct import Direct
from appliance.evals.agents.encoding import Encoding
from appliance.evals.agents.few_shot import FewShot
from appliance.evals.agents.many_shot import ManyShot
from appliance.evals.agents.pair import Pair
from appliance.evals.agents.passwords import Passwords
from appliance.evals.agents.past_tense import PastTense
from appliance.evals.agents.persona import Persona
from appliance.evals.agents.tap import Tap
from appliance.evals.agents.tools import Tools
from appliance.evals.agents.wrappers import Wrappers

StrategySpec = Annotated[
    BestOfN
    | ChainOfThought
    | Continuation
    | Direct
    | Encoding
    | FewShot
    | ManyShot
    | Pair
    | Passwords
    | PastTense
    | Persona
    | Tap
    | Tools
    | Wrappers,
    Field(discriminator="strategy"),
]
"""A strategy and its settings, as a suite says them."""
