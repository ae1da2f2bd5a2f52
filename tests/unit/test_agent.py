"""Agents on models that are functions: the loop, its limits, what is recorded, and what is scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from appliance.runtime import gbnf
from attest.errors import MalformedInput
from attest.sample import SampleRecord, ToolCall
from tests.fakes.models import Desk, Messages, ran, suite, turns

KV = {"tool": "kv", "values": {"lamp": "off"}}
CALC = {"tool": "calculator"}


def hermes(*calls: tuple[str, dict[str, Any]]) -> str:
    return "".join(f"<tool_call>{json.dumps({'name': name, 'arguments': given})}</tool_call>" for name, given in calls)


def script(*replies: str | None) -> Callable[[Messages], str | None]:
    """A model that says one thing after the other, and then the last for ever."""
    return lambda messages: replies[min(sum(m["role"] == "assistant" for m in messages), len(replies) - 1)]


def agent(
    *replies: str | None, tools: list[dict[str, Any]] | None = None, more: dict[str, Any] | None = None, **settings: Any
) -> tuple[SampleRecord, Desk]:
    fields = {
        "solver": "agent",
        "attack": None,
        "agent": {"tools": tools or [KV, CALC], **settings},
        "columns": {"target": "{{ answer }}"},
        "scorers": [{"scorer": "includes"}],
    }
    spec = suite([{"strategy": "direct"}], **fields | (more or {}))
    (record,), desk = ran(spec, script(*replies), rows=[{"prompt": "work", "answer": "46"}])
    return record, desk


def tools_called(record: SampleRecord) -> list[ToolCall]:
    return [event for event in record.events if isinstance(event, ToolCall)]


def test_an_answer_without_tools_is_one_turn() -> None:
    record, desk = agent("It is 46.")
    assert record.scores == {"includes": "1"}
    assert record.generation is not None
    assert record.events == ()
    (request,) = desk.of(0)
    assert [tool["function"]["name"] for tool in request["tools"]][-1] == "calculator"
    assert request["grammar"] is None


def test_results_are_told_and_recorded() -> None:
    add = ("calculator", {"expression": "12+34"})
    record, desk = agent("Let me see. " + hermes(add, ("kv_list", {})), "It is 46.")
    assert record.scores == {"includes": "1"}
    assert [event.kind for event in record.events] == ["turn", "tool", "tool", "turn"]
    assert record.decisive == 3
    assert [(call.name, call.result, call.failed) for call in tools_called(record)] == [
        ("calculator", "46", False),
        ("kv_list", "lamp", False),
    ]
    told = desk.of(0)[1]["messages"][2:]
    assert told == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"name": "calculator", "arguments": '{"expression": "12+34"}'},
                {"name": "kv_list", "arguments": "{}"},
            ],
        },
        {"role": "tool", "content": "46", "name": "calculator"},
        {"role": "tool", "content": "lamp", "name": "kv_list"},
    ]


def test_a_call_that_fails_is_told_and_the_agent_goes_on() -> None:
    record, desk = agent(hermes(("nobody", {}), ("kv_get", {"key": "x"})), "46")
    assert [call.failed for call in tools_called(record)] == [True, True]
    assert [message["content"][:6] for message in desk.of(0)[1]["messages"][-2:]] == ["error:"] * 2
    assert record.scores == {"includes": "1"}


def test_a_call_that_cannot_be_read_is_told_by_the_user() -> None:
    record, desk = agent("<tool_call>{</tool_call>", "46")
    (call,) = tools_called(record)
    assert (call.name, call.arguments, call.failed) == ("", "{", True)
    assert desk.of(0)[1]["messages"][-2:] == [
        {"role": "assistant", "content": "<tool_call>{</tool_call>"},
        {"role": "user", "content": call.result},
    ]
    both, desk = agent("<tool_call>{</tool_call>" + hermes(("kv_list", {})), "46")
    assert [message["role"] for message in desk.of(0)[1]["messages"][2:]] == ["assistant", "tool", "user"]
    assert len(tools_called(both)) == 2


def test_an_agent_that_does_not_come_to_an_answer_is_unscored() -> None:
    record, desk = agent(hermes(("kv_list", {})), turns=3)
    assert len(desk.of(0)) == len(turns(record)) == 3
    assert record.error is None
    assert record.scores == {}
    assert record.unscored == {"includes": "the agent came to no answer in its 3 turns"}
    assert record.decisive is not None
    assert record.events[record.decisive] == turns(record)[-1]


def test_calls_beyond_the_limit_are_refused_and_nothing_else_happens() -> None:
    change = [("kv_set", {"key": str(n), "value": "x"}) for n in range(9)]
    record, _ = agent(hermes(*change), hermes(("kv_list", {})), "46", max_calls=4)
    assert [call.failed for call in tools_called(record)] == [False] * 4 + [True] * 6
    assert record.scores == {"includes": "1"}


def test_a_turn_without_a_reply_fails_the_sample_and_keeps_what_happened() -> None:
    record, _ = agent(hermes(("kv_list", {})), None)
    assert record.error is not None
    assert record.error.code == "deadline"
    assert [event.kind for event in record.events] == ["turn", "tool", "turn"]
    assert record.scores == {}


WORLD = {"scorer": "end_state", "values": {"lamp": "{{ answer }}"}}


@pytest.mark.parametrize(
    ("calls", "others", "score"),
    [
        ([("kv_set", {"key": "lamp", "value": "46"})], "none", "1"),
        ([("kv_set", {"key": "lamp", "value": "46"}), ("kv_set", {"key": "x", "value": ""})], "any", "1"),
        ([("kv_set", {"key": "lamp", "value": "46"}), ("kv_set", {"key": "x", "value": ""})], "none", "0"),
        ([("kv_delete", {"key": "lamp"})], "any", "0"),
        ([("kv_list", {})], "any", "0"),
    ],
)
def test_the_world_is_scored_as_it_was_left(calls: list[tuple[str, dict[str, Any]]], others: str, score: str) -> None:
    record, _ = agent(hermes(*calls), "done", more={"scorers": [{**WORLD, "others": others}]})
    assert record.scores == {"end_state": score}


def test_by_grammar() -> None:
    first = json.dumps({"calls": [{"name": "calculator", "arguments": {"expression": "40+6"}}]})
    record, desk = agent(first, '{"answer": "It is 46"}', calls="grammar", more={"scorers": [{"scorer": "exact"}]})
    one, two = desk.of(0)
    assert "tools" not in one
    gbnf.parse(one["grammar"])
    assert one["messages"][0]["content"].startswith("Be good.\n\nYou can use these functions:")
    assert [message["role"] for message in two["messages"]] == ["system", "user", "assistant", "user"]
    assert two["messages"][-1]["content"] == "calculator: 46"
    assert record.scores == {"exact": "0"}
    assert agent('{"answer": "46"}', calls="grammar", more={"scorers": [{"scorer": "exact"}]})[0].scores == {
        "exact": "1"
    }


def test_a_reply_that_was_cut_off_is_told() -> None:
    record, _ = agent('{"answer": "4', '{"answer": "46"}', calls="grammar")
    assert [call.failed for call in tools_called(record)] == [True]
    assert record.scores == {"includes": "1"}


def test_tools_elicit_what_asking_does_not() -> None:
    def target(messages: Messages) -> str:
        if messages[-1]["role"] == "tool":
            return f"It is {messages[-1]['content']}."
        return hermes(("calculator", {"expression": "40+6"})) if len(messages) < 4 else "?"

    spec = suite(
        [{"strategy": "direct"}, {"strategy": "tools"}],
        agent={"tools": [CALC]},
        columns={"target": "{{ answer }}"},
        scorers=[{"scorer": "includes"}],
        attack={
            "strategies": [{"strategy": "direct"}, {"strategy": "tools"}],
            "success": {"scorer": "includes", "comparator": "==", "threshold": "1"},
        },
    )
    records, desk = ran(spec, target, rows=[{"prompt": "work", "answer": "It is 46"}])
    assert [record.attack and (record.attack.queries, record.attack.first_success) for record in records] == [
        (1, None),
        (1, 1),
    ]
    assert records[1].decisive == 2
    assert "tools" not in desk.of(0)[0] or "tools" not in desk.of(0)[1]


def test_an_agent_without_an_answer_is_no_success() -> None:
    spec = suite(
        [{"strategy": "tools"}],
        agent={"tools": [CALC], "turns": 2},
        scorers=[{"scorer": "refusal"}],
    )
    (record,), _ = ran(spec, script(hermes(("calculator", {"expression": "1"}))), rows=[{"prompt": "work"}])
    assert record.attack is not None
    assert record.attack.first_success is None
    assert record.unscored.keys() == {"refusal"}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"solver": "agent", "attack": None}, "settings under agent"),
        ({"agent": {"tools": [CALC]}}, "no other takes them"),
        ({"solver": "agent", "attack": None, "agent": {"tools": [CALC]}, "grammar": 'root ::= "a"'}, "own form"),
        ({"solver": "agent", "attack": None, "agent": {"tools": [CALC]}, "scorers": [WORLD]}, "the suite has none"),
        ({"solver": "agent", "attack": None, "agent": {"tools": [CALC], "turns": 0}}, "turns"),
        ({"solver": "agent", "attack": None, "agent": {"tools": [CALC]}, "scorers": [{"scorer": "choice"}]}, "choice"),
    ],
)
def test_suites_that_make_no_sense(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        suite([{"strategy": "direct"}], **fields)


def test_without_tools_there_is_no_world_to_score() -> None:
    spec = suite(
        [{"strategy": "direct"}, {"strategy": "tools"}],
        agent={"tools": [KV]},
        scorers=[{"scorer": "refusal"}, {"scorer": "end_state", "values": {"lamp": "off"}}],
    )
    direct, tools = ran(spec, script("Sure."), rows=[{"prompt": "work"}])[0]
    assert (direct.scores, direct.unscored.keys()) == ({"refusal": "0"}, {"end_state"})
    assert tools.scores == {"refusal": "0", "end_state": "1"}


def test_by_grammar_without_a_system_message() -> None:
    _, desk = agent('{"answer": "46"}', calls="grammar", more={"prompt": {"user": "{{ prompt }}"}})
    assert [message["role"] for message in desk.of(0)[0]["messages"]] == ["system", "user"]
