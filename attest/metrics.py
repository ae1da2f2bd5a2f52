"""Metrics as pure functions of the samples' scores, in exact arithmetic, so that every machine gets the same digits.

A sample's score is a decimal string in [0, 1]. `mean` is the only aggregate: the accuracy, the refusal rate and so on
differ in the scorer. Its standard error is that of a mean; its 95 % interval is Wilson's for scores that are all 0
or 1, and the normal one, cut to [0, 1], for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction

from attest.canonical import Model

Z_95 = Decimal("1.959963984540054")
PLACES = Decimal("0.000001")


class Estimate(Model):
    """A mean with its uncertainty; decimal strings with six places."""

    n: int
    """Scores that went in; unscored and failed samples are not among them."""
    value: str
    """The mean."""
    stderr: str
    """The standard error of the mean (n - 1 in the variance; 0 for a single score)."""
    ci_low: str
    """Lower end of the 95 % interval."""
    ci_high: str
    """Upper end of the 95 % interval."""


def estimate(scores: Sequence[str]) -> Estimate | None:
    """The mean of decimal strings in [0, 1] with its 95 % interval, or None when there are none."""
    if not scores:
        return None
    with localcontext(Context(prec=50, rounding=ROUND_HALF_EVEN)):
        values = [Decimal(score) for score in scores]
        n = Decimal(len(values))
        mean = sum(values, Decimal(0)) / n
        spread = sum(((value - mean) ** 2 for value in values), Decimal(0))
        stderr = (spread / (n - 1) / n).sqrt() if n > 1 else Decimal(0)
        binary = all(value in (0, 1) for value in values)
        low, high = _wilson(mean, n) if binary else (mean - Z_95 * stderr, mean + Z_95 * stderr)
        return Estimate(
            n=len(values),
            value=_text(mean),
            stderr=_text(stderr),
            ci_low=_text(max(low, Decimal(0))),
            ci_high=_text(min(high, Decimal(1))),
        )


def _wilson(mean: Decimal, n: Decimal) -> tuple[Decimal, Decimal]:
    square = Z_95 * Z_95
    centre = mean + square / (2 * n)
    half = Z_95 * (mean * (1 - mean) / n + square / (4 * n * n)).sqrt()
    scale = 1 + square / n
    return (centre - half) / scale, (centre + half) / scale


def _text(value: Decimal) -> str:
    return str(value.quantize(PLACES) + 0)


def mean(scores: Sequence[str]) -> Fraction | None:
    """The exact mean of decimal strings, or None when there are none."""
    return sum(map(Fraction, scores), Fraction(0)) / len(scores) if scores else None


def compare(value: str | Fraction, comparator: str, threshold: str) -> bool:
    """Whether `value comparator threshold` holds, in exact arithmetic."""
    left, right = Fraction(value), Fraction(threshold)
    outcomes = {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right, "==": left == right}
    return outcomes[comparator]
