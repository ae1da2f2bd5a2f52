"""IFEval's checks, one by one: replies on both sides of each, and texts that make a careless expression hang."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.evals.scorers import Reference, Scored, Unscored, score
from appliance.evals.scorers.ifeval.arguments import Arguments, UnfitError
from appliance.evals.scorers.ifeval.capitals import count_capitals
from appliance.evals.scorers.ifeval.instructions import CHECKS, follows
from appliance.evals.scorers.ifeval.scorer import IfEval, verdicts, versions
from appliance.evals.scorers.ifeval.sentences import count_sentences

ENGLISH = "the quick brown fox jumps over the lazy dog and then goes home to sleep"
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und geht dann nach Hause."

FOLLOWED: list[tuple[str, dict[str, Any], str, str]] = [
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2}, "A BIG", "A"),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    ("change_case:english_lowercase", {}, ENGLISH, ENGLISH.title()),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, " say HI. Hi!", "Hi! Say hi."),
    ("combination:two_responses", {}, "one******two", "one******one"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b] [c", "[a] [b"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\nP. P. S one", "P.S. one"),
    ("detectable_format:constrained_response", {}, "Well. My answer is no.", "No."),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2}, "Part 1 Part2", "Part 1"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n  - b\n** c", "* a"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and * *"),
    ("detectable_format:title", {}, "<<Title>>\ntext", "<<>>\n<<Title\n>>"),
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "Dogs and CATS", "dogs"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "cats", "A Cat."),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "at least"}, "cat concat", "cat"),
    ("keywords:letter_frequency", {"letter": "a", "let_frequency": 2, "let_relation": "less than"}, "ab", "aA"),
    ("language:response_language", {"language": "de"}, GERMAN, ENGLISH),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "so"}, "a\n\n'So, b", "so\n\nb"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\na\n***\nb", "a\n***\n***\nb"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "Dr. X. He.", "Dr. X."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "three words, well"),
    ("punctuation:no_comma", {}, "a b", "a, b"),
    ("startend:end_checker", {"end_phrase": "The end."}, '"... the END."', "The end. Bye"),
    ("startend:quotation", {}, ' "a" ', '"'),
]  # fmt: skip


@pytest.mark.parametrize(("instruction", "arguments", "yes", "no"), FOLLOWED, ids=[row[0] for row in FOLLOWED])
def test_each_instruction(instruction: str, arguments: dict[str, Any], yes: str, no: str) -> None:
    assert follows(instruction, yes, Arguments(arguments)) is True
    assert follows(instruction, no, Arguments(arguments)) is False


def test_every_instruction_is_in_the_table() -> None:
    assert {row[0] for row in FOLLOWED} == set(CHECKS)


@pytest.mark.parametrize(("instruction", "arguments"), [row[:2] for row in FOLLOWED if row[1]])
def test_arguments_that_are_missing_or_of_another_form(instruction: str, arguments: dict[str, Any]) -> None:
    reply = "***\nSo it is. ***\n\nSo. ABC"
    for name in arguments:
        for value in (None, -1, 1.5, True, "", [], [1], {}):
            with pytest.raises(UnfitError):
                for text in (reply, "So a\n\nso b"):
                    follows(instruction, text, Arguments(arguments | {name: value}))
                if instruction == "length_constraints:nth_paragraph_first_word":
                    raise UnfitError("an argument that is not looked at where the paragraphs differ")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("  \n ", 0),
        ("One", 1),
        ("One. Two.", 2),
        ("One! Two? Three", 3),
        ("Wait... what? No.", 2),
        ("It was 3.14 or so. Yes.", 2),
        ("Dr. Jones met Mrs. Smith in the U.S. office.", 1),
        ("J. R. Smith came.", 1),
        ('He said "Go." Then he went.', 2),
        ("(It ended.) He left.", 2),
        ("One.\n\nTwo.", 2),
        ("1. First thing. 2. Second thing.", 4),
        ("a.b.c", 1),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert count_sentences(text) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("A BIG dog", 2),
        ("WELL-KNOWN", 1),
        ("WE'LL", 2),
        ("CANNOT", 2),
        ("A,B", 2),
        ("1,000 USD", 1),
        ("a1 B2", 1),
    ],
)
def test_capital_words(text: str, count: int) -> None:
    assert count_capitals(text) == count


def test_loose_looks_at_eight_versions() -> None:
    text = "*Sure*\nbody, here\n*Bye*"
    assert versions(text) == [
        text,
        "body, here\n*Bye*",
        "*Sure*\nbody, here",
        "body, here",
        "Sure\nbody, here\nBye",
        "body, here\nBye",
        "Sure\nbody, here",
        "body, here",
    ]
    ids, arguments = ["startend:quotation"], [{}]
    assert verdicts('Sure:\n"yes"', ids, arguments, "strict") == [False]
    assert verdicts('Sure:\n"yes"', ids, arguments, "loose") == [True]
    assert verdicts("  ", ["punctuation:no_comma"], [{}], "loose") == [False]


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"instruction_id_list": [], "kwargs": []},
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": []},
        {"instruction_id_list": "punctuation:no_comma", "kwargs": [{}]},
        {"instruction_id_list": ["punctuation:no_colon"], "kwargs": [{}]},
        {"instruction_id_list": [5], "kwargs": [{}]},
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [None]},
        {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": "cat"}]},
    ],
)
def test_rows_of_another_form_are_unscored(row: dict[str, Any]) -> None:
    for mode in ("strict", "loose"):
        one = IfEval.model_validate({"scorer": "ifeval", "mode": mode})
        assert isinstance(score(one, "text", Reference(None, row)), Unscored)


HOSTILE = [
    text * 30_000 for text in ("[", "<", "*", " ", "\n", "a.", ".", "?", "A'", '"', "[\n", "* \n", "@", "1.", "-")
]


@pytest.mark.parametrize("text", HOSTILE, ids=[repr(text[:3]) for text in HOSTILE])
def test_hostile_replies_take_linear_time(text: str) -> None:
    for instruction, arguments, _, _ in FOLLOWED:
        assert follows(instruction, text, Arguments(arguments)) in (True, False)


@settings(deadline=None, max_examples=30)  # the first text that is detected reads the profiles
@given(st.text(max_size=60) | st.text('ab. ?!"*<>[]\n-,AB1()', max_size=60))
def test_every_reply_has_a_verdict(text: str) -> None:
    ids, arguments = [row[0] for row in FOLLOWED], [row[1] for row in FOLLOWED]
    row = Reference(None, {"instruction_id_list": ids, "kwargs": arguments})
    for mode in ("strict", "loose"):
        found = score(IfEval.model_validate({"scorer": "ifeval", "mode": mode, "level": "instruction"}), text, row)
        assert isinstance(found, Scored)
        assert 0 <= float(found.value) <= 1
        assert found == score(
            IfEval.model_validate({"scorer": "ifeval", "mode": mode, "level": "instruction"}), text, row
        )
