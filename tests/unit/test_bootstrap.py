"""Bootstrap intervals: the exact binomial against summed fractions, the drawn one against theory, and what it costs."""

from __future__ import annotations

import time
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import product
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import bootstrap
from attest.metrics import estimate

PRECISE = Context(prec=50)


def exact(ones: int, n: int) -> tuple[Fraction, Fraction]:
    """The ends by the definition: the smallest count whose cumulated chance reaches each tail."""
    p, reached, ends = Fraction(ones, n), Fraction(0), []
    for count in range(n + 1):
        reached += comb(n, count) * p**count * (1 - p) ** (n - count)
        while len(ends) < 2 and reached >= (Fraction(25, 1000), Fraction(975, 1000))[len(ends)]:
            ends.append(Fraction(count, n))
    return ends[0], ends[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_scores_of_0_and_1_have_the_binomial_interval(case: tuple[int, int]) -> None:
    with localcontext(PRECISE):
        low, high = bootstrap.binomial(*case)
        assert (low, high) == tuple(Decimal(end.numerator) / end.denominator for end in exact(*case))


def test_it_is_the_percentile_interval_of_all_samples() -> None:
    # Every sample of five that can be drawn from five scores, not a choice of them.
    values = [1, 1, 0, 0, 0]
    means = sorted(Fraction(sum(drawn), 5) for drawn in product(values, repeat=5))
    low, high = (means[-(-len(means) * share // 1000) - 1] for share in (25, 975))
    with localcontext(PRECISE):
        assert bootstrap.interval([Decimal(value) for value in values]) == (
            Decimal(low.numerator) / low.denominator,
            Decimal(high.numerator) / high.denominator,
        )


@pytest.mark.parametrize("n", [2, 10, 400, 4000])
def test_drawn_intervals_are_as_wide_as_the_error_says(n: int) -> None:
    scores = [f"0.{number * 7919 % 1000:03d}" for number in range(n)]
    found = estimate(scores)
    assert found is not None
    assert found.bootstrap_low is not None
    assert found.bootstrap_high is not None
    low, value, high = float(found.bootstrap_low), float(found.value), float(found.bootstrap_high)
    assert low <= value <= high
    if n >= 400:
        # The normal interval is the limit; a thousand draws leave some ten per cent.
        assert low == pytest.approx(float(found.ci_low), abs=0.2 * (value - float(found.ci_low)))
        assert high == pytest.approx(float(found.ci_high), abs=0.2 * (float(found.ci_high) - value))


def test_the_draws_are_the_same_everywhere() -> None:
    # Digits recorded once: another machine, version of Python or order of scores gives them again.
    scores = [f"0.{number:02d}" for number in range(100)]
    for given_ in (scores, scores[::-1], [score + "0000" for score in scores]):
        found = estimate(given_)
        assert found is not None
        assert (found.bootstrap_low, found.bootstrap_high) == RECORDED


RECORDED = ("0.439500", "0.547600")


@pytest.mark.parametrize("kind", ["bits", "grades"])
def test_ten_thousand_samples_cost_little(kind: str) -> None:
    scores = [str(number % 2) if kind == "bits" else f"0.{number:05d}" for number in range(10_000)]
    before = time.process_time()
    assert estimate(scores) is not None
    assert time.process_time() - before < 2  # 0.15 s on a quiet machine, most of it the draws
