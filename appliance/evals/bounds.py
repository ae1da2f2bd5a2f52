"""How much one sample may ask of each role at most, whatever the replies: for a dry run, which has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from appliance.evals import replay
from appliance.evals.agents.attacker import TOPIC_TOKENS, AttackerSpec
from appliance.evals.agents.strategy import OneByOne
from appliance.evals.judge import Judge
from appliance.evals.scene import Scene
from attest.job import Sampling
from attest.sample import Role


class Bound(NamedTuple):
    """Requests to one role."""

    requests: int
    """How many at most."""
    tokens: int
    """Tokens that may be generated in answer to all of them, were there no limit of the context."""


def of(scene: Scene, usual: Sampling) -> dict[Role, Bound]:
    """The bounds of the sample of `scene`, which has not asked its strategy anything that changes its later draws.

    `usual`: how its completions are drawn where neither strategy nor recording says otherwise. Raises `MalformedInput`
    where the row has not what its strategy or its recording needs.
    """
    queries = _queries(scene, usual)
    turns = scene.suite.agent.turns if _works(scene) and scene.suite.agent is not None else 1
    bounds: dict[Role, Bound] = {"target": Bound(len(queries) * turns, sum(queries) * turns)}
    spec, graded = scene.task.strategy, len(queries) if scene.suite.solver == "attack" else 1
    verdicts = [judge.tokens for judge in scene.suite.scorers if isinstance(judge, Judge)] * graded
    if isinstance(spec, AttackerSpec):
        verdicts += [TOPIC_TOKENS] * (spec.asks if spec.needs_judge else 0)
        if spec.needs_attacker:
            bounds["attacker"] = Bound(spec.asks, spec.asks * spec.sampling.max_tokens)
    if verdicts:
        bounds["judge"] = Bound(len(verdicts), sum(verdicts))
    return bounds


def _works(scene: Scene) -> bool:
    """Whether the target may use tools, and so be asked once for each turn."""
    strategy = scene.task.strategy
    return scene.suite.solver == "agent" or (strategy is not None and strategy.needs_agent)


def _queries(scene: Scene, usual: Sampling) -> Sequence[int]:
    """The most tokens of the answer to each query to the target."""
    if scene.suite.solver == "choose":
        return [0]
    if scene.suite.solver == "replay":
        return [turn.sampling.max_tokens for turn in replay.read(scene.task.row.get(replay.COLUMN)).turns]
    if scene.task.strategy is None:
        return [usual.max_tokens]
    strategy = scene.task.strategy.make(scene)
    if isinstance(strategy, OneByOne):
        return [(each.sampling or usual).max_tokens for each in strategy.left[: scene.queries]]
    return [usual.max_tokens] * scene.queries
