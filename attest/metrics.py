"""Metrics as pure functions of the samples' scores, in exact arithmetic, so that every machine gets the same digits.

A sample's score is a decimal string in [0, 1]. Most metrics are means of such scores: the accuracy, the refusal rate
and so on differ in the scorer; `attest.aggregate` has those that are not. A mean's standard error is that of a mean;
its 95 % interval is Wilson's for scores that are all 0 or 1, and the normal one, cut to [0, 1], for others; beside it
stands the bootstrap's (`attest.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction

from attest import bootstrap
from attest.canonical import Model

Z_95 = Decimal("1.959963984540054")
PLACES = Decimal("0.000001")
CONTEXT = Context(prec=50, rounding=ROUND_HALF_EVEN)


class Estimate(Model):
    """A value with its uncertainty; decimal strings with six places."""

    n: int
    """Scores that went in; unscored and failed samples are not among them."""
    value: str
    """The value; the mean, where nothing else is said."""
    stderr: str
    """Its standard error (n - 1 in the variance; 0 for a single score)."""
    ci_low: str
    """Lower end of the 95 % interval."""
    ci_high: str
    """Upper end of the 95 % interval."""
    bootstrap_low: str | None = None
    """Lower end of the bootstrap's 95 % percentile interval; absent where none is made."""
    bootstrap_high: str | None = None
    """Upper end of the bootstrap's 95 % percentile interval."""


def estimate(
    scores: Sequence[str | Fraction], *, scale: int = 1, shift: int = 0, with_bootstrap: bool = True
) -> Estimate | None:
    """`scale` times the mean of scores in [0, 1], plus `shift`, with its 95 % intervals; None when there are none."""
    if not scores:
        return None
    with localcontext(CONTEXT):
        distinct = {score: decimal(score) for score in set(scores)}
        values = [distinct[score] for score in scores]
        n = Decimal(len(values))
        mean = sum(values, Decimal(0)) / n
        squares = {score: (value - mean) ** 2 for score, value in distinct.items()}
        spread = sum((squares[score] for score in scores), Decimal(0))
        stderr = (spread / (n - 1) / n).sqrt() if n > 1 else Decimal(0)
        binary = all(value in (0, 1) for value in distinct.values())
        low, high = wilson(mean, n) if binary else (mean - Z_95 * stderr, mean + Z_95 * stderr)
        drawn = bootstrap.interval(values) if with_bootstrap else None

        def moved(end: Decimal) -> str:
            return text(scale * min(max(end, Decimal(0)), Decimal(1)) + shift)

        return Estimate(
            n=len(values),
            value=moved(mean),
            stderr=text(scale * stderr),
            ci_low=moved(low),
            ci_high=moved(high),
            bootstrap_low=moved(drawn[0]) if drawn else None,
            bootstrap_high=moved(drawn[1]) if drawn else None,
        )


def wilson(mean: Decimal, n: Decimal) -> tuple[Decimal, Decimal]:
    """Both ends of Wilson's 95 % interval for the share `mean` of `n`."""
    square = Z_95 * Z_95
    centre = mean + square / (2 * n)
    half = Z_95 * (mean * (1 - mean) / n + square / (4 * n * n)).sqrt()
    scale = 1 + square / n
    return (centre - half) / scale, (centre + half) / scale


def decimal(value: str | Fraction) -> Decimal:
    """The number, a fraction rounded to the digits of the context."""
    return Decimal(value) if isinstance(value, str) else Decimal(value.numerator) / value.denominator


def text(value: Decimal) -> str:
    """The number with six places."""
    return str(value.quantize(PLACES) + 0)


def written(value: Fraction) -> str:
    """The exact value with six places."""
    with localcontext(CONTEXT):
        return text(decimal(value))


def mean(scores: Sequence[str | Fraction]) -> Fraction | None:
    """The exact mean of decimal strings, or None when there are none."""
    return sum((Fraction(score) for score in scores), Fraction(0)) / len(scores) if scores else None


def compare(value: str | Fraction, comparator: str, threshold: str) -> bool:
    """Whether `value comparator threshold` holds, in exact arithmetic."""
    left, right = Fraction(value), Fraction(threshold)
    outcomes = {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right, "==": left == right}
    return outcomes[comparator]
