"""Attacks: a strategy proposes, the target is asked, the reply is graded, until one succeeds or the budget is out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from appliance.evals.agent import Ended, work
from appliance.evals.agents.strategy import Proposal, Seen, Strategy
from appliance.evals.conversation import Answer, Outcome, Scores, Steps
from appliance.evals.grading import grade_all
from appliance.evals.scene import Scene
from appliance.evals.scorers import Scored, Unscored
from appliance.evals.suite import Success
from attest import metrics
from attest.sample import Attack, SampleError


def attack(scene: Scene) -> Steps[Outcome]:
    """One strategy on one row. The turn that counts is the first success, else the one that came nearest.

    A query that the target could not answer counts against the budget; a sample without any answer has failed.
    """
    budget, spec = scene.queries, scene.task.strategy
    assert spec is not None
    strategy: Strategy = spec.make(scene)
    tried: list[_Tried] = []
    while len(tried) < budget and not any(each.seen.success for each in tried):
        proposals = (yield from strategy.propose())[: budget - len(tried)]
        if not proposals:
            break
        new = yield from _query(scene, proposals)
        tried += new
        strategy.observe([each.seen for each in new])
    first = next((number for number, each in enumerate(tried, 1) if each.seen.success), None)
    summary = Attack(strategy=spec.label, queries=len(tried), first_success=first)
    answered = [each for each in tried if each.seen.answer.error is None]
    if not answered:
        none = SampleError(code="no-query", message=f"strategy {spec.label} had nothing to ask")
        return Outcome(None, attack=summary, error=tried[0].seen.answer.error if tried else none)
    # Of equal ones it is the first.
    best = max(answered, key=lambda each: (each.seen.success, each.seen.progress))
    return Outcome(best.place, best.scores, attack=summary)


@dataclass(frozen=True)
class _Tried:
    """A query, its place in the history, and all that the scorers say of it."""

    place: int
    scores: Scores
    seen: Seen


def _query(scene: Scene, proposals: Sequence[Proposal]) -> Steps[list[_Tried]]:
    """Those of a round are asked side by side, but for agents, which take their turns one agent after the other."""
    if any(each.tools for each in proposals):
        ended = []
        for one in proposals:
            ended.append((yield from work(scene, one.messages, label=one.label, sampling=one.sampling)))
    else:
        asks = [scene.ask(each.messages, label=each.label, sampling=each.sampling) for each in proposals]
        answers = yield asks
        begin = len(scene.history.events) - len(answers)
        ended = [Ended(begin + number, answer) for number, answer in enumerate(answers)]
    tried = []
    for proposal, each in zip(proposals, ended, strict=True):
        scores: Scores = {}
        if each.unanswered is not None:
            scores = {spec.label: Unscored(each.unanswered) for spec in scene.suite.scorers}
        elif each.answer.error is None:
            scores = yield from grade_all(scene, each.answer)
        tried.append(_Tried(each.place, scores, _seen(scene, proposal, each.answer, scores)))
    return tried


def _seen(scene: Scene, proposal: Proposal, answer: Answer, scores: Scores) -> Seen:
    assert scene.suite.attack is not None
    success = scene.suite.attack.success
    score = scores.get(success.scorer)
    if not isinstance(score, Scored):
        return Seen(proposal, answer, None, success=False, progress=Fraction(0))
    reached = metrics.compare(score.value, success.comparator, success.threshold)
    return Seen(proposal, answer, score.value, success=reached, progress=_progress(score.value, success))


def _progress(score: str, success: Success) -> Fraction:
    """How near `score` comes to what is wanted: as it is where more is wanted, the other way round where less is."""
    if success.comparator == "==":
        return 1 - abs(Fraction(score) - Fraction(success.threshold))
    return Fraction(score) if success.comparator in (">", ">=") else 1 - Fraction(score)
