"""One sample's record: what went into the model, what came out, down to the bits, and how it was scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from attest.canonical import Model
from attest.digest import Digest
from attest.job import Fraction, Name

StopReason = Literal["eos", "length", "stop", "context"]
LogProbability = Annotated[str, StringConstraints(pattern=r"^(0\.0{6}|-[0-9]{1,12}\.[0-9]{6})$")]
"""A log-probability in nats, a decimal string with six places; never above zero."""
Role = Literal["target", "attacker", "judge"]
"""What a model is to a sample: the one under test, the one that writes the attacks, the one that grades."""
Token = Annotated[int, Field(ge=0, lt=2**31)]
"""A token id."""


class Call(Model):
    """A call of a tool, as a message of the assistant carries it."""

    name: str = Field(min_length=1, max_length=200)
    """The function, as the model named it."""
    arguments: str
    """Its arguments: a JSON object."""


class Message(Model):
    """One chat message."""

    role: Literal["system", "user", "assistant", "tool"]
    """Who speaks."""
    content: str
    """What is said."""
    tool_calls: tuple[Call, ...] | None = Field(default=None, min_length=1)
    """Of the assistant: the tools that it called. Their results follow, one message each, in the same order."""
    name: str | None = Field(default=None, max_length=200)
    """Of a tool: which one speaks."""

    @model_validator(mode="after")
    def _each_role_has_its_own(self) -> Message:
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("only the assistant calls tools")
        if self.name is not None and self.role != "tool":
            raise ValueError("only a tool has a name")
        return self


class Generation(Model):
    """A completion. The token ids are what happened; `text` is their reading."""

    tokens: tuple[Token, ...]
    """Completion token ids, without the end-of-generation token."""
    text: str
    """The tokens as text; bytes that are not UTF-8 are replaced."""
    stop: StopReason
    """Why it ended: the model said so, the token limit, a stop string, or a full context."""
    logprobs: tuple[LogProbability, ...]
    """Log-probability of each chosen token under the model's own distribution (temperature 1), six places."""
    logits_digest: Digest
    """SHA-256 over the float32 logits (little-endian, whole vocabulary) of every position with a chosen token."""

    @model_validator(mode="after")
    def _one_likelihood_a_token(self) -> Generation:
        if len(self.tokens) != len(self.logprobs):
            raise ValueError(f"{len(self.tokens)} tokens have {len(self.logprobs)} log-probabilities")
        return self


class Choice(Model):
    """One option of a multiple-choice question, scored by its log-likelihood."""

    text: str
    """The option, as it stands in the reply."""
    tokens: tuple[Token, ...]
    """Its token ids."""
    logprob: LogProbability
    """Sum of the tokens' log-probabilities, six places."""
    logits_digest: Digest
    """SHA-256 over the float32 logits of every position that a token was scored at."""


class SampleError(Model):
    """Why a sample could not be run. A failed sample has no scores, and is counted as failed."""

    code: Name
    """For programs: `prompt-too-long`, `template`, `deadline`, ..."""
    message: str = Field(max_length=2000)
    """For people."""


Facts = dict[Name, Name]
"""Names to names: what a scorer noted of a sample."""


class Turn(Model):
    """One thing that was asked of one model in the course of a sample, and what came back."""

    kind: Literal["turn"] = "turn"
    """Which event this is."""
    role: Role
    """What the model was to the sample."""
    model: Name
    """The model that was asked."""
    label: str = Field(default="", max_length=200)
    """What it was for, in the words of the solver: an attack's technique, the scorer that asked the judge."""
    messages: tuple[Message, ...]
    """The conversation that was put to the model."""
    prompt_tokens: tuple[Token, ...] = ()
    """The prompt as the model saw it."""
    generation: Generation | None = None
    """What it generated."""
    choices: tuple[Choice, ...] | None = None
    """What it was asked to weigh."""
    error: SampleError | None = None
    """Why it gave no answer."""

    @model_validator(mode="after")
    def _one_outcome(self) -> Turn:
        if (self.generation is None) + (self.choices is None) + (self.error is None) != 2:
            raise ValueError("a turn has a generation, choices or an error, and one of them")
        return self


