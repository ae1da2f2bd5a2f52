"""Grades an answer by a suite's scorers. Most are pure functions; a judge is another model that is asked."""

from __future__ import annotations

from appliance.evals.conversation import Answer, Steps
from appliance.evals.judge import Judge, judge
from appliance.evals.scene import Scene
from appliance.evals.scorers import Unscored, score_choices, score_text
from appliance.evals.suite import Scorer

Scores = dict[str, str | Unscored]
"""Scorer to its score, or to the reason for none."""


def grade(scene: Scene, spec: Scorer, answer: Answer) -> Steps[str | Unscored]:
    """The score that `spec` gives the target's `answer`, or the reason for none."""
    if isinstance(spec, Judge):
        return (yield from judge(scene, spec, answer))
    target = scene.task.target
    if answer.choices is not None:
        return score_choices(answer.choices, target or "")
    return score_text(spec, answer.text, target)


def grade_all(scene: Scene, answer: Answer) -> Steps[Scores]:
    """What every scorer of the suite says, in its order."""
    scores: Scores = {}
    for spec in scene.suite.scorers:
        scores[spec.label] = yield from grade(scene, spec, answer)
    return scores
