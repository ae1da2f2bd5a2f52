"""Templates: what a row becomes, and that a hostile template gets nothing but an error that names its row."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.evals import prompts
from appliance.evals.prompts import Task
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
    (task,) = prompts.tasks(suite(prompt={"user": source}), [row or ROW], None)
    return task.messages[0].content


def test_a_row_becomes_a_task() -> None:
    spec = suite(
        columns={"id": " {{ n }} ", "target": "{{ answer }}"},
        prompt={
            "system": "Be brief.",
            "user": "{{ question }}\n{% for x in options %}{{ loop.index }} {{ x }}\n{% endfor %}",
        },
    )
    (task,) = prompts.tasks(spec, [ROW], None)
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
    assert [(task.index, task.id) for task in prompts.tasks(suite(), rows, 2)] == [(0, "000000"), (1, "000001")]
    assert len(prompts.tasks(suite(), rows, 9)) == len(prompts.tasks(suite(), rows, None)) == 5


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
        prompts.tasks(suite(columns={"id": source}, prompt={"user": "x"}), rows, None)
    assert prompts.tasks(suite(columns={"id": "{{ n }}"}, prompt={"user": "x"}), [{"n": "x" * 200}], None)


def test_options_from_a_column_or_from_templates() -> None:
    (task,) = prompts.tasks(choose("options"), [ROW], None)
    assert (task.choices, task.target) == (("yes", "no"), "1")
    (task,) = prompts.tasks(choose(["{{ question }}", " no {{ n }}"]), [ROW], None)
    assert task.choices == ("Why?", " no 3")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (choose("missing"), "list of texts, found None"),
        (choose("question"), "list of texts"),
        (choose("n"), "list of texts"),
        (choose("deep"), "list of texts"),
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
        prompts.tasks(spec, [ROW], None)


@pytest.mark.parametrize("options", [[], ["a"], ["a", "a"], ["a", ""], ["a", 1], ["a", None], [["a"], "b"]])
def test_option_lists_that_are_refused(options: list[Any]) -> None:
    with pytest.raises(MalformedInput, match="row 0"):
        prompts.tasks(choose("options", "0"), [{**ROW, "options": options}], None)


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
        prompts.tasks(spec, [ROW], None)


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
    (task,) = prompts.tasks(suite(prompt={"user": "{{ n }}"}), [{**row, "n": 1}], None)
    assert task == Task(0, "000000", task.messages, None, None, row={**row, "n": 1})
    assert task.messages[0].content == "1"
