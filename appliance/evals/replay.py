"""Replay: asks again what another harness asked, and compares what comes back with what it was told, bit for bit.

A row holds the requests of one sample as they were recorded, and the score that the harness gave. A completion that is
not the recorded one, in a token or in a logit, fails the sample: what is scored was said by this model.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from appliance.evals.conversation import Ask, Outcome, Steps
from appliance.evals.grading import grade_all
from appliance.evals.scene import Scene
from attest import canonical
from attest.canonical import Model
from attest.job import Fraction, Sampling
from attest.sample import Generation, Message, SampleError

COLUMN = "replay"
"""The column of a row that holds a `Recording`."""


class Recorded(Model):
    """One request, and what came back."""

    messages: tuple[Message, ...] = Field(min_length=1)
    """The conversation."""
    sampling: Sampling
    """How tokens were drawn."""
    stop: tuple[str, ...] = ()
    """Strings that end the completion."""
    grammar: str | None = None
    """What it has to follow, in GBNF."""
    tools: tuple[dict[str, Any], ...] = ()
    """What the chat template was given to describe."""
    stream: str = Field(max_length=1000)
    """The name that decides its draws."""
    generation: Generation
    """What the model generated."""

    def ask(self) -> Ask:
        """The request."""
        return Ask(
            self.messages,
            sampling=self.sampling,
            stop=self.stop,
            grammar=self.grammar,
            tools=self.tools,
            stream=self.stream,
        )


class Recording(Model):
    """One sample of another harness."""

    turns: tuple[Recorded, ...] = Field(min_length=1, max_length=1000)
    """Its requests, in the order in which they were made."""
    decisive: int = Field(ge=0)
    """Whose completion the harness scored."""
    scores: dict[str, Fraction] = Field(default_factory=dict)
    """Scorer to the score that it gave, a decimal string in [0, 1]."""
    unscored: dict[str, str] = Field(default_factory=dict)
    """Scorer to the reason why there is no such score."""

    @model_validator(mode="after")
    def _decisive_is_a_turn(self) -> Recording:
        if self.decisive >= len(self.turns):
            raise ValueError(f"expected the decisive turn among {len(self.turns)}, found number {self.decisive}")
        return self


def replay(scene: Scene) -> Steps[Outcome]:
    """The solver: all requests of the row, side by side; they are known already. Raises `MalformedInput`."""
    recording = read(scene.task.row.get(COLUMN))
    answers = yield [turn.ask() for turn in recording.turns]
    for number, (turn, answer) in enumerate(zip(recording.turns, answers, strict=True)):
        if answer.error is not None:
            return Outcome(None, error=answer.error)
        if answer.generation != turn.generation:
            found = answer.generation and answer.generation.logits_digest
            message = f"request {number}: expected logits {turn.generation.logits_digest}, as recorded, found {found}"
            return Outcome(None, error=SampleError(code="replay", message=message))
    return Outcome(recording.decisive, (yield from grade_all(scene, answers[recording.decisive])))


def read(value: Any) -> Recording:
    """The recording in a row's column. Raises `MalformedInput`."""
    return canonical.validate(Recording, value, f"column {COLUMN!r}")
