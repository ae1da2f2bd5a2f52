"""A dry run of the eval worker: every sample up to its first asks, which a model worker makes into prompts.

What a sample would ask is made by the code of a run, so that a run asks the same. Nothing is answered: what a sample
would ask later is not known, and only bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from appliance.evals import bounds
from appliance.evals.conversation import Ask, Trial, request
from appliance.evals.plan import Planned
from appliance.evals.prompts import Templates
from appliance.evals.run import Desk
from appliance.evals.sample import Sample
from attest import canonical
from attest.canonical import Model
from attest.job import Job, Name
from attest.sample import Message, Role, SampleError, Token


class Shown(Model):
    """A prompt in full."""

    messages: tuple[Message, ...]
    """The conversation, examples among its messages."""
    text: str = ""
    """What the model sees: the text that the tokens stand for, after the chat template, special tokens among it."""
    prompt_tokens: tuple[Token, ...] = ()
    """The tokens."""


class FirstAsk(Model):
    """A request of a sample's first turn."""

    role: Role
    """Who is asked."""
    label: str = ""
    """What it is for, of an attack."""
    tokens: int = Field(default=0, ge=0)
    """Tokens of the prompt."""
    option_tokens: tuple[int, ...] = ()
    """Tokens of each option that is weighed."""
    room: int = Field(default=0, ge=0)
    """Tokens that may be generated in answer: as many as the sampling allows and the context has room for."""
    cut: bool = False
    """Whether the context has room for fewer than the sampling allows."""
    error: SampleError | None = None
    """Why a run would get no answer."""
    shown: Shown | None = None
    """The prompt, of the samples that are shown."""


class Reply(Model):
    """What a model worker says of a request in a dry run."""

    prompt_tokens: tuple[Token, ...] = ()
    """The prompt."""
    text: str = ""
    """What it stands for, where that was asked for."""
    option_tokens: tuple[int, ...] = ()
    """Tokens of each option."""
    room: int = Field(default=0, ge=0)
    """Tokens of the context that the prompt leaves."""
    error: SampleError | None = None
    """With what a run would answer."""


class Preview(Model):
    """A sample, as far as it is known before it is run."""

    model: Name
    """The model under test."""
    suite: Name
    """The suite."""
    id: str = Field(min_length=1, max_length=280)
    """The row's identifier."""
    asks: tuple[FirstAsk, ...] = ()
    """Its first turn."""
    requests: dict[Role, int] = Field(default_factory=dict)
    """Requests to each role at most."""
    decode_tokens: int = Field(default=0, ge=0)
    """Tokens that all of its requests may generate at most."""
    error: SampleError | None = None
    """Why it would ask nothing."""


def previews(job: Job, plan: list[Planned], desk: Desk, shown: int, part: range) -> Iterator[Preview]:
    """The samples of `part`, in the order of the plan; prompts in full of the first `shown` of each suite."""
    tasks = [(planned, task) for planned in plan for task in planned.tasks]
    templates = {planned.suite.name: Templates(planned.suite.name) for planned in plan}
    for planned, task in (tasks[number] for number in part):
        sample = Sample(job, planned, task, templates[planned.suite.name])
        yield _preview(job, sample, desk, show=task.index < shown)


def _preview(job: Job, sample: Sample, desk: Desk, *, show: bool) -> Preview:
    planned, routed = sample.planned, sample.begin()
    named: dict[str, Any] = {"model": planned.model, "suite": planned.suite.name, "id": sample.scene.task.id}
    if sample.record is not None:
        return Preview(**named, error=sample.record.error)
    usual = planned.suite.sampling or job.sampling
    sent: list[dict[str, Any]] = []
    for tag, (route, ask) in enumerate(routed):
        stream, timeout_s = sample.stream(tag), job.limits.sample_timeout_s
        sent.append(request(ask, timeout_s=timeout_s, sampling=usual, seed=job.seed, stream=stream))
        desk.ask(route, tag, sent[tag] | {"show": show})
    replies = {tag: canonical.validate(Reply, reply, "reply") for _, tag, reply in (desk.reply() for _ in routed)}
    asks = [_first_ask(ask, _most(sent[tag]), replies[tag], show=show) for tag, (_, ask) in enumerate(routed)]
    known = bounds.of(sample.scene, usual)
    # What the first asks cannot have for want of room in the context, no later one gives back.
    missing = sum(_most(value) - ask.room for value, ask in zip(sent, asks, strict=True))
    return Preview(
        **named,
        asks=tuple(asks),
        requests={role: bound.requests for role, bound in known.items()},
        decode_tokens=sum(bound.tokens for bound in known.values()) - missing,
    )


def _most(value: dict[str, Any]) -> int:
    """Tokens that the sampling of a request allows."""
    return int(value["sampling"]["max_tokens"]) if value["op"] == "generate" else 0


def _first_ask(ask: Ask | Trial, most: int, reply: Reply, *, show: bool) -> FirstAsk:
    assert isinstance(ask, Ask)  # a program is run when there is one, and so never first
    room = 0 if reply.error is not None else min(most, reply.room)
    return FirstAsk(
        role=ask.role,
        label=ask.label,
        tokens=len(reply.prompt_tokens),
        option_tokens=reply.option_tokens,
        room=room,
        cut=reply.error is None and room < most,
        error=reply.error,
        shown=Shown(messages=ask.messages, text=reply.text, prompt_tokens=reply.prompt_tokens) if show else None,
    )
