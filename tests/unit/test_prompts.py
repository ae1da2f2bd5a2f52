"""Templates: what a row becomes, and that a hostile template gets nothing but an error that names its row."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.evals import prompts
from appliance.evals.prompts import Selection, Task
from appliance.evals.suite import Suite
from attest import canonical
from attest.digest import digest_of
from attest.errors import MalformedInput

ROW = {"question": "Why?", "answer": "1", "options": ["yes", "no"], "n": 3, "none": None, "deep": {"a": [1]}}


def suite(**more: Any) -> Suite:
    value: dict[str, Any] = {
        "format": "vitrine/suite/v1",
        "name": "arc",
        "dataset": {"path": "rows.jsonl", "digest": digest_of(b""), "format": "jsonl"},
        "prompt": {"user": "{{ question }}"},
        "scorers": [{"scorer": "refusal"}],
        **more,
    }
    return canonical.validate(Suite, value, "suite")


def choose(choices: Any, target: str = "{{ answer }}") -> Suite:
    scorers = [{"scorer": "choice"}]
    return suite(solver="choose", scorers=scorers, columns={"choices": choices, "target": target})


def render(source: str, row: dict[str, Any] | None = None) -> str:
    (task,) = prompts.tasks(suite(prompt={"user": source}), [row or ROW])
    return task.messages[0].content


def test_a_row_becomes_a_task() -> None:
    spec = suite(
        columns={"id": " {{ n }} ", "target": "{{ answer }}"},
        prompt={
            "system": "Be brief.",
            "user": "{{ question }}\n{% for x in options %}{{ loop.index }} {{ x }}\n{% endfor %}",
        },
    )
    (task,) = prompts.tasks(spec, [ROW])
    assert (task.index, task.id, task.target, task.choices) == (0, "3", "1", None)
    assert [(message.role, message.content) for message in task.messages] == [
        ("system", "Be brief."),
        ("user", "Why?\n1 yes\n2 no\n"),
    ]


def test_text_is_kept_as_it_is() -> None:
    row = {**ROW, "question": "  <b>&amp; {{ n }} {% raw %}\r\n\t\u2028 "}
    assert render("{{ question }}\n", row) == row["question"] + "\n"
    assert render("a\r\nb\rc") == "a\nb\nc"


def test_rows_are_numbered_and_limited() -> None:
    rows = [{"question": str(number)} for number in range(5)]
    assert [(task.index, task.id) for task in prompts.tasks(suite(), rows, Selection(2))] == [
        (0, "000000"),
        (1, "000001"),
    ]
    assert len(prompts.tasks(suite(), rows, Selection(9))) == len(prompts.tasks(suite(), rows)) == 5


@pytest.mark.parametrize(
    ("source", "rows", "problem"),
    [
        ("{{ n }}", [{"n": 1}, {"n": "1 "}], "row 1.*same as row 0"),
        ("{{ n }}", [{"n": ""}], "row 0"),
        ("{{ n }}", [{"n": " \n "}], "row 0"),
        ("{{ n }}", [{"n": "x" * 201}], "1 to 200"),
        ("{{ id }}", [{"n": 1}], "'id' is undefined.*columns are: n"),
    ],
)
def test_ids_are_unique_and_bounded(source: str, rows: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        prompts.tasks(suite(columns={"id": source}, prompt={"user": "x"}), rows)
    assert prompts.tasks(suite(columns={"id": "{{ n }}"}, prompt={"user": "x"}), [{"n": "x" * 200}])


def test_options_from_a_column_or_from_templates() -> None:
    (task,) = prompts.tasks(choose("options"), [ROW])
    assert (task.choices, task.target) == (("yes", "no"), "1")
    (task,) = prompts.tasks(choose(["{{ question }}", " no {{ n }}"]), [ROW])
    assert task.choices == ("Why?", " no 3")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (choose("missing"), "list of texts, found None"),
        (choose("question"), "list of texts"),
        (choose("n"), "list of texts"),
        (choose("deep"), "two or more"),
        (choose(["only"]), "two or more"),
        (choose(["same", "same"]), "two or more different"),
        (choose(["a", "{{ '' }}"]), "two or more different"),
        (choose(["a", "{{ gone }}"]), "columns.choices.1.*'gone' is undefined"),
        (choose("options", "{{ n }}"), "target from 0 to 1.*found '3'"),
        (choose("options", "-1"), "target"),
        (choose("options", "01"), "target"),
        (choose("options", "1.0"), "target"),
        (choose("options", " 1"), "target"),
        (choose("options", "\u0661"), "target"),
        (choose("options", "{{ none }}"), "target.*found 'None'"),
        (choose("options", ""), "target"),
    ],
)
def test_options_and_targets_that_are_refused(spec: Suite, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        prompts.tasks(spec, [ROW])


@pytest.mark.parametrize("options", [[], ["a"], ["a", "a"], ["a", ""], ["a", 1], ["a", None], [["a"], "b"]])
def test_option_lists_that_are_refused(options: list[Any]) -> None:
    with pytest.raises(MalformedInput, match="row 0"):
        prompts.tasks(choose("options", "0"), [{**ROW, "options": options}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ question.__class__ }}",
        "{{ question['__class__'] }}",
        "{{ question|attr('__class__') }}",
        "{{ ().__class__.__bases__[0].__subclasses__() }}",
        "{{ '{0.__class__}'.format(question) }}",
        "{{ '{0.__class__}'.format_map({'0': question}) }}",
        "{{ '%s' | format(question.__class__) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'] }}",
        "{{ range.__self__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% from 'os' import system %}",
        "{% extends 'x' %}",
        "{{ options.append('x') }}",
        "{{ deep.update(a=1) }}",
        "{{ deep.a.pop() }}",
        "{{ options.sort() }}",
        "{% do options.clear() %}",
        "{% debug %}",
        "{{ open('/etc/passwd') }}",
        "{{ __import__('os') }}",
        "{{ request }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(MalformedInput, match=r"suite arc: row 0, template 'prompt.user'"):
        render(source)
    assert ROW["options"] == ["yes", "no"]
    assert ROW["deep"] == {"a": [1]}


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in range(10**9) %}{{ x }}{% endfor %}",
        "{{ range(100001) | length }}",
        "{{ 'a' * 10**15 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in options %}" * 25 + "{% endfor %}" * 25,
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ " + "-" * 20_000 + "1 }}",
        "{{ " + "1" * 5000 + " }}",
        "{{ 1 / 0 }}",
        "{{ n.x.y }}",
        "{{ missing }}",
        "{{ missing | upper }}",
        "{{ options[7] }}",
        "{{ n() }}",
        "{{ n | nosuchfilter }}",
        "{% nosuchtag %}",
        "{{ question",
        "{% if %}",
        "{% for x in n %}{% endfor %}",
        "{{ '\\N{no such name}' }}",
    ],
    ids=lambda source: source[:20],
)
def test_a_template_that_fails_names_row_and_template(source: str) -> None:
    with pytest.raises(MalformedInput, match=r"row 0, template 'prompt.user'"):
        render(source)


@pytest.mark.parametrize("source", ["{{ '\\ud800' }}", "{{ '%c' % 55296 }}", "a\\udfff{{ '\\udfff' }}"])
@pytest.mark.parametrize("part", ["id", "target", "system", "user", "choices"])
def test_text_that_utf_8_cannot_carry_is_refused(part: str, source: str) -> None:
    if part == "choices":
        spec = choose([source, "b"])
    elif part in ("id", "target"):
        spec = suite(columns={part: source})
    else:
        spec = suite(prompt={"user": "x", part: source})
    with pytest.raises(MalformedInput):
        prompts.tasks(spec, [ROW])


@pytest.mark.parametrize("source", ["{{ range(99999) | random }}", "{{ lipsum() }}"])
def test_a_prompt_is_a_function_of_its_row(source: str) -> None:
    with pytest.raises(MalformedInput):
        render(source)


@pytest.mark.parametrize("source", ["{{ question.upper }}", "{{ range.count }}", "{{ [question.upper] }}"])
def test_no_address_of_this_process_gets_into_a_prompt(source: str) -> None:
    try:
        text = render(source)
    except MalformedInput:
        return
    assert "0x" not in text


@given(st.text("{}%-#+ab()'.,|[]~=\n_ 0n\\", max_size=25))
def test_any_template_gives_text_or_our_error(source: str) -> None:
    try:
        render(source, {"a": "x", "b": [1], "n": 1})
    except MalformedInput as error:
        assert "row 0" in str(error)


@given(
    st.dictionaries(st.sampled_from(["self", "loop", "range", "caller", "context", "environment", "n"]), st.integers())
)
def test_columns_of_any_name_do_no_harm(row: dict[str, int]) -> None:
    (task,) = prompts.tasks(suite(prompt={"user": "{{ n }}"}), [{**row, "n": 1}])
    assert task == Task(0, "000000", task.messages, None, None, row={**row, "n": 1})
    assert task.messages[0].content == "1"


SHOTS = [{"question": f"Q{number}?", "answer": str(number)} for number in range(9)]
ROWS = [{"question": f"What is {number}?", "answer": str(number)} for number in range(6)]
SPLIT = {"path": "train.jsonl", "digest": digest_of(b""), "format": "jsonl"}


def contents(spec: Suite, selection: Selection) -> list[list[str]]:
    return [[message.content for message in task.messages] for task in prompts.tasks(spec, ROWS, selection)]


def test_examples_are_turns_before_the_question() -> None:
    spec = suite(shots={"dataset": SPLIT, "count": 2, "assistant": "A: {{ answer }}"})
    (task, *_) = prompts.tasks(spec, ROWS, Selection(shots=SHOTS))
    assert [(message.role, message.content) for message in task.messages] == [
        ("user", "Q0?"),
        ("assistant", "A: 0"),
        ("user", "Q1?"),
        ("assistant", "A: 1"),
        ("user", "What is 0?"),
    ]
    other = suite(shots={"dataset": SPLIT, "count": 1, "user": "<{{ question }}>", "assistant": "{{ answer }}"})
    assert contents(other, Selection(1, shots=SHOTS)) == [["<Q0?>", "0", "What is 0?"]]


def test_examples_are_a_list_for_prompts_of_one_text() -> None:
    text = "{% for shot in shots %}{{ shot.question }} {{ shot.answer }}\n{% endfor %}{{ question }}"
    spec = suite(shots={"dataset": SPLIT, "count": 2}, prompt={"user": text, "raw": True})
    assert contents(spec, Selection(1, shots=SHOTS)) == [["Q0? 0\nQ1? 1\nWhat is 0?"]]


def test_drawn_examples_follow_from_the_seed_and_the_row() -> None:
    spec = suite(shots={"dataset": SPLIT, "count": 3, "order": "seeded", "assistant": "{{ answer }}"})
    drawn = contents(spec, Selection(shots=SHOTS, seed=4))
    assert drawn == contents(spec, Selection(shots=SHOTS, seed=4))
    assert drawn[:2] == contents(spec, Selection(2, shots=SHOTS, seed=4))
    assert drawn != contents(spec, Selection(shots=SHOTS, seed=5))
    assert len({tuple(messages[:-1]) for messages in drawn}) > 1


def test_too_few_examples_are_refused() -> None:
    spec = suite(shots={"dataset": SPLIT, "count": 10, "assistant": "{{ answer }}"})
    with pytest.raises(MalformedInput, match="expected 10 examples or more, found 9"):
        prompts.tasks(spec, ROWS, Selection(shots=SHOTS))


def test_a_row_may_be_asked_several_times() -> None:
    found = prompts.tasks(suite(epochs=2), ROWS, Selection(2))
    assert [(task.index, task.id, task.epoch) for task in found] == [
        (0, "000000#1", 1),
        (1, "000000#2", 2),
        (2, "000001#1", 1),
        (3, "000001#2", 2),
    ]


def test_rows_may_be_shuffled_before_they_are_limited() -> None:
    order = [task.id for task in prompts.tasks(suite(), ROWS, Selection(shuffle=3))]
    assert sorted(order) == [f"{number:06d}" for number in range(6)]
    assert order != sorted(order)
    found = prompts.tasks(suite(), ROWS, Selection(2, shuffle=3))
    assert [task.id for task in found] == order[:2]
    assert [task.index for task in found] == [0, 1]
    assert [task.messages[0].content for task in found] == [f"What is {int(number)}?" for number in order[:2]]


def test_options_may_be_the_keys_of_an_object() -> None:
    (task,) = prompts.tasks(choose("labels", "1"), [{**ROW, "labels": {"Yes.": 0, "No.": 1}}])
    assert task.choices == ("Yes.", "No.")
    spaced = suite(
        solver="choose",
        scorers=[{"scorer": "choice"}],
        columns={"choices": "labels", "choice": " {{ choice }}", "target": "1"},
    )
    (task,) = prompts.tasks(spaced, [{**ROW, "labels": {"Yes.": 0, "No.": 1}}])
    assert task.choices == (" Yes.", " No.")


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ("Hi", [("user", "Hi")]),
        ([{"role": "system", "content": "S"}, {"role": "user", "content": "U"}], [("system", "S"), ("user", "U")]),
    ],
)
def test_a_column_may_hold_the_conversation(value: Any, messages: list[tuple[str, str]]) -> None:
    (task,) = prompts.tasks(suite(prompt={"messages": "input"}), [{"input": value}])
    assert [(message.role, message.content) for message in task.messages] == messages


@pytest.mark.parametrize(
    "value",
    [None, 7, [], {}, ["Hi"], [{"role": "user"}], [{"role": "x", "content": "y"}], [{"role": "user", "content": []}]],
)
def test_a_column_that_holds_no_conversation_is_refused(value: Any) -> None:
    with pytest.raises(MalformedInput, match="column 'input' to hold a text, or a list"):
        prompts.tasks(suite(prompt={"messages": "input"}), [{"input": value}])


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"prompt": {}}, "user or messages"),
        ({"prompt": {"user": "x", "messages": "y"}}, "user or messages"),
        ({"prompt": {"user": "x", "system": "y", "raw": True}}, "raw prompt"),
        (
            {"prompt": {"user": "x", "raw": True}, "shots": {"dataset": SPLIT, "count": 1, "assistant": "a"}},
            "raw prompt",
        ),
        ({"prompt": {"messages": "x"}, "shots": {"dataset": SPLIT, "count": 1, "assistant": "a"}}, "need shots.user"),
        ({"shots": {"dataset": SPLIT, "count": 0}}, "count"),
        ({"epochs": 0}, "epochs"),
        ({"dataset": []}, "dataset"),
    ],
)
def test_prompts_that_make_no_sense(more: dict[str, Any], problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        suite(**more)


def test_every_data_set_has_a_name_for_the_lock() -> None:
    assert list(suite().files) == ["arc"]
    spec = suite(dataset=[SPLIT, SPLIT], shots={"dataset": [SPLIT], "count": 1, "assistant": "a"})
    assert list(spec.files) == ["arc.0", "arc.1", "arc.shots.0"]