class ToolCall(Model):
    """One call of a tool, and what the tool said."""

    kind: Literal["tool"] = "tool"
    """Which event this is."""
    name: str = Field(max_length=200)
    """The tool, as the model named it."""
    arguments: str
    """Its arguments, as the model wrote them."""
    result: str
    """What it answered, or what was wrong with the call."""
    failed: bool = False
    """Whether the call was refused or failed."""


Event = Annotated[Turn | ToolCall, Field(discriminator="kind")]
"""Something that happened in the course of a sample."""


class Attack(Model):
    """What an attack on the target came to."""

    strategy: Name
    """Who attacked."""
    queries: int = Field(ge=0)
    """How often the target was asked."""
    first_success: int | None = Field(default=None, ge=1)
    """The number of the first query that succeeded, from 1; none did when absent."""

    @model_validator(mode="after")
    def _success_was_asked_for(self) -> Attack:
        if self.first_success is not None and self.first_success > self.queries:
            raise ValueError("the first success is one of the queries")
        return self


class SampleRecord(Model):
    """What a `sample` line of the transcript holds.

    A sample of one request has its answer in `generation` or `choices`. One of several has all of them in `events`, in
    the order in which they were asked, and `decisive` names the one whose answer is scored.
    """

    model: Name
    """The model that was asked."""
    suite: Name
    """The suite that asked."""
    index: int = Field(ge=0)
    """The sample's place in its suite on its model, from 0."""
    id: str = Field(min_length=1, max_length=280)
    """The row's identifier; unique in the suite. Of an attack, `@` and the strategy's name follow it."""
    epoch: int | None = Field(default=None, ge=1)
    """Which time the row is asked, from 1, where the suite asks it several times; `#` and the number end the id."""
    category: str | None = Field(default=None, min_length=1, max_length=200)
    """The row's group, for the tables; of an attack, the strategy."""
    messages: tuple[Message, ...]
    """The conversation that was put to the model."""
    target: str | None = None
    """The right answer, where there is one."""
    prompt_tokens: tuple[Token, ...] = ()
    """The prompt as the model saw it."""
    generation: Generation | None = None
    """What the model generated."""
    choices: tuple[Choice, ...] | None = None
    """What the model was asked to weigh."""
    events: tuple[Event, ...] = ()
    """Of a sample of several requests or of tools: everything that happened, in order."""
    decisive: int | None = Field(default=None, ge=0)
    """The place in `events` of the target's turn that is scored."""
    attack: Attack | None = None
    """What the attack came to, where the sample is one."""
    scores: dict[Name, Fraction] = Field(default_factory=dict)
    """Scorer to score, in [0, 1]."""
    unscored: dict[Name, str] = Field(default_factory=dict)
    """Scorer to the reason why it gave no score."""
    facts: dict[Name, Facts] = Field(default_factory=dict)
    """Scorer to what it noted besides its score, for metrics that are no mean of scores."""
    error: SampleError | None = None
    """Why the sample failed, if it did."""

    @property
    def row(self) -> str:
        """The id of its row: the same for all of its epochs."""
        return self.id if self.epoch is None else self.id.removesuffix(f"#{self.epoch}")

    @model_validator(mode="after")
    def _failed_means_unscored(self) -> SampleRecord:
        if self.error is not None and (self.scores or self.unscored):
            raise ValueError("a failed sample has no scores")
        if not self.facts.keys() <= self.scores.keys():
            raise ValueError("a scorer noted facts and gave no score")
        if self.scores.keys() & self.unscored.keys():
            raise ValueError("a scorer gave a score and none")
        if self.error is None and (self.generation is None) + (self.choices is None) + (self.decisive is None) != 2:
            raise ValueError("a sample that was run has a generation, choices or a decisive turn, and one of them")
        if self.decisive is not None:
            found = self.events[self.decisive] if self.decisive < len(self.events) else None
            if not isinstance(found, Turn) or found.role != "target" or found.error is not None:
                raise ValueError("the decisive turn is one that the target answered")
        return self
