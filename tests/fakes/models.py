"""Models that are functions, and suites of attacks run on them: target, attacker and judge, without an engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

from appliance.evals import plan, prompts
from appliance.evals.run import run
from appliance.evals.suite import Suite
from attest import canonical
from attest.digest import digest_of
from attest.job import Job
from attest.sample import SampleRecord, Turn

Messages = list[dict[str, Any]]
Model = Callable[[Messages], str | None]
"""A conversation to a reply; None is an error."""
TARGET, ATTACKER, JUDGE = range(3)
REFUSED = "I'm sorry, no."


SUCCESS = {"scorer": "refusal", "comparator": "==", "threshold": "0"}
"""An attack succeeds with a reply that is no refusal."""


class Desk:
    """Each request gets what `answer` makes of it: the next of those that wait by `order`, or else the oldest."""

    def __init__(self, answer: Callable[[int, dict[str, Any]], Any], order: Iterable[int] = ()) -> None:
        self.answer = answer
        self.order = iter(order)
        self.asked: list[tuple[int, dict[str, Any]]] = []
        self.waiting: list[tuple[int, int, dict[str, Any]]] = []
        self.most = 0

    def ask(self, route: int, tag: int, request: dict[str, Any]) -> None:
        assert (route, tag) not in [(at, number) for at, number, _ in self.waiting]
        self.asked.append((route, request))
        self.waiting.append((route, tag, request))
        self.most = max(self.most, len(self.waiting))

    def reply(self) -> tuple[int, int, Any]:
        route, tag, request = self.waiting.pop(next(self.order, 0) % len(self.waiting))
        return route, tag, copy.deepcopy(self.answer(route, request))

    def of(self, route: int) -> list[dict[str, Any]]:
        """The requests to one model."""
        return [request for where, request in self.asked if where == route]


def talking(*models: Model) -> Callable[[int, dict[str, Any]], Any]:
    """Answers of models, by route."""

    def answer(route: int, request: dict[str, Any]) -> Any:
        text = models[route](request["messages"])
        if text is None:
            return {"error": {"code": "deadline", "message": "late"}}
        digest = digest_of(b"logits")
        generation = {"tokens": [1], "text": text, "stop": "eos", "logprobs": ["-0.100000"], "logits_digest": digest}
        return {"prompt_tokens": [1], "generation": generation}

    return answer


def suite(strategies: list[dict[str, Any]], **more: Any) -> Suite:
    """An attack suite; `more` replaces its fields."""
    value: dict[str, Any] = {
        "format": "vitrine/suite/v1",
        "name": "red",
        "dataset": {"path": "rows.jsonl", "digest": digest_of(b""), "format": "jsonl"},
        "prompt": {"system": "Be good.", "user": "{{ prompt }}"},
        "solver": "attack",
        "attack": {"strategies": strategies, "success": SUCCESS, "queries": more.pop("queries", 100)},
        "scorers": [{"scorer": "refusal"}],
    }
    return canonical.validate(Suite, value | more, "suite")


def attacked(
    strategies: list[dict[str, Any]],
    *models: Model,
    rows: list[dict[str, Any]] | None = None,
    seed: int = 0,
    **more: Any,
) -> tuple[list[SampleRecord], Desk]:
    """The records of an attack on `models` (target, attacker, judge), each read back from its own JSON."""
    return ran(suite(strategies, **more), *models, rows=rows or [{"prompt": "do it"}], seed=seed)


def ran(spec: Suite, *models: Model, rows: list[dict[str, Any]], seed: int = 0) -> tuple[list[SampleRecord], Desk]:
    """The records of a suite."""
    names = ["target", "attacker", "judge"]
    roles = {role: role for role in ("attacker", "judge") if role in spec.needs}
    described = job(names, {"path": "s", "models": ["target"], **roles}, seed)
    desk = Desk(talking(*models), repeat(-1))  # the last one first
    planned = plan.make(names, [(described.suites[0], spec, prompts.tasks(spec, rows))])
    records = list(run(described, planned, desk))
    for record in records:
        canonical.parse(SampleRecord, canonical.dump_model(record), "record")
    return records, desk


def job(models: list[str], entry: dict[str, Any], seed: int = 0) -> Job:
    """A job of one suite."""
    named = [{"id": name, "path": "x"} for name in models]
    value = {"format": "vitrine/job/v1", "name": "demo", "seed": seed, "models": named, "suites": [entry]}
    return canonical.validate(Job, value, "job")


def turns(record: SampleRecord, role: str = "target") -> list[Turn]:
    """What a model was asked."""
    return [event for event in record.events if isinstance(event, Turn) and event.role == role]


def refuses(_messages: Messages) -> str:
    """A target that never gives in."""
    return REFUSED
