"""Grades an answer by a suite's scorers. Most are pure functions; a judge is another model that is asked."""

from __future__ import annotations

from appliance.evals.conversation import Answer, Scores, Steps
from appliance.evals.judge import Judge, judge
from appliance.evals.scene import Scene
from appliance.evals.scorers import Outcome, Reference, score
from appliance.evals.suite import Scorer
from appliance.evals.tools.end_state import EndState, end_state


def grade(scene: Scene, spec: Scorer, answer: Answer) -> Steps[Outcome]:
    """The score that `spec` gives the target's `answer`, or the reason for none."""
    if isinstance(spec, Judge):
        return (yield from judge(scene, spec, answer))
    if isinstance(spec, EndState):
        return end_state(scene, spec, answer.world)
    did = answer.text if answer.choices is None else answer.choices
    return score(spec, did, Reference(scene.task.target, scene.task.row))


def grade_all(scene: Scene, answer: Answer) -> Steps[Scores]:
    """What every scorer of the suite says, in its order."""
    scores: Scores = {}
    for spec in scene.suite.scorers:
        scores[spec.label] = yield from grade(scene, spec, answer)
    return scores
