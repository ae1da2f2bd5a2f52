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
Token = Annotated[int, Field(ge=0, lt=2**31)]
"""A token id."""


class Message(Model):
    """One chat message."""

    role: Literal["system", "user", "assistant", "tool"]
    """Who speaks."""
    content: str
    """What is said."""


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


class SampleRecord(Model):
    """What a `sample` line of the transcript holds."""

    model: Name
    """The model that was asked."""
    suite: Name
    """The suite that asked."""
    index: int = Field(ge=0)
    """The row's place in the data set, from 0."""
    id: str = Field(min_length=1, max_length=200)
    """The row's identifier; unique in the suite."""
    messages: tuple[Message, ...]
    """The conversation that was put to the model."""
    target: str | None = None
    """The right answer, where there is one."""
    category: str | None = Field(default=None, min_length=1, max_length=200)
    """The part of the data set that the row belongs to; results have a table of them."""
    prompt_tokens: tuple[Token, ...] = ()
    """The prompt as the model saw it."""
    generation: Generation | None = None
    """What the model generated."""
    choices: tuple[Choice, ...] | None = None
    """What the model was asked to weigh."""
    scores: dict[Name, Fraction] = Field(default_factory=dict)
    """Scorer to score, in [0, 1]."""
    unscored: dict[Name, str] = Field(default_factory=dict)
    """Scorer to the reason why it gave no score."""
    facts: dict[Name, Facts] = Field(default_factory=dict)
    """Scorer to what it noted besides its score, for metrics that are no mean of scores."""
    error: SampleError | None = None
    """Why the sample failed, if it did."""

    @model_validator(mode="after")
    def _failed_means_unscored(self) -> SampleRecord:
        if self.error is not None and (self.scores or self.unscored):
            raise ValueError("a failed sample has no scores")
        if not set(self.facts) <= set(self.scores):
            raise ValueError("a scorer noted facts and gave no score")
        if set(self.scores) & set(self.unscored):
            raise ValueError("a scorer gave a score and none")
        if self.error is None and (self.generation is None) == (self.choices is None):
            raise ValueError("a sample that was run has either a generation or choices")
        return self
