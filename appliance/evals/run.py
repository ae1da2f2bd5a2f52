"""The eval loop: every task of every suite, in order, put to its model; one record each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from appliance.evals.prompts import Task
from appliance.evals.scorers import Unscored, score_choices, score_text
from appliance.evals.suite import Suite
from attest import canonical
from attest.errors import MalformedInput
from attest.job import Job
from attest.results import PlannedSuite
from attest.sample import Choice, Generation, SampleError, SampleRecord

Ask = Callable[[int, dict[str, Any]], dict[str, Any]]
"""Puts a request to model number `n` and returns its reply."""


@dataclass(frozen=True)
class Planned:
    """One suite on one model, with its tasks."""

    route: int
    model: str
    suite: Suite
    tasks: list[Task]

    def entry(self) -> PlannedSuite:
        """Its line in the plan."""
        scorers = tuple(spec.label for spec in self.suite.scorers)
        return PlannedSuite(model=self.model, suite=self.suite.name, samples=len(self.tasks), scorers=scorers)


def run(job: Job, plan: list[Planned], ask: Ask) -> Iterator[SampleRecord]:
    """The records, in the order of the plan and of the rows."""
    for planned in plan:
        for task in planned.tasks:
            yield _sample(job, planned, task, ask)


def _sample(job: Job, planned: Planned, task: Task, ask: Ask) -> SampleRecord:
    suite = planned.suite
    common: dict[str, Any] = {
        "model": planned.model,
        "suite": suite.name,
        "index": task.index,
        "id": task.id,
        "messages": task.messages,
        "target": task.target,
    }
    request: dict[str, Any] = {
        "messages": [message.model_dump() for message in task.messages],
        "timeout_s": job.limits.sample_timeout_s,
    }
    if task.choices is not None:
        request |= {"op": "choose", "options": list(task.choices)}
    else:
        sampling = suite.sampling or job.sampling
        request |= {
            "op": "generate",
            "sampling": sampling.model_dump(),
            "stop": list(suite.stop),
            "seed": job.seed,
            "stream": f"{suite.name}/{task.id}",
        }
    reply = ask(planned.route, request)
    try:
        if "error" in reply:
            return SampleRecord(**common, error=SampleError.model_validate(reply["error"]))
        return _scored(suite, task, common, reply)
    except (MalformedInput, ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        code, message = "reply", f"the model worker's reply has not the form it should have: {error}"[:2000]
        return SampleRecord(**common, error=SampleError(code=code, message=message))


def _scored(suite: Suite, task: Task, common: dict[str, Any], reply: dict[str, Any]) -> SampleRecord:
    if not isinstance(reply["prompt_tokens"], list) or not reply["prompt_tokens"]:
        raise ValueError("expected the tokens of the prompt, found none")
    common = common | {"prompt_tokens": tuple(reply["prompt_tokens"])}
    if task.choices is not None and task.target is not None:
        choices = tuple(canonical.validate(Choice, choice, "choice") for choice in reply["choices"])
        if tuple(choice.text for choice in choices) != task.choices:
            raise ValueError("the options are not those that were asked for, in their order")
        scores = {spec.label: score_choices(choices, task.target) for spec in suite.scorers}
        return SampleRecord(**common, choices=choices, scores=scores)
    generation = canonical.validate(Generation, reply["generation"], "generation")
    outcome = {spec.label: score_text(spec, generation.text, task.target) for spec in suite.scorers}
    return SampleRecord(
        **common,
        generation=generation,
        scores={name: value for name, value in outcome.items() if isinstance(value, str)},
        unscored={name: value.reason for name, value in outcome.items() if isinstance(value, Unscored)},
    )
