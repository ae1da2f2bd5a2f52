"""Bootstrap percentile intervals of a mean, with the same digits on every machine.

Efron's percentile interval is the middle 95 % of the means of samples drawn with replacement from the sample itself.
Where all scores are 0 or 1 those means follow a binomial distribution exactly, and nothing is drawn. Otherwise they are
drawn: `DRAWS` samples with Python's Mersenne Twister (whose `random()` is guaranteed to stay what it is) from one fixed
seed, the scores sorted, so that neither order nor machine matter. Of more than `MOST` scores, samples of `MOST` are
drawn and their deviations scaled by the root of the ratio (the m-out-of-n bootstrap, Bickel, Götze and van Zwet 1997):
what a verifier has to spend is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from random import Random

DRAWS = 1000
MOST = 1000
SEED = 0
TAIL = Decimal("0.025")
NEGLIGIBLE = Decimal("1e-40")


def interval(values: Sequence[Decimal]) -> tuple[Decimal, Decimal]:
    """The ends of the 95 % interval of the mean of `values`, in the decimal context of the caller."""
    ones = values.count(Decimal(1))
    if ones + values.count(Decimal(0)) == len(values):
        return binomial(ones, len(values))
    return _drawn(values)


def binomial(ones: int, n: int) -> tuple[Decimal, Decimal]:
    """The exact interval of the mean of `n` scores of which `ones` are 1 and the others 0."""
    if ones in (0, n):
        return Decimal(ones) / n, Decimal(ones) / n
    # Terms of the distribution relative to its mode, which is within one of `ones`, as far as they count.
    below: list[Decimal] = []
    term, count = Decimal(1), ones
    while count > 0 and term > NEGLIGIBLE:
        term = term * (count * (n - ones)) / ((n - count + 1) * ones)
        count -= 1
        below.append(term)
    above: list[Decimal] = []
    term, count = Decimal(1), ones
    while count < n and term > NEGLIGIBLE:
        term = term * ((n - count) * ones) / ((count + 1) * (n - ones))
        count += 1
        above.append(term)
    terms = [*reversed(below), Decimal(1), *above]
    lowest, total = ones - len(below), sum(terms, Decimal(0))
    ends = []
    for share in (TAIL * total, (1 - TAIL) * total):
        reached, place = terms[0], 0
        while reached < share:
            place += 1
            reached += terms[place]
        ends.append(Decimal(lowest + place) / n)
    return ends[0], ends[1]


def _drawn(values: Sequence[Decimal]) -> tuple[Decimal, Decimal]:
    ordered, n, size = sorted(values), len(values), min(len(values), MOST)
    draw = Random(SEED).random  # noqa: S311 - not for secrets
    # Whole numbers add up fast and exactly. Scores have twelve places at most; of a share such as 1/3 that many count.
    whole = [int(value.scaleb(12)) for value in ordered]
    sums = sorted(sum([whole[int(draw() * n)] for _ in range(size)]) for _ in range(DRAWS))
    mean = sum(ordered, Decimal(0)) / n
    scale = (Decimal(size) / n).sqrt()
    low, high = (sums[int(share * DRAWS) - 1] for share in (TAIL, 1 - TAIL))
    return tuple(mean + (Decimal(end).scaleb(-12) / size - mean) * scale for end in (low, high))  # type: ignore[return-value]
