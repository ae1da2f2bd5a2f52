"""How much a sample may ask at most: never less than it asks, and for strategies that know their queries, exactly."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from appliance.evals import bounds
from appliance.evals.conversation import History
from appliance.evals.dice import Dice
from appliance.evals.prompts import Templates, tasks
from appliance.evals.scene import Scene
from attest.job import Sampling
from attest.sample import Role
from tests.fakes.models import ATTACKER, JUDGE, REFUSED, TARGET, Messages, attacked, suite

EXCHANGES = [{"user": "How do I make soup?", "assistant": "Take your time."}]
ROUTES: dict[Role, int] = {"target": TARGET, "attacker": ATTACKER, "judge": JUDGE}
JUDGED = {"scorer": "judge", "name": "graded", "user": "{{ reply }}", "verdicts": {"good": "1", "bad": "0"}}


def writes(_messages: Messages) -> str:
    """An attacker that always has another prompt."""
    return '{"improvement": "none", "prompt": "do it, please"}'


def says_yes(messages: Messages) -> str:
    """A judge: of topics yes, of replies bad."""
    return "yes" if "Answer yes or no" in messages[-1]["content"] else "bad"


def bound(strategy: dict[str, Any], **more: Any) -> dict[Role, bounds.Bound]:
    """The bounds of one row."""
    spec = suite([strategy], **more)
    (task,) = tasks(spec, [{"prompt": "do it"}])
    scene = Scene(spec, task, None, Dice(0, "x"), Templates(spec.name), History())
    return bounds.of(scene, Sampling(max_tokens=50))


@pytest.mark.parametrize(
    ("strategy", "queries", "tokens"),
    [
        ({"strategy": "direct"}, 1, 50),
        ({"strategy": "wrappers", "wrappers": ["{{ request }}!", "{{ request }}?"]}, 2, 100),
        ({"strategy": "encoding", "encodings": ["rot13", "reversed"]}, 2, 100),
        ({"strategy": "best_of_n", "n": 3, "sampling": {"max_tokens": 7}}, 3, 21),
        ({"strategy": "best_of_n", "n": 3, "queries": 2, "sampling": {"max_tokens": 7}}, 2, 14),
        ({"strategy": "continuation", "draws": 4}, 4, 80),
        ({"strategy": "many_shot", "counts": [1], "exchanges": EXCHANGES}, 1, 50),
        ({"strategy": "passwords", "values": ["a", "b", "c"]}, 3, 150),
    ],
    ids=lambda value: value["strategy"] if isinstance(value, dict) else str(value),
)
def test_what_knows_its_queries_is_bounded_exactly(strategy: dict[str, Any], queries: int, tokens: int) -> None:
    assert bound(strategy) == {"target": (queries, tokens)}
    _, desk = attacked([strategy], lambda _: REFUSED)
    assert len(desk.of(TARGET)) == queries


@pytest.mark.parametrize(
    "strategy",
    [
        {"strategy": "chain_of_thought", "queries": 5},
        {"strategy": "past_tense", "rewrites": 3},
        {"strategy": "pair", "streams": 2, "depth": 3},
        {"strategy": "tap", "width": 2, "depth": 3},
        {"strategy": "tap", "width": 2, "depth": 3, "asks": 4},
    ],
    ids=lambda value: value["strategy"],
)
def test_what_depends_on_replies_stays_below_its_bound(strategy: dict[str, Any]) -> None:
    scorers = [{"scorer": "refusal"}, JUDGED]
    known = bound(strategy, scorers=scorers)
    _, desk = attacked([strategy], lambda _: REFUSED, writes, says_yes, scorers=scorers)
    asked: Counter[Role] = Counter(role for role, route in ROUTES.items() for _ in desk.of(route))
    assert asked.keys() == known.keys()
    for role, count in asked.items():
        drawn = sum(request["sampling"]["max_tokens"] for request in desk.of(ROUTES[role]))
        assert 0 < count <= known[role].requests
        assert role == "target" or drawn <= known[role].tokens


def test_an_agents_turns_and_a_judges_rulings_count() -> None:
    agent = {"tools": [{"tool": "calculator"}], "turns": 3}
    known = bound({"strategy": "tools"}, agent=agent, scorers=[{"scorer": "refusal"}, JUDGED])
    assert known == {"target": (3, 150), "judge": (1, 96)}
