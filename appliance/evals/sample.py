"""One sample while it runs: drives its solver, notes what happens, and makes the record of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from appliance.evals import solvers
from appliance.evals.conversation import Answer, Ask, History, Outcome, Trial
from appliance.evals.dice import Dice
from appliance.evals.plan import Planned
from appliance.evals.prompts import Task, Templates
from appliance.evals.scene import Scene
from appliance.evals.scorers import Scored, Unscored
from appliance.programs import PROGRAMS
from attest import canonical
from attest.errors import MalformedInput
from attest.job import Job
from attest.sample import Choice, Generation, SampleError, SampleRecord, Turn

MAX_ASKS = 4000
Routed = list[tuple[int, Ask | Trial]]
"""Asks, each with the route of the worker that it goes to."""


class Sample:
    """A task under way. `record` is there once it has ended."""

    def __init__(self, job: Job, planned: Planned, task: Task, templates: Templates) -> None:
        self.planned = planned
        self.record: SampleRecord | None = None
        self._stream = f"{planned.suite.name}/{task.id}"
        self.scene = Scene(planned.suite, task, planned.grammar, Dice(job.seed, self._stream), templates, History())
        self._steps = solvers.solve(self.scene)
        self._asked = 0
        self._asks: Sequence[Ask | Trial] = ()
        self._answers: dict[int, Answer] = {}

    def begin(self) -> Routed:
        """What it asks first."""
        return self._go_on(None)

    def stream(self, place: int) -> str:
        """The name that decides the draws of ask number `place` of this turn. The first ask of all has the sample's."""
        number = self._asked + place
        return f"{self._stream}\n{number}" if number else self._stream

    def answered(self, place: int, reply: dict[str, Any]) -> Routed:
        """Take the reply to ask number `place` of this turn; what it asks next, once all of the turn are answered."""
        self._answers[place] = read(self._asks[place], reply)
        if len(self._answers) < len(self._asks):
            return []
        answers = [self._answers.pop(number) for number in range(len(self._asks))]
        for ask, answer in zip(self._asks, answers, strict=True):
            if isinstance(ask, Ask):  # what came of a trial is a fact of its scorer
                self.scene.history.turn(ask, answer, self.planned.models[ask.role][1])
        self._asked += len(self._asks)
        return self._go_on(answers)

    def _go_on(self, answers: Sequence[Answer] | None) -> Routed:
        try:
            self._asks = next(self._steps) if answers is None else self._steps.send(answers)
        except StopIteration as end:
            self.record = self._ended(end.value)
            return []
        except MalformedInput as error:  # a template that this row or this reply breaks
            self.record = self._ended(Outcome(None, error=SampleError(code="solver", message=str(error)[:2000])))
            return []
        if self._asked + len(self._asks) > MAX_ASKS:
            message = f"expected at most {MAX_ASKS} requests for one sample, found {self._asked + len(self._asks)}"
            self.record = self._ended(Outcome(None, error=SampleError(code="budget", message=message)))
            return []
        return [(self.planned.models[ask.role][0] if isinstance(ask, Ask) else PROGRAMS, ask) for ask in self._asks]

    def _ended(self, outcome: Outcome) -> SampleRecord:
        task, events = self.scene.task, tuple(self.scene.history.events)
        common: dict[str, Any] = {
            "model": self.planned.model,
            "suite": self.planned.suite.name,
            "index": task.index,
            "id": task.id,
            "epoch": task.epoch,
            "category": task.category,
            "messages": task.messages,
            "target": task.target,
            "attack": outcome.attack,
        }
        # One request about the row as it stands is told once, and not again as an event.
        (only,) = events if len(events) == 1 else (None,)
        if isinstance(only, Turn) and only.messages == task.messages and outcome.attack is None:
            common |= {"prompt_tokens": only.prompt_tokens, "generation": only.generation, "choices": only.choices}
        else:
            common |= {"events": events, "decisive": outcome.decisive}
        if outcome.error is not None:
            return SampleRecord(**common, error=outcome.error)
        scored = {name: found for name, found in outcome.scores.items() if isinstance(found, Scored)}
        return SampleRecord(
            **common,
            scores={name: found.value for name, found in scored.items()},
            unscored={name: found.reason for name, found in outcome.scores.items() if isinstance(found, Unscored)},
            facts={name: dict(found.facts) for name, found in scored.items() if found.facts},
        )


def read(ask: Ask | Trial, reply: dict[str, Any]) -> Answer:
    """What a worker's reply says; one that has not the form it should have is an error."""
    if isinstance(ask, Trial):
        return Answer(verdict=reply)
    try:
        if "error" in reply:
            return Answer(error=SampleError.model_validate(reply["error"]))
        if not isinstance(reply["prompt_tokens"], list) or not reply["prompt_tokens"]:
            raise ValueError("expected the tokens of the prompt, found none")
        prompt_tokens = tuple(reply["prompt_tokens"])
        if ask.options is None:
            generation = canonical.validate(Generation, reply["generation"], "generation")
            answer = Answer(prompt_tokens, generation=generation)
        else:
            choices = tuple(canonical.validate(Choice, choice, "choice") for choice in reply["choices"])
            if tuple(choice.text for choice in choices) != ask.options:
                raise ValueError("the options are not those that were asked for, in their order")
            answer = Answer(prompt_tokens, choices=choices)
        History().turn(ask, answer, "x")  # the tokens are token ids
        return answer
    except (MalformedInput, ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"the model worker's reply has not the form it should have: {error}"[:2000]
        return Answer(error=SampleError(code="reply", message=message))
