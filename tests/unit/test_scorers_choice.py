"""The scorer of options by their likelihood: tables of likelihoods with the option that a reader would take."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.evals.scorers import Reference, Scored, Unscored, score
from attest.digest import digest_of
from attest.sample import Choice
from tests.unit.test_scorers import score_text, spec


def score_choices(options: list[Choice], target: str, **settings: Any) -> str | Unscored:
    found = score(spec("choice", **settings), options, Reference(target))
    return found.value if isinstance(found, Scored) else found


def choices(*likelihoods: str) -> list[Choice]:
    return [
        Choice(text=str(number), tokens=(number,), logprob=likelihood, logits_digest=digest_of(b""))
        for number, likelihood in enumerate(likelihoods)
    ]


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


@pytest.mark.parametrize(
    ("per", "right"),
    [("option", 0), ("character", 1), ("byte", 2)],
)
def test_a_log_likelihood_per_option_character_or_byte(per: str, right: int) -> None:
    options = [
        Choice(text=text, tokens=(1,), logprob=logprob, logits_digest=digest_of(b""))
        for text, logprob in (("a", "-1.000000"), ("abcd", "-1.200000"), ("\u20ac\u20ac", "-1.100000"))
    ]
    scores = [score_choices(options, str(number), per=per) for number in range(3)]
    assert scores == ["1" if number == right else "0" for number in range(3)]


@pytest.mark.parametrize("target", [None, "", "2", "-1", "a", "00"])
def test_a_target_that_names_no_option_is_unscored(target: str | None) -> None:
    assert isinstance(score(spec("choice"), choices("-1.000000", "-2.000000"), Reference(target)), Unscored)


def test_a_choice_is_not_a_completion() -> None:
    with pytest.raises(RuntimeError):
        score_text(spec("choice"), "x", "0")
    with pytest.raises(RuntimeError):
        score(spec("exact"), choices("-1.000000"), Reference("0"))


@given(st.lists(st.integers(-(10**9), 0), min_size=2, max_size=6))
def test_exactly_one_option_is_the_likeliest(values: list[int]) -> None:
    options = choices(*(f"{Fraction(value, 10**6).__float__():.6f}" for value in values))
    scores = [score_choices(options, str(number)) for number in range(len(values))]
    assert scores.count("1") == 1
    assert values[scores.index("1")] == max(values)


def test_what_stands_before_an_option_is_not_counted_as_lm_eval_does_not() -> None:
    options = [
        Choice(text=text, tokens=(1,), logprob=logprob, logits_digest=digest_of(b""))
        for text, logprob in ((" a", "-1.000000"), (" abc", "-2.500000"))
    ]
    assert [score_choices(options, "1", per="character")] == ["1"]  # 1 / 1 against 2.5 / 3
    assert [score_choices(options, "1", per="character", delimiter="")] == ["0"]  # 1 / 2 against 2.5 / 4
