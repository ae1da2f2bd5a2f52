"""Tables beside the scores: categories, other metrics, paired differences, and claims about each."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import canonical
from attest.aggregate import PassAtK
from attest.errors import MalformedInput
from attest.job import Claim
from attest.results import PlannedSuite, Results, tabulate
from tests.unit.test_results import FAILED, claim, make_job, record

PLAN = [
    PlannedSuite(
        model=model,
        suite="arc",
        samples=4,
        scorers=("exact", "refusal"),
        aggregates=(PassAtK(name="exact.pass-at-1", scorer="exact", k=1),),
    )
    for model in ("m", "n")
]


def run(model: str, *scores: str | None, **more: Any) -> list[Any]:
    return [record(index, score, model, **more) for index, score in enumerate(scores)]


def test_categories_in_alphabetical_order_and_without_a_bootstrap() -> None:
    records = [record(0, category="b"), record(1, "0", category="a"), record(2, category="b", **FAILED), record(3)]
    (first, second) = tabulate(make_job(), PLAN, records).suites
    assert [(part.category, part.run, part.failed) for part in first.categories] == [("a", 1, 0), ("b", 1, 1)]
    estimates = [part.scores[0].estimate for part in first.categories]
    assert [one and (one.n, one.value, one.bootstrap_low) for one in estimates] == [
        (1, "0.000000", None),
        (1, "1.000000", None),
    ]
    assert first.scores[0].estimate is not None
    assert first.scores[0].estimate.bootstrap_low is not None
    assert second.categories == ()


def test_other_metrics_are_reported() -> None:
    (first, second) = tabulate(make_job(), PLAN, run("m", "1", "0", "1", "1")).suites
    assert [(found.metric, found.estimate and found.estimate.value) for found in first.aggregates] == [
        ("exact.pass-at-1", "0.750000")
    ]
    assert [found.estimate for found in second.aggregates] == [None]


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.sampled_from(["0", "0.25", "1"])] * 2), min_size=1, max_size=8))
def test_paired_differences(pairs: list[tuple[str, str]]) -> None:
    records = run("m", *(pair[0] for pair in pairs)) + run("n", *(pair[1] for pair in pairs))
    found = tabulate(make_job(), PLAN, records).comparisons
    assert [(one.scorer, one.model, one.versus, one.n) for one in found] == [
        ("exact", "n", "m", len(pairs)),
        ("refusal", "n", "m", len(pairs)),
    ]
    differences = [float(right) - float(left) for left, right in pairs]
    mean, n = sum(differences) / len(differences), len(differences)
    error = math.sqrt(sum((one - mean) ** 2 for one in differences) / (n - 1) / n) if n > 1 else 0
    assert float(found[0].difference) == pytest.approx(mean, abs=1e-6)
    assert float(found[0].stderr) == pytest.approx(error, abs=1e-6)
    assert float(found[0].ci_high) == pytest.approx(min(1, mean + 1.959964 * error), abs=2e-6)
    assert float(found[0].ci_low) == pytest.approx(max(-1, mean - 1.959964 * error), abs=2e-6)


def test_only_samples_that_both_models_have_are_paired() -> None:
    records = [*run("m", "1", None, "0", "1"), record(0, "0", "n"), record(1, "1", "n"), record(2, model="n", **FAILED)]
    (exact, refusal) = tabulate(make_job(), PLAN, records).comparisons
    assert (exact.n, exact.difference, refusal.n) == (1, "-1.000000", 2)
    assert tabulate(make_job(), PLAN, run("m", "1")).comparisons == ()


def decide(*records: Any, **about: str) -> tuple[str | None, bool]:
    (found,) = tabulate(make_job(claim(**about)), PLAN, records).claims
    return found.value, found.holds


def test_claims_about_each_table() -> None:
    left = [record(i, score, category=part) for i, (score, part) in enumerate(zip("1101", "abab", strict=True))]
    right = run("n", "1", "0", "0", "0")
    assert decide(*left, metric="exact.pass-at-1", threshold="0.75") == ("0.750000", True)
    assert decide(*left, category="b", threshold="1") == ("1.000000", True)
    assert decide(*left, category="a", threshold="0.51") == ("0.500000", False)
    assert decide(*left, *right, versus="n", threshold="0.5") == ("0.500000", True)
    assert decide(*left, *right, versus="n", threshold="0.500001") == ("0.500000", False)
    assert decide(*left, *right, model="n", versus="m", comparator="<", threshold="-0.49") == ("-0.500000", True)


def test_claims_do_not_hold_where_anything_is_missing() -> None:
    left, right = run("m", "1", "1", "1", "1"), run("n", "0", "0", "0", "0")
    assert decide(*left, *right, versus="n", threshold="0") == ("1.000000", True)
    assert decide(*left, *right[:3], versus="n", threshold="0") == ("1.000000", False)
    assert decide(*left, *right[:3], record(9, "0", "n"), versus="n", threshold="0") == ("1.000000", False)
    assert decide(*left[:3], record(3, **FAILED), *right, versus="n", threshold="0") == ("1.000000", False)
    assert decide(*left[:3], metric="exact.pass-at-1", threshold="0") == ("1.000000", False)
    assert decide(*left, category="z", threshold="0") == (None, False)
    assert decide(*left, metric="nothing", threshold="0") == (None, False)
    assert decide(*left, *right, versus="n", metric="exact.pass-at-1", threshold="0") == (None, False)
    assert decide(*left, versus="n", threshold="-1") == (None, False)


@pytest.mark.parametrize("more", [{"versus": "m"}, {"versus": "n", "category": "a"}, {"category": ""}])
def test_claims_that_contradict_themselves_are_refused(more: dict[str, str]) -> None:
    with pytest.raises(MalformedInput):
        canonical.validate(Claim, claim(**more), "claim")
    with pytest.raises(MalformedInput, match="not listed under models"):
        make_job(claim(versus="o"))


def test_results_stay_small_and_are_read_again() -> None:
    records = [
        record(index, str(index % 2), model, category=f"part-{index % 10}")
        for model in ("m", "n")
        for index in range(400)
    ]
    written = canonical.dump_model(tabulate(make_job(claim()), PLAN, records))
    assert canonical.parse(Results, written, "results").suites[0].run == 400
    assert len(written) < 16_000
