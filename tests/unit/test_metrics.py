"""Metrics against published values and against an independent computation in fractions."""

from __future__ import annotations

import decimal
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.metrics import compare, estimate

SCORES = st.integers(0, 1000).map(lambda number: f"{number // 1000}.{number % 1000:03d}")
BITS = st.sampled_from(["0", "1"])


def near(found: str, expected: float) -> bool:
    """Within half of the sixth place, and a little for the float64 of the reference."""
    return abs(float(found) - expected) <= 0.5e-6 + 1e-9


@pytest.mark.parametrize(
    ("ones", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: Wilson's score interval.
        (81, 263, "0.2553", "0.3662"),
        (15, 148, "0.0624", "0.1605"),
        (0, 20, "0.0000", "0.1611"),
        (1, 29, "0.0061", "0.1718"),
    ],
)
def test_wilson_as_published(ones: int, n: int, low: str, high: str) -> None:
    found = estimate(["1"] * ones + ["0"] * (n - ones))
    assert found is not None
    assert (f"{float(found.ci_low):.4f}", f"{float(found.ci_high):.4f}") == (low, high)
    assert found.n == n


@settings(max_examples=50)
@given(st.lists(BITS, min_size=1, max_size=300))
def test_binary_scores_against_floats(scores: list[str]) -> None:
    found = estimate(scores)
    assert found is not None
    n, mean, z = len(scores), scores.count("1") / len(scores), 1.959963984540054
    centre, half = mean + z * z / (2 * n), z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    assert near(found.value, mean)
    assert near(found.ci_low, (centre - half) / (1 + z * z / n))
    assert near(found.ci_high, (centre + half) / (1 + z * z / n))
    assert near(found.stderr, math.sqrt(mean * (1 - mean) / (n - 1)) if n > 1 else 0)


@settings(max_examples=50)
@given(st.lists(SCORES, min_size=1, max_size=60))
def test_graded_scores_against_fractions(scores: list[str]) -> None:
    found = estimate(scores)
    assert found is not None
    values = [Fraction(score) for score in scores]
    mean = sum(values) / len(values)
    spread = sum((value - mean) ** 2 for value in values)
    error = math.sqrt(spread / (len(values) - 1) / len(values)) if len(values) > 1 else 0.0
    assert near(found.value, float(mean))
    assert near(found.stderr, error)
    if not {*values} <= {0, 1}:
        assert near(found.ci_low, max(0.0, float(mean) - 1.959963984540054 * error))
        assert near(found.ci_high, min(1.0, float(mean) + 1.959963984540054 * error))
    assert 0 <= Fraction(found.ci_low) <= Fraction(found.value) <= Fraction(found.ci_high) <= 1


@settings(max_examples=40)
@given(st.lists(SCORES, min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_neither_order_nor_spelling_nor_context_matters(scores: list[str], random: object) -> None:
    shuffled = [score.rstrip("0").rstrip(".") if set(score) > {"0"} and "." in score else score for score in scores]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_UP)):
        assert estimate(shuffled) == estimate(scores)
    assert estimate(shuffled) == estimate(scores)


def test_edges() -> None:
    assert estimate([]) is None
    one = estimate(["1"])
    assert one is not None
    assert one.model_dump() == {
        "n": 1,
        "value": "1.000000",
        "stderr": "0.000000",
        "ci_low": "0.206549",
        "ci_high": "1.000000",
        "bootstrap_low": "1.000000",
        "bootstrap_high": "1.000000",
    }
    half = estimate(["0.5"])
    assert half is not None
    assert (half.value, half.stderr, half.ci_low, half.ci_high) == ("0.500000", "0.000000", "0.500000", "0.500000")
    spelled = estimate(["1.000", "0.0", "1", "0"])
    assert spelled == estimate(["1", "0", "1", "0"])
    thirds = estimate(["1", "0", "0"])
    assert thirds is not None
    assert thirds.value == "0.333333"


def test_halves_in_the_last_place_round_to_even() -> None:
    for score, expected in (("0.0000005", "0.000000"), ("0.0000015", "0.000002"), ("0.0000025", "0.000002")):
        found = estimate([score])
        assert found is not None
        assert found.value == expected


@settings(max_examples=20)
@given(st.integers(1, 400))
def test_all_or_nothing_stays_inside_the_unit_interval(n: int) -> None:
    none, all_ = estimate(["0"] * n), estimate(["1"] * n)
    assert none is not None
    assert all_ is not None
    assert (none.ci_low, all_.ci_high) == ("0.000000", "1.000000")
    assert Fraction(none.ci_high) == 1 - Fraction(all_.ci_low)
    assert 0 < Fraction(none.ci_high) < 1


@pytest.mark.parametrize(
    ("value", "threshold", "order"),
    [
        ("0.300000", "0.3", 0),
        ("0.3", "0.300000000001", -1),
        ("1", "0.999999999999", 1),
        ("0.000000", "-0", 0),
        ("0.000000", "-0.000000000001", 1),
        ("10", "9", 1),
        ("0.1", "0.10000000000000000000000000000000000000000000000000000000000001", -1),
    ],
)
def test_comparisons_are_of_numbers_and_exact(value: str, threshold: str, order: int) -> None:
    truth = {"<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0, "==": order == 0}
    assert {sign: compare(value, sign, threshold) for sign in truth} == truth


@given(st.integers(-(10**18), 10**18), st.integers(-(10**18), 10**18), st.integers(0, 12), st.integers(0, 12))
def test_comparisons_against_fractions(left: int, right: int, left_places: int, right_places: int) -> None:
    def text(number: int, places: int) -> str:
        digits = f"{abs(number):0{places + 1}d}"
        return ("-" if number < 0 else "") + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)

    a, b = Fraction(left, 10**left_places), Fraction(right, 10**right_places)
    truth = {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b}
    with decimal.localcontext(decimal.Context(prec=4)):
        found = {sign: compare(text(left, left_places), sign, text(right, right_places)) for sign in truth}
    assert found == truth


def test_an_unknown_comparator_is_the_callers_mistake() -> None:
    with pytest.raises(KeyError):
        compare("1", "!=", "2")
