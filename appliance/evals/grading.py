"""Grades an answer by a suite's scorers. Most are pure functions; a judge is another model that is asked, and programs
are run in workers of their own."""

from __future__ import annotations

from appliance.evals.conversation import Answer, Scores, Steps, Trial, ask_one
from appliance.evals.judge import Judge, judge
from appliance.evals.scene import Scene
from appliance.evals.scorers import Outcome, Reference, Unscored, score
from appliance.evals.scorers.program import Program
from appliance.evals.suite import Scorer
from appliance.evals.tools.end_state import EndState, end_state


def grade(scene: Scene, spec: Scorer, answer: Answer) -> Steps[Outcome]:
    """The score that `spec` gives the target's `answer`, or the reason for none."""
    if isinstance(spec, Judge):
        return (yield from judge(scene, spec, answer))
    if isinstance(spec, EndState):
        return end_state(scene, spec, answer.world)
    reference = Reference(scene.task.target, scene.task.row)
    if isinstance(spec, Program):
        trial = spec.trial(answer.text, reference)
        if isinstance(trial, Unscored):
            return trial
        return spec.outcome((yield from ask_one(Trial(trial))).verdict)
    did = answer.text if answer.choices is None else answer.choices
    return score(spec, did, reference)


def grade_all(scene: Scene, answer: Answer) -> Steps[Scores]:
    """What every scorer of the suite says, in its order."""
    scores: Scores = {}
    for spec in scene.suite.scorers:
        scores[spec.label] = yield from grade(scene, spec, answer)
    return scores
