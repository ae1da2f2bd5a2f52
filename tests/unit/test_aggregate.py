"""Metrics that are no mean: pass@k against its definition, ratios, and what plans may name."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import canonical
from attest.aggregate import AttackSuccess, BiasScore, PassAtK, Ratio
from attest.digest import digest_of
from attest.errors import MalformedInput
from attest.results import PlannedSuite
from attest.sample import Attack, SampleRecord

GENERATION = {"tokens": [1], "text": "x", "stop": "eos", "logprobs": ["-0.100000"], "logits_digest": digest_of(b"")}


def record(index: int, score: str | None, number: int = 0, **facts: str) -> SampleRecord:
    value: dict[str, Any] = {"model": "m", "suite": "s", "index": index, "id": f"{index}#{number + 1}", "messages": []}
    value |= {"epoch": number + 1}
    value |= {"generation": GENERATION, "scores": {} if score is None else {"a": score}}
    value |= {"unscored": {"a": "why"} if score is None else {}, "facts": {"a": facts} if facts else {}}
    return canonical.validate(SampleRecord, value, "sample")


def rows(*outcomes: str) -> list[SampleRecord]:
    """Rows of samples: `110` is three of one row, two of them right; `-` has no score."""
    return [
        record(index, None if mark == "-" else mark, number)
        for index, outcome in enumerate(outcomes)
        for number, mark in enumerate(outcome)
    ]


def pass_at(k: int) -> PassAtK:
    return PassAtK(name="a.pass", scorer="a", k=k)


@settings(max_examples=60)
@given(st.lists(st.sampled_from("01"), min_size=1, max_size=9), st.integers(1, 9))
def test_pass_at_k_is_the_chance_that_a_subset_holds_a_right_one(marks: list[str], k: int) -> None:
    found = pass_at(k).exact(rows("".join(marks)))
    subsets = list(combinations(marks, k))
    assert found == (Fraction(sum("1" in subset for subset in subsets), len(subsets)) if subsets else None)


def test_pass_at_k_of_chens_example() -> None:
    # 200 samples, 30 right: the numerically stable product of the paper's figure 3.
    product = 1.0
    for number in range(200 - 30 + 1, 200 + 1):
        product *= 1.0 - 10 / number
    found = pass_at(10).estimate(rows("1" * 30 + "0" * 170))
    assert found is not None
    assert float(found.value) == pytest.approx(1 - product, abs=1e-6)


def test_pass_at_k_is_averaged_over_rows_with_enough_samples() -> None:
    records = rows("10", "00", "1", "1-", "11")
    found = pass_at(2).estimate(records)
    assert found is not None
    assert (found.n, found.value) == (3, "0.666667")
    assert pass_at(1).exact(records) == Fraction(1, 5) * (Fraction(1, 2) + 0 + 1 + 1 + 1)
    assert pass_at(3).estimate(records) is None
    assert pass_at(2).estimate(list(reversed(records))) == found


def test_a_share_below_one_is_not_right() -> None:
    assert pass_at(1).exact([record(0, "0.999"), record(1, "1.0")]) == Fraction(1, 2)


RATIO = Ratio(name="a.micro", scorer="a", of="good", over="all")


def test_a_ratio_weighs_by_size() -> None:
    records = [record(0, "1", good="1", all="1"), record(1, "0.25", good="1", all="4"), record(2, None)]
    found = RATIO.estimate(records)
    assert found is not None
    assert (found.n, found.value, RATIO.exact(records)) == (2, "0.400000", Fraction(2, 5))
    # Cochran 1977, 2.11: sqrt(((1 - .4)^2 + (1 - 1.6)^2) / 1 / 2) / 2.5
    assert found.stderr == "0.240000"
    assert (found.ci_low, found.ci_high, found.bootstrap_low) == ("0.000000", "0.870391", None)
    assert (RATIO.estimate([]), RATIO.exact([record(0, "1")])) == (None, None)
    assert RATIO.exact([record(0, "1", good="x", all="y")]) is None


def test_samples_whose_facts_are_no_numbers_or_more_than_all_do_not_count() -> None:
    whole = record(0, "0.5", good="1", all="2")
    for good, all_ in (("x", "4"), ("1", "y"), ("1.0", "4"), ("1", "4.0"), ("5", "4")):
        assert RATIO.exact([whole, record(1, "1", good=good, all=all_)]) == Fraction(1, 2)
    assert RATIO.exact([whole, record(1, "1", good="4", all="4")]) == Fraction(5, 6)


def test_a_ratio_of_one_sample_has_no_spread() -> None:
    found = RATIO.estimate([record(0, "0.5", good="1", all="2")])
    assert found is not None
    assert (found.n, found.value, found.stderr) == (1, "0.500000", "0.000000")
    assert (found.ci_low, found.ci_high) == ("0.500000", "0.500000")


def test_samples_without_an_attack_are_no_attacks() -> None:
    success = AttackSuccess(scorer="a")
    attacked = record(0, "1").model_copy(update={"attack": Attack(strategy="direct", queries=1, first_success=1)})
    assert success.exact([attacked, record(1, "0")]) == 1
    assert (success.exact([record(1, "0")]), success.estimate([record(1, "0")])) == (None, None)


def test_bias_scores_read_facts_of_their_scorer_alone() -> None:
    ambiguous = BiasScore(name="b", scorer="a", context="ambig")
    records = [record(0, "0", context="ambig", answer="biased"), record(1, "1", context="ambig", answer="unknown")]
    records += [record(2, "0", context="ambig", answer="counter"), record(3, "0", context="disambig", answer="biased")]
    records += [record(4, "0", context="ambig", answer="other"), record(5, "1")]
    found = ambiguous.estimate(records)
    assert found is not None
    assert (found.n, found.value, ambiguous.exact(records)) == (3, "0.000000", 0)
    clear = BiasScore(name="b", scorer="a", context="disambig")
    one = clear.estimate(records)
    assert one is not None
    assert (one.n, one.value, one.ci_high, one.ci_low) == (1, "1.000000", "1.000000", "-0.586901")
    assert BiasScore(name="b", scorer="z", context="ambig").estimate(records) is None
    assert BiasScore(name="b", scorer="z", context="ambig").exact(records) is None
    # Of contexts that say who it was, an answer that says nothing does not count.
    unknown = record(6, "0", context="disambig", answer="unknown")
    assert (clear.exact([*records, unknown]), clear.exact([unknown])) == (1, None)


@pytest.mark.parametrize(
    "aggregates",
    [
        [{"kind": "pass-at-k", "name": "a", "scorer": "a", "k": 1}],
        [{"kind": "pass-at-k", "name": "p", "scorer": "b", "k": 1}],
        [{"kind": "pass-at-k", "name": "p", "scorer": "a", "k": 0}],
        [{"kind": "median", "name": "p", "scorer": "a"}],
        [{"kind": "pass-at-k", "name": "p", "scorer": "a", "k": 1}] * 2,
    ],
)
def test_plans_name_metrics_once_and_of_their_scorers(aggregates: list[dict[str, Any]]) -> None:
    plan = {"model": "m", "suite": "s", "samples": 1, "scorers": ["a"]}
    assert canonical.validate(PlannedSuite, plan, "plan").aggregates == ()
    with pytest.raises(MalformedInput):
        canonical.validate(PlannedSuite, {**plan, "aggregates": aggregates}, "plan")
