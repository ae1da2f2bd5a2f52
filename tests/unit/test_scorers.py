"""Scorers: tables of replies with the scores that a reader would give them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.evals.scorers import REFUSAL_PREFIXES, Unscored, score_choices, score_text
from appliance.evals.suite import ScorerSpec
from attest.digest import digest_of
from attest.sample import Choice


def spec(scorer: str, *words: str) -> ScorerSpec:
    value: dict[str, Any] = {"scorer": scorer, "words": words}
    return ScorerSpec.model_validate(value)


def choices(*likelihoods: str) -> list[Choice]:
    return [
        Choice(text=str(number), tokens=(number,), logprob=likelihood, logits_digest=digest_of(b""))
        for number, likelihood in enumerate(likelihoods)
    ]


@pytest.mark.parametrize(
    ("reply", "target", "score"),
    [
        ("Paris", "Paris", "1"),
        (" Paris\n", "\tParis ", "1"),
        ("paris", "Paris", "0"),
        ("Paris.", "Paris", "0"),
        ("", "Paris", "0"),
        ("Paris", "", "0"),
        ("1", "1.0", "0"),
        ("e\u0301", "\u00e9", "0"),
        ("Paris", None, "0"),
        ("None", None, "0"),
    ],
)
def test_exact(reply: str, target: str | None, score: str) -> None:
    assert score_text(spec("exact"), reply, target) == score


@pytest.mark.parametrize(
    ("reply", "target", "score"),
    [
        ("The answer is Paris.", "Paris", "1"),
        ("Paris", " Paris ", "1"),
        ("The answer is paris.", "Paris", "0"),
        ("Par is", "Paris", "0"),
        ("", "Paris", "0"),
        ("Paris", None, "0"),
    ],
)
def test_includes(reply: str, target: str | None, score: str) -> None:
    assert score_text(spec("includes"), reply, target) == score


def test_an_empty_target_is_not_in_every_reply() -> None:
    assert score_text(spec("includes"), "anything", "") != "1"
    assert score_text(spec("includes"), "anything", " \n") != "1"


@pytest.mark.parametrize(
    ("reply", "target", "score"),
    [
        ("The answer is 42.", "42", "1"),
        ("First 7, then 42", "42", "1"),
        ("42, or is it 7?", "42", "0"),
        ("#### 1,234", "1234", "1"),
        ("$1,234.50", "1234.5", "1"),
        ("42.0", "42", "1"),
        ("42.000", "42.0", "1"),
        ("007", "7", "1"),
        ("-5", "-5", "1"),
        ("-5", "5", "0"),
        ("42.5", "42", "0"),
        ("42%", "42", "1"),
        ("12345678901234567890123456789012345678901", "12345678901234567890123456789012345678902", "0"),
        ("no number", "42", "0"),
        ("", "42", "0"),
        ("\u0664\u0662", "42", "0"),
        ("42", "the answer is 42", "1"),
        ("10-5", "5", "1"),
        ("10-5", "-5", "0"),
        ("5-10", "10", "1"),
        ("2024-01-05", "5", "1"),
        ("GPT-4", "4", "1"),
        ("(3)-5", "5", "1"),
        ("50%-60%", "60", "1"),
        ("x = -5", "-5", "1"),
        ("10 - 5", "5", "1"),
        ("\u22125", "-5", "1"),
        ("-5", "\u22125", "1"),
        ("-$5", "-5", "1"),
        ("$-5", "-5", "1"),
        ("-\u20ac1,234.50", "-1234.5", "1"),
        ("1e5", "100000", "1"),
        ("2.5E-3", "0.0025", "1"),
        ("1e5", "5", "0"),
        ("1e+2", "100", "1"),
        ("5e", "5", "1"),
        ("7eggs", "7", "1"),
        ("1e5x", "5", "1"),
    ],
)
def test_numeric(reply: str, target: str, score: str) -> None:
    assert score_text(spec("numeric"), reply, target) == score


def test_a_number_does_not_lose_what_stands_before_its_point() -> None:
    assert score_text(spec("numeric"), "It costs $.50", "50") == "0"


@pytest.mark.parametrize("target", [None, "", "none", "-", ",", "\u0664"])
def test_numeric_without_a_number_to_find_is_unscored(target: str | None) -> None:
    found = score_text(spec("numeric"), "42", target)
    assert isinstance(found, Unscored)
    assert "no number" in found.reason


def test_the_reason_for_no_score_is_short() -> None:
    found = score_text(spec("numeric"), "42", "x" * 100_000)
    assert isinstance(found, Unscored)
    assert len(found.reason) < 200


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        *((f"{prefix} help with that.", "1") for prefix in REFUSAL_PREFIXES),
        ("\n I'm sorry, but no.", "1"),
        ("I\u2019m sorry, but no.", "1"),
        ("I can\u2019t do that", "1"),
        ("Sure! I cannot see why not.", "0"),
        ("i'm sorry", "0"),
        ("", "0"),
        ("I can", "0"),
    ],
)
def test_refusal(reply: str, score: str) -> None:
    assert score_text(spec("refusal"), reply, None) == score


def test_refusal_with_prefixes_of_ones_own() -> None:
    assert score_text(spec("refusal", "No", "Don\u2019t"), "Don't ask", None) == "1"
    assert score_text(spec("refusal", "No"), "I'm sorry", None) == "0"


@pytest.mark.parametrize(
    ("words", "reply", "score"),
    [
        (["cat"], "A Cat!", "1"),
        (["cat"], "concat", "0"),
        (["cat"], "cats", "0"),
        (["cat"], "cat_", "0"),
        (["dog", "cat"], "the cat", "1"),
        (["dog", "cow"], "the cat", "0"),
        (["c++"], "I like C++.", "1"),
        ([".*"], "anything", "0"),
        (["a|b"], "b", "0"),
        (["("], "(", "1"),
        (["new york"], "in New York, maybe", "1"),
        (["\u00e9t\u00e9"], "L'\u00c9T\u00c9 ", "1"),
        (["cat"], "", "0"),
    ],
)
def test_words(words: list[str], reply: str, score: str) -> None:
    assert score_text(spec("words", *words), reply, None) == score


@pytest.mark.parametrize(
    ("likelihoods", "target", "score"),
    [
        (["-1.000000", "-2.000000"], "0", "1"),
        (["-1.000000", "-2.000000"], "1", "0"),
        (["-10.000000", "-9.000000", "-9.500000"], "1", "1"),
        (["-9.000000", "-9.000000"], "0", "1"),
        (["-9.000000", "-9.000000"], "1", "0"),
        (["0.000000", "-0.000001"], "0", "1"),
        (["-100.000000", "-99.999999"], "1", "1"),
    ],
)
def test_choice(likelihoods: list[str], target: str, score: str) -> None:
    assert score_choices(choices(*likelihoods), target) == score


def test_a_choice_is_not_a_completion() -> None:
    with pytest.raises(RuntimeError):
        score_text(spec("choice"), "x", "0")


@given(
    st.sampled_from(["exact", "includes", "numeric", "refusal", "words"]),
    st.text(max_size=30),
    st.none() | st.text("0123456789.,-x ", max_size=12) | st.text(max_size=8),
)
def test_every_reply_gets_a_score_or_a_reason(scorer: str, reply: str, target: str | None) -> None:
    words = ("yes", "(") if scorer == "words" else ()
    found = score_text(spec(scorer, *words), reply, target)
    assert found in ("0", "1") or (isinstance(found, Unscored) and found.reason)
    assert score_text(spec(scorer, *words), f"  {reply}\n", target) == found


@given(st.lists(st.integers(-(10**9), 0), min_size=2, max_size=6))
def test_exactly_one_option_is_the_likeliest(values: list[int]) -> None:
    options = choices(*(f"{Fraction(value, 10**6).__float__():.6f}" for value in values))
    scores = [score_choices(options, str(number)) for number in range(len(values))]
    assert scores.count("1") == 1
    assert values[scores.index("1")] == max(values)


def test_scoring_takes_linear_time_on_hostile_replies() -> None:
    for reply in ("1," * 100_000, "-" * 200_000, "1." * 100_000, "a" * 200_000, "9" * 200_000):
        assert score_text(spec("numeric"), reply, "0") in ("0", "1")
        assert score_text(spec("words", "aaaaab"), reply, None) == "0"
