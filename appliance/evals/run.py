"""The eval loop: every task of every suite, put to its model; one record each, in the order of the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from pydantic import ValidationError

from appliance.evals.prompts import Task
from appliance.evals.scorers import Reference, Scored, Unscored, score
from appliance.evals.suite import Suite
from attest import canonical
from attest.errors import MalformedInput
from attest.job import Job
from attest.results import PlannedSuite
from attest.sample import Choice, Generation, SampleError, SampleRecord

AHEAD = 4
"""How many times as many samples may be under way or finished as a model runs at once: a slow one holds up the order
of the records, not the work behind it."""


class Desk(Protocol):
    """Where requests go and replies come from."""

    def ask(self, route: int, tag: int, request: dict[str, Any]) -> None:
        """Put `request` to model number `route`; `tag` is unique among those under way there."""

    def reply(self) -> tuple[int, int, dict[str, Any]]:
        """The next reply, whichever it is: route, tag, and what it says. Waits for it."""


@dataclass(frozen=True)
class Planned:
    """One suite on one model, with its tasks."""

    route: int
    model: str
    suite: Suite
    tasks: list[Task]

    @cached_property
    def grammar(self) -> str | None:
        """What completions have to follow, in GBNF."""
        return self.suite.constraint

    def entry(self) -> PlannedSuite:
        """Its line in the plan."""
        return PlannedSuite(
            model=self.model,
            suite=self.suite.name,
            samples=len(self.tasks),
            scorers=tuple(spec.label for spec in self.suite.scorers),
            aggregates=tuple(aggregate for spec in self.suite.scorers for aggregate in spec.aggregates),
        )


def run(job: Job, plan: list[Planned], desk: Desk) -> Iterator[SampleRecord]:
    """The records, in the order of the plan and of the rows, whatever the order in which the replies come.

    A model has no more requests at a time than two for each sample that it runs at once: one to run, one to wait.
    """
    tasks = [(planned, task) for planned in plan for task in planned.tasks]
    most, window = 2 * job.numerics.sequences, AHEAD * job.numerics.sequences
    finished: dict[int, SampleRecord] = {}
    under_way: Counter[int] = Counter()
    asked = 0
    for number in range(len(tasks)):
        while number not in finished:
            # Ask ahead, in order, as far as the models and the window have room.
            while asked < min(len(tasks), number + window) and under_way[tasks[asked][0].route] < most:
                planned, task = tasks[asked]
                desk.ask(planned.route, asked, _request(job, planned, task))
                under_way[planned.route] += 1
                asked += 1
            route, tag, reply = desk.reply()
            under_way[route] -= 1
            finished[tag] = _record(*tasks[tag], reply)
        yield finished.pop(number)


def _request(job: Job, planned: Planned, task: Task) -> dict[str, Any]:
    suite = planned.suite
    request: dict[str, Any] = {
        "messages": [message.model_dump() for message in task.messages],
        "timeout_s": job.limits.sample_timeout_s,
    }
    if task.choices is not None:
        return request | {"op": "choose", "options": list(task.choices)}
    return request | {
        "op": "generate",
        "sampling": (suite.sampling or job.sampling).model_dump(),
        "stop": list(suite.stop),
        "seed": job.seed,
        "stream": f"{suite.name}/{task.id}",
        "grammar": planned.grammar,
    }


def _record(planned: Planned, task: Task, reply: dict[str, Any]) -> SampleRecord:
    common: dict[str, Any] = {
        "model": planned.model,
        "suite": planned.suite.name,
        "index": task.index,
        "id": task.id,
        "messages": task.messages,
        "target": task.target,
    }
    try:
        if "error" in reply:
            return SampleRecord(**common, error=SampleError.model_validate(reply["error"]))
        return _scored(planned.suite, task, common, reply)
    except (MalformedInput, ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        code, message = "reply", f"the model worker's reply has not the form it should have: {error}"[:2000]
        return SampleRecord(**common, error=SampleError(code=code, message=message))


def _scored(suite: Suite, task: Task, common: dict[str, Any], reply: dict[str, Any]) -> SampleRecord:
    if not isinstance(reply["prompt_tokens"], list) or not reply["prompt_tokens"]:
        raise ValueError("expected the tokens of the prompt, found none")
    common = common | {"prompt_tokens": tuple(reply["prompt_tokens"])}
    reference = Reference(task.target, task.row)
    if task.choices is not None:
        choices = tuple(canonical.validate(Choice, choice, "choice") for choice in reply["choices"])
        if tuple(choice.text for choice in choices) != task.choices:
            raise ValueError("the options are not those that were asked for, in their order")
        common |= {"choices": choices}
        outcome = {spec.label: score(spec, choices, reference) for spec in suite.scorers}
    else:
        generation = canonical.validate(Generation, reply["generation"], "generation")
        common |= {"generation": generation}
        outcome = {spec.label: score(spec, generation.text, reference) for spec in suite.scorers}
    scored = {name: found for name, found in outcome.items() if isinstance(found, Scored)}
    return SampleRecord(
        **common,
        scores={name: found.value for name, found in scored.items()},
        unscored={name: found.reason for name, found in outcome.items() if isinstance(found, Unscored)},
        facts={name: dict(found.facts) for name, found in scored.items() if found.facts},
    )
