"""What a scorer is: settings that a suite gives, and a pure function of them, what the model did, and the row.

A scorer gives a score, or the reason for none. It never raises over what a model said or a row holds, reads no clock
and no file, and draws nothing: the same three things give the same score on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from attest.aggregate import Aggregate, PassAtK
from attest.canonical import Model
from attest.job import Name
from attest.sample import Choice

Text = Annotated[str, Field(min_length=1, max_length=1000)]
"""A text that is not empty: an empty one is in every reply."""
Column = Annotated[str, Field(min_length=1, max_length=200)]
"""The name of a column of the data set."""
Solver = Literal["generate", "choose"]

PLACES = Decimal("1e-12")
EXACT = Context(prec=50, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True)
class Reference:
    """What the row says of the right answer."""

    target: str | None = None
    """The suite's `columns.target`, rendered."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The row as it was read: column to value."""


@dataclass(frozen=True)
class Scored:
    """A score."""

    value: str
    """A decimal string in [0, 1]."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What metrics that are no mean are made of: a name to a name."""


@dataclass(frozen=True)
class Unscored:
    """No score, and why."""

    reason: str
    """For people; at most 2,000 characters."""


Outcome = Scored | Unscored


class Scorer(Model):
    """What every scorer's settings have; a subclass adds its own, and `score_text` or `score_choices` or both."""

    solvers: ClassVar[tuple[Solver, ...]] = ("generate",)
    """The solvers whose outcome it can score."""
    needs_target: ClassVar[bool] = False
    """Whether it compares with `columns.target`."""

    scorer: str
    """Which scorer; each subclass narrows it to its own name."""
    name: Name | None = None
    """How results and claims name it; the scorer's own name when absent."""
    pass_at: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(default=(), max_length=8)
    """Report pass@k over the samples of each row, for these k: `NAME.pass-at-K`."""

    @property
    def label(self) -> str:
        """The name that results carry."""
        return self.name or self.scorer

    @property
    def aggregates(self) -> tuple[Aggregate, ...]:
        """What is to be reported besides the mean."""
        return tuple(PassAtK(name=f"{self.label}.pass-at-{k}", scorer=self.label, k=k) for k in self.pass_at)

    def score_text(self, _text: str, _reference: Reference, /) -> Outcome:
        """Score a completion."""
        raise RuntimeError(f"scorer {self.scorer!r} does not score a completion")

    def score_choices(self, _choices: Sequence[Choice], _reference: Reference, /) -> Outcome:
        """Score the options' log-likelihoods."""
        raise RuntimeError(f"scorer {self.scorer!r} does not score options")


def bit(value: bool, **facts: str) -> Scored:
    """1 or 0."""
    return Scored("1" if value else "0", facts)


def share(value: Fraction | Decimal, **facts: str) -> Scored:
    """A number in [0, 1], rounded half to even to twelve places."""
    if isinstance(value, Fraction):
        value = EXACT.divide(Decimal(value.numerator), Decimal(value.denominator))
    rounded = value.quantize(PLACES, context=EXACT)
    text = f"{rounded:f}".rstrip("0").rstrip(".")
    return Scored(text or "0", facts)
