"""What a sample is while it runs: a conversation of asks and answers, written as a generator.

A solver yields one or more asks at a time, which may run side by side, and is sent their answers in the same order.
It never sees a model, a clock or another sample, so that what it does is a function of the row and of the answers, and
under the exact numerics contract every run of it is the same. What it returns names the answer that counts.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from appliance.evals.scorers.scorer import Outcome as Score
from attest.job import Sampling
from attest.sample import Attack, Choice, Event, Generation, Message, Role, SampleError, ToolCall, Turn

T = TypeVar("T")
Scores = dict[str, Score]
"""Scorer to its score, or to the reason for none."""


@dataclass(frozen=True)
class Ask:
    """One request to one model."""

    messages: tuple[Message, ...]
    """The conversation so far."""
    role: Role = "target"
    """Which model."""
    label: str = ""
    """What it is for, for the record."""
    options: tuple[str, ...] | None = None
    """Weigh these instead of generating."""
    sampling: Sampling | None = None
    """How tokens are drawn; as the suite or the job says when absent."""
    stop: tuple[str, ...] = ()
    """Strings that end the completion."""
    grammar: str | None = None
    """What the completion has to follow, in GBNF."""
    raw: bool = False
    """Without the model's chat template: the one message's text as it is."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """What the chat template is given to describe to the model."""
    stream: str | None = None
    """The name that decides its draws, in place of the sample's own."""


@dataclass(frozen=True)
class Trial:
    """One request to run a program against tests; see `appliance.programs`."""

    request: Mapping[str, Any]
    """What a program worker is sent."""


@dataclass(frozen=True)
class Answer:
    """What came back: a generation, the options' likelihoods, or the reason for neither; or a program's verdict."""

    prompt_tokens: tuple[int, ...] = ()
    generation: Generation | None = None
    choices: tuple[Choice, ...] | None = None
    error: SampleError | None = None
    verdict: Mapping[str, Any] = field(default_factory=dict)
    """Of a trial: what the program worker says."""
    said: str | None = None
    """What counts as the reply, where that is not the whole completion."""
    world: Mapping[str, str] | None = None
    """Of an agent: the key-value world as it was left."""

    @property
    def text(self) -> str:
        """The reply; empty where there is none."""
        if self.said is not None:
            return self.said
        return self.generation.text if self.generation else ""


Steps = Generator[Sequence[Ask | Trial], Sequence[Answer], T]
"""Yields asks, is sent their answers, returns a `T`."""


@dataclass(frozen=True)
class Outcome:
    """What a solver returns."""

    decisive: int | None
    """The place in the history of the target's turn that counts; none when nothing could be asked."""
    scores: Scores = field(default_factory=dict)
    """Scorer to score, or to the reason for none."""
    attack: Attack | None = None
    """What an attack came to."""
    error: SampleError | None = None
    """Why the sample failed; then there are no scores."""


class History:
    """What happened in one sample so far, in the order in which it was asked."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def turn(self, ask: Ask, answer: Answer, model: str) -> None:
        """Note a request to `model` that was answered."""
        self.events.append(
            Turn(
                role=ask.role,
                model=model,
                label=ask.label,
                messages=ask.messages,
                prompt_tokens=answer.prompt_tokens,
                generation=answer.generation,
                choices=answer.choices,
                error=answer.error,
            )
        )

    def tool(self, call: ToolCall) -> None:
        """Note a call of a tool."""
        self.events.append(call)

    @property
    def last(self) -> int:
        """The place of the newest event."""
        return len(self.events) - 1


def ask_one(ask: Ask | Trial) -> Steps[Answer]:
    """Ask one thing."""
    (answer,) = yield [ask]
    return answer


def request(ask: Ask | Trial, *, timeout_s: int, sampling: Sampling, seed: int, stream: str) -> dict[str, Any]:
    """What a worker is sent for `ask`; `stream` with `seed` decides every draw of a model."""
    if isinstance(ask, Trial):
        return dict(ask.request)
    messages = [message.model_dump(mode="json", exclude_none=True) for message in ask.messages]
    value: dict[str, Any] = {"messages": messages, "timeout_s": timeout_s}
    if ask.raw:
        value["raw"] = True
    if ask.tools:
        value["tools"] = [dict(tool) for tool in ask.tools]
    if ask.options is not None:
        return value | {"op": "choose", "options": list(ask.options)}
    return value | {
        "op": "generate",
        "sampling": (ask.sampling or sampling).model_dump(),
        "stop": list(ask.stop),
        "seed": seed,
        "stream": stream if ask.stream is None else ask.stream,
        "grammar": ask.grammar,
    }
