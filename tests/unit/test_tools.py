"""Tools: known answers, and that no call, however hostile, does more than fail."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.evals.tools import AnyTool, calls, toolbox
from appliance.evals.tools.calculator import evaluate
from appliance.evals.tools.settings import AgentSpec
from appliance.evals.tools.tool import ToolError
from appliance.evals.tools.toolbox import Toolbox
from appliance.runtime import gbnf, schema
from attest import canonical
from attest.errors import MalformedInput
from attest.sample import Call, ToolCall


def agent(*tools: dict[str, Any], **more: Any) -> AgentSpec:
    return canonical.validate(AgentSpec, {"tools": list(tools), **more}, "agent")


def box(*tools: dict[str, Any], most: int = 1000, result_chars: int = 4000) -> Toolbox:
    return Toolbox(agent(*tools).tools, calls=most, result_chars=result_chars)


def call(tools: Toolbox, name: str, **given: Any) -> ToolCall:
    return tools.call(Call(name=name, arguments=json.dumps(given)))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1+2*3", "7"),
        (" (1 + 2) * 3 ", "9"),
        ("0.1+0.2", "0.3"),
        ("10/4", "2.5"),
        ("1/3", "0.333333333333"),
        ("-2**2", "-4"),
        ("2**-2", "0.25"),
        ("7//2", "3"),
        ("-7 % 3", "2"),
        ("2**64", "18446744073709551616"),
        ("10**20/3", "33333333333300000000"),
        ("1/10**9", "1e-9"),
        (".5", "0.5"),
        ("5.", "5"),
        ("0/5", "0"),
    ],
)
def test_arithmetic(expression: str, value: str) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        " ",
        "1/0",
        "1%0",
        "0**-1",
        "9**9**9",
        "2**65",
        "2**0.5",
        "(2**64)**64",
        "10**64*" * 20 + "1",
        "1e5",
        "0x10",
        "__import__('os')",
        "a",
        "()",
        "1,2",
        "1 2",
        "1()",
        "(1)(2)",
        "1.2.3",
        "07",
        "1\n+2",
        "\u0661+1",
        "-" * 200 + "1",
        "(" * 100 + "1" + ")" * 99,
        "1+" * 150,
        "%",
    ],
)
def test_what_the_calculator_refuses(expression: str) -> None:
    with pytest.raises(ToolError):
        evaluate(expression)


@given(st.text("0123456789.+-*/()% ", max_size=200))
def test_any_expression_has_a_value_or_is_refused_at_once(expression: str) -> None:
    start = time.process_time()
    try:
        assert len(evaluate(expression)) < 400
    except ToolError as error:
        assert str(error)
    assert time.process_time() - start < 1


@given(st.fractions(-(10**6), 10**6, max_denominator=10**4))
def test_a_number_is_told_to_twelve_digits(value: Fraction) -> None:
    told = evaluate(f"{value.numerator}/{value.denominator}")
    assert abs(Fraction(Decimal(told)) - value) <= abs(value) * Fraction(1, 10**11)


def test_a_calculator_of_operands() -> None:
    tools = box({"tool": "calculator", "name": "calc", "takes": "operands"})
    assert call(tools, "calc", a=12, b=34, op="+") == ToolCall(
        name="calc", arguments='{"a": 12, "b": 34, "op": "+"}', result="46"
    )
    assert call(tools, "calc", a=0.5, b=4, op="*").result == "2"
    for given_ in ({"a": 1, "b": 0, "op": "/"}, {"a": 1, "op": "+"}, {"a": "1", "b": 1, "op": "+"}, {"a": 1, "b": 1}):
        assert call(tools, "calc", **given_).failed
    assert call(tools, "calc", a=1, b=1, op="**").failed
    assert call(tools, "calc", a=True, b=1, op="+").failed
    assert call(tools, "calc", a=1, b=1, op="+", c=1).failed


FILES = {"tool": "files", "files": {"a.txt": "one\nTwo", "d/b.txt": "two three"}}


def test_files() -> None:
    tools = box(FILES)
    assert call(tools, "list_files").result == "a.txt\nd/b.txt"
    assert call(tools, "read_file", path="a.txt").result == "one\nTwo"
    assert call(tools, "search_files", text="TWO").result == "a.txt:2: Two\nd/b.txt:1: two three"
    assert call(tools, "search_files", text="zzz").result == "nothing found"


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.txt", "d/../a.txt", "", "A.TXT", "d", "\x00"])
def test_no_file_but_the_suites_is_there(path: str) -> None:
    assert call(box(FILES), "read_file", path=path).failed


@pytest.mark.parametrize("path", ["/a", "a//b", "", "a b", "a/", "x" * 201])
def test_paths_of_fixtures_are_plain(path: str) -> None:
    with pytest.raises(MalformedInput):
        agent({"tool": "files", "files": {path: ""}})


def test_a_search_is_cut() -> None:
    tools = box({"tool": "files", "files": {"a": "x\n" * 60}})
    assert call(tools, "search_files", text="x").result.split("\n")[-1] == "and 10 more"


KV = {"tool": "kv", "values": {"lamp": "off"}}


def test_a_key_value_world_is_each_samples_own() -> None:
    tools, other = box(KV), box(KV)
    assert call(tools, "kv_get", key="lamp").result == "off"
    assert call(tools, "kv_set", key="lamp", value="on").result == "done"
    assert call(tools, "kv_set", key="door", value="shut").result == "done"
    assert call(tools, "kv_list").result == "door\nlamp"
    assert call(tools, "kv_delete", key="door").result == "done"
    assert tools.world.values == {"lamp": "on"}
    assert other.world.values == {"lamp": "off"}
    for name in ("kv_get", "kv_delete"):
        assert call(tools, name, key="nothing").failed
    assert call(tools, "kv_set", key="x", value=5).failed
    assert call(tools, "kv_set", key="", value="x").failed
    assert call(tools, "kv_list", key="x").failed


def test_a_world_has_limits() -> None:
    tools = box(KV)
    results = [call(tools, "kv_set", key=str(n), value="x") for n in range(250)]
    assert [result.failed for result in results] == [False] * 199 + [True] * 51
    assert not call(tools, "kv_set", key="0", value="y").failed
    assert call(tools, "kv_set", key="0", value="y" * 4001).failed


RECORDED = {
    "tool": "recorded",
    "name": "weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "day": {"type": "integer"}}},
    "recordings": [{"arguments": {"city": "Ulm", "day": 1}, "result": "rain"}],
}


def test_recorded_answers() -> None:
    tools = box(RECORDED)
    assert call(tools, "weather", day=1, city="Ulm").result == "rain"
    assert call(tools, "weather", day=2, city="Ulm").failed
    assert call(box({**RECORDED, "otherwise": "unknown"}), "weather").result == "unknown"


def test_limits_of_calls_and_of_results() -> None:
    tools = box(FILES, most=2, result_chars=8)
    assert call(tools, "read_file", path="a.txt").result == "one\nTwo"
    assert "9 characters, and 8" in call(tools, "read_file", path="d/b.txt").result
    third = call(tools, "read_file", path="a.txt")
    assert third.failed
    assert "no more calls" in third.result


def test_an_unknown_function_is_told() -> None:
    assert "there are list_files, read_file, search_files" in call(box(FILES), "rm").result


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ([], "tools"),
        ([FILES, FILES], "names of their own"),
        ([KV, KV], "names of their own"),
        ([{"tool": "shell"}], "shell"),
        ([{"tool": "calculator", "name": "a b"}], "name"),
        ([{**RECORDED, "recordings": RECORDED["recordings"] * 2}], "same arguments"),  # type: ignore[operator]
    ],
)
def test_settings_that_make_no_sense(tools: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        agent(*tools)


def test_a_schema_that_no_grammar_keeps_is_refused_for_calls_by_grammar() -> None:
    odd = {**RECORDED, "parameters": {"type": "object", "not": {}}}
    assert agent(odd).grammar is None
    with pytest.raises(MalformedInput, match="not"):
        agent(odd, calls="grammar")


def test_the_grammar_is_of_all_functions() -> None:
    spec = agent(FILES, KV, RECORDED, {"tool": "calculator"}, calls="grammar", max_calls=3)
    assert spec.grammar is not None
    gbnf.parse(spec.grammar)
    assert schema.to_gbnf(toolbox.schema(spec.tools, 3)) == spec.grammar
    told = toolbox.instructions(spec.tools)
    assert all(f'"name": "{name}"' in told for name in toolbox.functions(spec.tools))


CALL = '{"name": "calc", "arguments": {"a": 1}}'
READ = Call(name="calc", arguments='{"a": 1}')


@pytest.mark.parametrize(
    ("reply", "text", "count"),
    [
        (f"<tool_call>{CALL}</tool_call>", "", 1),
        (f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>", "", 2),
        (f"I will.\n<tool_call>{CALL}</tool_call>", "I will.", 1),
        (f"<tool_call>{CALL}", "", 1),  # the model ended inside
        (f"[TOOL_CALLS][{CALL}, {CALL}]", "", 2),
        (f" [{CALL}]", "", 1),
        (CALL.replace("arguments", "parameters"), "", 1),
        ("<|python_tag|>" + CALL.replace("arguments", "parameters"), "", 1),
        ('{"type": "function", ' + CALL[1:], "", 1),
        (CALL[:-1] + ', "id": "abc"}', "", 1),
    ],
)
def test_calls_in_the_forms_of_model_families(reply: str, text: str, count: int) -> None:
    assert calls.read(reply) == calls.Said(text, (READ,) * count)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "The answer is 46.",
        "[1, 2]",
        '{"name": "Ann", "age": 5}',
        '{"name": "Ann"}',
        "{}",
        "[]",
        f"{CALL} is what I would say",
        f"[{CALL}, 5]",
        "</tool_call>",
    ],
)
def test_what_is_an_answer_and_no_call(reply: str) -> None:
    assert calls.read(reply) == calls.Said(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "<tool_call></tool_call>",
        "<tool_call>calc(1)</tool_call>",
        "<tool_call>{}</tool_call>",
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "x", "arguments": "{}"}</tool_call>',
        '<tool_call>{"name": "x", "arguments": {}, "parameters": {}}</tool_call>',
        '<tool_call>{"name": "x", "arguments": {}, "more": 1}</tool_call>',
        '<tool_call>{"name": "x", "name": "y", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "x", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "x", "arguments": {"a": "\\ud800"}}</tool_call>',
        '<tool_call>{"name": "x", "arguments": {"a": 1' + "0" * 5000 + "}}</tool_call>",
        '<tool_call>{"name": "x", "arguments": ' + "[" * 50_000 + "</tool_call>",
        '<tool_call>{"name": "' + "x" * 201 + '", "arguments": {}}</tool_call>',
        "[TOOL_CALLS] calc(1)",
        "<|python_tag|>print(1)",
    ],
    ids=range(16),
)
def test_what_was_to_be_a_call_and_cannot_be_read(reply: str) -> None:
    found = calls.read(reply)
    assert (found.calls, found.text, len(found.broken)) == ((), "", 1)


@given(st.lists(st.sampled_from(["<tool_call>", "</tool_call>", CALL, "[", "]", ",", "{", "}", "a", "[TOOL_CALLS]"])))
def test_any_reply_is_read(parts: list[str]) -> None:
    for found in (calls.read("".join(parts)), calls.constrained("".join(parts))):
        assert all(isinstance(json.loads(call.arguments), dict) for call in found.calls)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ('{"answer": "46"}', calls.Said("46")),
        (f'{{"calls": [{CALL}]}}', calls.Said("", (READ,))),
        ('{"calls": []}', calls.Said("", broken=('{"calls": []}',))),
        ('{"calls": [5]}', calls.Said("", broken=('{"calls": [5]}',))),
        ('{"answer": "4', calls.Said("", broken=('{"answer": "4',))),
    ],
)
def test_replies_that_follow_the_grammar_or_were_cut_off(reply: str, said: calls.Said) -> None:
    assert calls.constrained(reply) == said


def test_a_tool_is_told_apart_by_its_name() -> None:
    assert "discriminator" in str(AnyTool)
