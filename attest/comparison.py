"""Two models on the same samples: the paired difference of their scores.

Pairing takes out how hard the samples are: the standard error is that of the mean of the differences, which is smaller
than that of two means apart where the models find the same samples hard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal, localcontext
from fractions import Fraction

from attest import metrics
from attest.canonical import Model
from attest.job import Name
from attest.sample import SampleRecord

Key = tuple[int, str]
"""A sample of a suite: row and identifier."""


class Comparison(Model):
    """One scorer over one suite on two models, over the samples that both have a score of."""

    suite: Name
    """The suite."""
    scorer: Name
    """The scorer."""
    model: Name
    """The model whose scores count."""
    versus: Name
    """The model whose scores are taken off."""
    n: int
    """Samples with both scores."""
    difference: str
    """The mean of the differences, `model` minus `versus`; six places."""
    stderr: str
    """Its standard error (n - 1 in the variance; 0 for a single pair)."""
    ci_low: str
    """Lower end of the 95 % interval, the normal one, cut to [-1, 1]."""
    ci_high: str
    """Upper end of the 95 % interval."""


def scores(records: Iterable[SampleRecord], scorer: str) -> dict[Key, str]:
    """The scores of one scorer by sample."""
    return {(record.index, record.id): record.scores[scorer] for record in records if scorer in record.scores}


def exact(left: Mapping[Key, str], right: Mapping[Key, str]) -> Fraction | None:
    """The exact mean difference over the samples that are in both."""
    both = left.keys() & right.keys()
    total = sum((Fraction(left[key]) - Fraction(right[key]) for key in both), Fraction(0))
    return total / len(both) if both else None


def compare(
    suite: str, scorer: str, models: tuple[str, str], left: Mapping[Key, str], right: Mapping[Key, str]
) -> Comparison | None:
    """The difference of `models[0]`, whose scores are `left`, and `models[1]`; None when they share no sample."""
    both = left.keys() & right.keys()
    if not both:
        return None
    with localcontext(metrics.CONTEXT):
        differences = [Decimal(left[key]) - Decimal(right[key]) for key in both]
        n = Decimal(len(differences))
        mean = sum(differences, Decimal(0)) / n
        spread = sum(((difference - mean) ** 2 for difference in differences), Decimal(0))
        stderr = (spread / (n - 1) / n).sqrt() if n > 1 else Decimal(0)
        half = metrics.Z_95 * stderr
        return Comparison(
            suite=suite,
            scorer=scorer,
            model=models[0],
            versus=models[1],
            n=len(differences),
            difference=metrics.text(mean),
            stderr=metrics.text(stderr),
            ci_low=metrics.text(max(mean - half, Decimal(-1))),
            ci_high=metrics.text(min(mean + half, Decimal(1))),
        )
