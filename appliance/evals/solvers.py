"""Solvers: what is done with one row, from its first ask to its scores."""

from __future__ import annotations

from appliance.evals.agent import agent
from appliance.evals.attack import attack
from appliance.evals.conversation import Ask, Outcome, Steps, ask_one
from appliance.evals.grading import grade_all
from appliance.evals.replay import replay
from appliance.evals.scene import Scene


def solve(scene: Scene) -> Steps[Outcome]:
    """The suite's solver on one row."""
    if scene.suite.solver == "generate":
        return plain(scene, scene.ask(scene.task.messages))
    if scene.suite.solver == "choose":
        return plain(scene, Ask(scene.task.messages, options=scene.task.choices, raw=scene.suite.prompt.raw))
    if scene.suite.solver == "replay":
        return replay(scene)
    return agent(scene) if scene.suite.solver == "agent" else attack(scene)


def plain(scene: Scene, ask: Ask) -> Steps[Outcome]:
    """One request, graded."""
    answer = yield from ask_one(ask)
    if answer.error is not None:
        return Outcome(None, error=answer.error)
    decisive = scene.history.last
    return Outcome(decisive, (yield from grade_all(scene, answer)))
