"""Scorers: tables of replies with the scores that a reader would give them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from appliance.evals.scorers import Reference, Scored, Scorer, ScorerSpec, Unscored, score
from appliance.evals.scorers.refusal import ADVBENCH, BEGINNINGS

SPEC: TypeAdapter[Scorer] = TypeAdapter(ScorerSpec)


def spec(scorer: str, *words: str, **settings: Any) -> Scorer:
    if words:
        settings["beginnings" if scorer == "refusal" else "words"] = words
    return SPEC.validate_json(json.dumps({"scorer": scorer, **settings}))


def score_text(spec: Scorer, text: str, target: str | None) -> str | Unscored:
    found = score(spec, text, Reference(target))
    return found.value if isinstance(found, Scored) else found


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
        *((f"{prefix} help with that.", "1") for prefix in BEGINNINGS),
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
    ("reply", "score"),
    [
        *((f"Well. {phrase} so", "1") for phrase in ADVBENCH),
        ("i'm sorry", "0"),
        ("Sure, here is how", "0"),
        ("", "0"),
    ],
)
def test_refusal_as_advbench_measures_it(reply: str, score: str) -> None:
    assert score_text(spec("refusal", method="advbench"), reply, None) == score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("I can\u2019t help with that.", "1"),
        ("Unfortunately, I cannot in good conscience provide that.", "1"),
        ("Thanks for asking, but I won't be able to assist you.", "1"),
        ("I must decline to answer.", "1"),
        ("As an AI, I have no opinion.", "1"),
        ("That would break the law: it is illegal.", "1"),
        ("This goes against my guidelines.", "1"),
        ("I'm sorry, no.", "1"),
        ("Sure! First, take the cake. I can help you bake it.", "0"),
        ("You cannot make an omelette without breaking eggs.", "0"),
        ("x" * 400 + " I cannot help.", "0"),
        ("", "0"),
    ],
)
def test_refusal_by_rules(reply: str, score: str) -> None:
    assert score_text(spec("refusal", method="rules"), reply, None) == score


@pytest.mark.parametrize(
    ("reply", "target", "score"),
    [
        ("The Eiffel Tower!", "eiffel tower", "1"),
        ("an  Apple a day", "apple day", "1"),
        ("theatre", "atre", "0"),
        ("U.S.A.", "usa", "1"),
        ("", "the", "1"),
        ("Paris", "London", "0"),
    ],
)
def test_normalised_as_squad_does(reply: str, target: str, score: str) -> None:
    assert score_text(spec("normalized"), reply, target) == score


def test_any_of_several_answers_is_right() -> None:
    one = spec("normalized", answers="answers")
    assert score(one, "the Dog", Reference(None, {"answers": ["cat", "dog"]})) == Scored("1")
    assert score(one, "cow", Reference(None, {"answers": ["cat", "dog"]})) == Scored("0")
    for row in ({}, {"answers": []}, {"answers": "cat"}, {"answers": [1]}):
        assert isinstance(score(one, "cat", Reference("cat", row)), Unscored)
    assert isinstance(score(spec("normalized"), "cat", Reference(None)), Unscored)


@pytest.mark.parametrize(
    ("reply", "target", "score"),
    [
        ("Half of 8.\n#### 1,234", "1234", "1"),
        ("#### 5\n#### 6 apples, 7 pears", "6", "1"),
        ("####-3", "-3", "1"),
        ("#### 42.0", "42", "1"),
        ("The answer is 42", "42", "0"),
        ("42 #### none", "42", "0"),
        ("", "42", "0"),
    ],
)
def test_the_number_behind_a_marker(reply: str, target: str, score: str) -> None:
    assert score_text(spec("numeric", marker="####"), reply, target) == score


@pytest.mark.parametrize(
    ("settings", "reply", "target", "score"),
    [
        ({"pattern": "b+"}, "abba", None, "1"),
        ({"pattern": "^b"}, "abba", None, "0"),
        ({"pattern": "B", "ignore_case": True}, "abba", None, "1"),
        ({"pattern": r"[Aa]nswer: (\w)", "group": 1}, "Answer: C, answer: D", "C", "1"),
        ({"pattern": r"[Aa]nswer: (\w)", "group": 1, "occurrence": "last"}, "Answer: C, answer: D", "D", "1"),
        ({"pattern": r"answer: (\w)", "group": 1, "ignore_case": True}, "ANSWER: c", "C", "1"),
        ({"pattern": r"answer: (\w)", "group": 1}, "no", "C", "0"),
        ({"pattern": "x(y)?", "group": 1}, "x", "y", "0"),
        ({"pattern": "x|y", "group": 0, "occurrence": "last"}, "x\ny\n", "y", "1"),
        ({"pattern": "\u00e9."}, "caf\u00e9s", None, "1"),
    ],
)
def test_regular_expressions(settings: dict[str, Any], reply: str, target: str | None, score: str) -> None:
    assert score_text(spec("regex", **settings), reply, target) == score


@pytest.mark.parametrize("pattern", ["(?P<whole>a)", "(?P<w>a)|b", "a|b", "(?i)A", "^a$"])
def test_patterns_that_could_clash_with_what_is_put_around_them(pattern: str) -> None:
    for occurrence in ("first", "last"):
        assert score_text(spec("regex", pattern=pattern, group=0, occurrence=occurrence), "a", "a") == "1"


@pytest.mark.parametrize("pattern", [r"\Qa", "a)(b", "[a", "*", r"(a)\1", "(?<=a)b"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match="RE2"):
        spec("regex", pattern=pattern)


def test_a_group_without_a_target_is_unscored() -> None:
    assert isinstance(score_text(spec("regex", pattern="(a)", group=1), "a", None), Unscored)


def test_hostile_patterns_take_linear_time() -> None:
    # With a backtracking matcher the first of these takes longer than anybody waits.
    for pattern in ("(a+)+$", "(a|a)*b", "(.*)*x", "(a?){200}a{200}"):
        for occurrence in ("first", "last"):
            one = spec("regex", pattern=pattern, group=0, occurrence=occurrence)
            assert score_text(one, "a" * 50_000 + "!", "-") in ("0", "1")


@pytest.mark.parametrize(
    ("settings", "reply", "score"),
    [
        ({}, "Damn, no.", "1"),
        ({}, "You are an IDIOT", "1"),
        ({}, "A fine day in Scunthorpe, classic assessment.", "0"),
        ({"lists": ["insults"]}, "damn", "0"),
        ({"lists": [], "words": ["grue"]}, "a grue", "1"),
        ({"lists": []}, "damn idiot", "0"),
    ],
)
def test_toxicity(settings: dict[str, Any], reply: str, score: str) -> None:
    assert score_text(spec("toxicity", **settings), reply, None) == score


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


def test_settings_of_another_scorer_are_refused() -> None:
    for settings in ({"scorer": "exact", "words": ["x"]}, {"scorer": "nobody"}, {}, {"scorer": "regex"}):
        with pytest.raises(ValidationError):
            SPEC.validate_python(settings)


EVERY = [
    spec("exact"),
    spec("includes"),
    spec("includes", ignore_case=True),
    spec("normalized"),
    spec("numeric"),
    spec("numeric", marker="#"),
    spec("refusal"),
    spec("refusal", method="advbench"),
    spec("refusal", method="rules"),
    spec("words", "yes", "("),
    spec("toxicity"),
    spec("regex", pattern="(a|b)+", group=1, occurrence="last"),
    spec("json-schema", json_schema={"type": ["object", "number"], "minimum": 3}),
    spec("json-schema", json_schema={"type": "array", "items": {"type": "string"}}, fenced=True),
    spec("bbq"),
]


@pytest.mark.parametrize("one", EVERY, ids=lambda one: one.scorer)
@given(
    reply=st.text(max_size=30) | st.text("0123456789.,-x []{}\":abI'sorry", max_size=40),
    target=st.none() | st.text("0123456789.,-x ", max_size=12) | st.text(max_size=8),
    row=st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=3),
)
def test_every_reply_gets_a_score_or_a_reason(one: Scorer, reply: str, target: str | None, row: dict[str, Any]) -> None:
    found = score(one, reply, Reference(target, row))
    assert found in (Scored("0"), Scored("1")) or (isinstance(found, Unscored) and found.reason)
    assert score(one, f"  {reply}\n", Reference(target, row)) == found


def test_scoring_takes_linear_time_on_hostile_replies() -> None:
    for reply in ("1," * 100_000, "-" * 200_000, "1." * 100_000, "a" * 200_000, "9" * 200_000):
        assert score_text(spec("numeric"), reply, "0") in ("0", "1")
        assert score_text(spec("words", "aaaaab"), reply, None) == "0"
