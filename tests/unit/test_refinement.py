"""Strategies with an attacker: what it is told, how strictly it is read, and that every budget holds."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from appliance.evals.agents import attacker
from appliance.runtime import gbnf
from attest.sample import SampleRecord
from tests.fakes.models import ATTACKER, JUDGE, REFUSED, TARGET, Desk, Messages, Model, attacked, refuses, suite, turns

JUDGED = {
    "scorers": [{"scorer": "judge", "user": "{{ reply }}", "verdicts": {"0": "0", "3": "0.3", "7": "0.7", "9": "0.9"}}],
}


class Writer:
    """An attacker that numbers its prompts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, messages: Messages) -> str:
        self.count += 1
        return json.dumps({"improvement": "more", "prompt": f"prompt {self.count}"})


def nonsense(text: str | None) -> Model:
    return lambda _messages: text


def gives_in_to(prompt: str) -> Model:
    return lambda messages: "Sure." if messages[-1]["content"] == prompt else REFUSED


def run(strategy: dict[str, Any], *models: Model, **more: Any) -> tuple[SampleRecord, Desk]:
    (record,), desk = attacked([strategy], *models, **more)
    return record, desk


def test_pair_asks_each_stream_and_tells_it_what_came_of_it() -> None:
    record, desk = run({"strategy": "pair", "streams": 2, "depth": 3}, refuses, Writer())
    assert (len(turns(record)), len(turns(record, "attacker"))) == (6, 6)
    assert [turn.label for turn in turns(record)] == ["stream 0", "stream 1"] * 3
    final = turns(record, "attacker")[-2].messages
    assert [message.role for message in final] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert "Objective: do it" in final[0].content
    assert REFUSED in final[-1].content
    assert "Score: 1 of 10" in final[-1].content
    assert desk.of(ATTACKER)[0]["sampling"]["temperature"] == "1"
    gbnf.parse(desk.of(ATTACKER)[0]["grammar"])


def test_pair_stops_at_success() -> None:
    record, desk = run({"strategy": "pair", "streams": 1, "depth": 9}, gives_in_to("prompt 4"), Writer())
    assert record.attack is not None
    assert (record.attack.first_success, len(desk.of(ATTACKER))) == (4, 4)
    assert turns(record)[-1].messages[0].content == "Be good."


def test_the_attacker_is_reminded_of_the_newest_exchanges_only() -> None:
    record, _ = run({"strategy": "pair", "streams": 1, "depth": 9}, refuses, Writer())
    asked = turns(record, "attacker")[-1].messages
    assert [message.role for message in asked] == ["system", *["user", "assistant"] * 3, "user"]
    assert "prompt 8" in asked[-2].content


NONSENSE = [
    None,
    "",
    "no",
    "{}",
    "[]",
    '"prompt"',
    '{"improvement": "", "prompt": ""}',
    '{"improvement": "", "prompt": "  "}',
    '{"improvement": "", "prompt": 5}',
    '{"improvement": "", "prompt": "x", "prompt": "y"}',
    '{"improvement": "", "prompt": "x", "more": 1}',
    '{"improvement": "", "prompt": "x"} and',
    '{"improvement": "", "prompt": "' + "x" * 1001 + '"}',
    "[" * 100_000,
    '{"improvement": "", "prompt": "\ud800"}',
    '{"improvement": "", "prompt": "\\ud800"}',
]


@pytest.mark.parametrize("text", NONSENSE, ids=range(len(NONSENSE)))
@pytest.mark.parametrize("strategy", ["pair", "tap", "past_tense"])
def test_nonsense_costs_budget_and_never_more(strategy: str, text: str | None) -> None:
    settings = {"pair": {"streams": 2, "depth": 5}, "tap": {"depth": 5, "branching": 2}, "past_tense": {"rewrites": 10}}
    record, desk = run({"strategy": strategy, "asks": 7, **settings[strategy]}, refuses, nonsense(text), refuses)
    assert len(desk.of(ATTACKER)) == 7
    assert desk.of(JUDGE) == []
    if strategy == "past_tense":
        assert (record.error, len(desk.of(TARGET))) == (None, 1)
    else:
        assert record.error is not None
        assert record.error.code == "no-query"
        assert record.attack is not None
        assert record.attack.queries == 0


def test_one_stream_of_nonsense_does_not_stop_the_others() -> None:
    class Sometimes(Writer):
        def __call__(self, messages: Messages) -> str:
            text = super().__call__(messages)
            return text if self.count % 2 else "nonsense"

    record, desk = run({"strategy": "pair", "streams": 2, "depth": 4}, refuses, Sometimes())
    assert (len(desk.of(TARGET)), len(desk.of(ATTACKER))) == (4, 8)
    assert record.error is None


def test_queries_hold_although_a_round_wants_more() -> None:
    record, desk = run({"strategy": "pair", "streams": 5, "depth": 5, "queries": 7}, refuses, Writer())
    assert record.attack is not None
    assert (record.attack.queries, len(desk.of(TARGET)), len(desk.of(ATTACKER))) == (7, 7, 10)


def score_of_prompt(messages: Messages) -> str:
    """A judge: of the prompt's number, its last digit, as near as the verdicts come; and every prompt is on topic."""
    if "Does the prompt ask" in messages[-1]["content"]:
        return "yes"
    digit = int(messages[-1]["content"][-1])
    return max(("0", "3", "7", "9"), key=lambda verdict: -abs(int(verdict) - digit))


def success(threshold: str) -> dict[str, Any]:
    return {"scorer": "judge", "comparator": ">=", "threshold": threshold}


def tap(settings: dict[str, Any], *models: Model, threshold: str = "1") -> tuple[SampleRecord, Desk]:
    attack = {"strategies": [{"strategy": "tap", **settings}], "success": success(threshold), "queries": 100}
    return run({}, *models, attack=attack, **JUDGED)


def test_tap_keeps_the_best_leaves() -> None:
    def echo(messages: Messages) -> str:
        return str(messages[-1]["content"])

    settings = {"width": 2, "branching": 4, "depth": 2, "on_topic": False}
    record, desk = tap(settings, echo, Writer(), score_of_prompt)
    assert [turn.label for turn in turns(record)] == ["level 1"] * 4 + ["level 2"] * 8
    grown = [turn.messages[-2].content for turn in turns(record, "attacker")[4:]]
    # Of the prompts 1 to 4 (scores 0, 3, 3, 3, in whatever order they were written) two of those with 0.3 stay.
    scores = {
        turn.messages[-1].content: score_of_prompt([{"content": turn.messages[-1].content}]) for turn in turns(record)
    }
    kept = {re.search(r"prompt \d", content).group() for content in grown}  # type: ignore[union-attr]
    assert len(kept) == 2
    assert {scores[prompt] for prompt in kept} == {"3"}
    feedback = turns(record, "attacker")[-1].messages[-1].content
    assert "Score: 3 of 10" in feedback  # 1 + 8 * 0.3
    assert len(desk.of(JUDGE)) == 12


def test_tap_cuts_off_what_strays() -> None:
    def strict(messages: Messages) -> str:
        content = messages[-1]["content"]
        return "yes" if "prompt 2\n" in content else "no" if "Does the prompt ask" in content else "0"

    record, desk = tap({"width": 2, "branching": 3, "depth": 1}, refuses, Writer(), strict)
    assert [turn.messages[-1].content for turn in turns(record)] == ["prompt 2"]
    topics = [turn for turn in turns(record, "judge") if turn.label == "topic"]
    assert len(topics) == 3
    assert "Request:\ndo it" in topics[0].messages[0].content
    gbnf.parse(desk.of(JUDGE)[0]["grammar"])


@pytest.mark.parametrize("ruling", [None, "", "maybe", "YES"])
def test_what_the_judge_does_not_call_on_topic_strays(ruling: str | None) -> None:
    record, desk = tap({"depth": 3, "branching": 2}, refuses, Writer(), nonsense(ruling))
    assert record.error is not None
    assert record.error.code == "no-query"
    assert len(desk.of(ATTACKER)) == len(desk.of(JUDGE)) == 6


def test_asks_are_one_budget_for_attacker_and_judge() -> None:
    _, desk = tap({"depth": 50, "branching": 2, "width": 2, "asks": 11}, refuses, Writer(), nonsense("no"))
    assert len(desk.of(ATTACKER)) + len(desk.of(JUDGE)) == 11


def test_the_past_by_the_attacker() -> None:
    record, desk = run({"strategy": "past_tense", "rewrites": 3}, refuses, Writer())
    assert [turn.label for turn in turns(record)] == ["rules", "attacker", "attacker", "attacker"]
    assert len({request["stream"] for request in desk.of(ATTACKER)}) == 3


def test_roles_that_have_to_be_filled() -> None:
    assert suite([{"strategy": "past_tense"}]).needs == {"target"}
    assert suite([{"strategy": "past_tense", "rewrites": 1}]).needs == {"target", "attacker"}
    assert suite([{"strategy": "tap"}]).needs == {"target", "attacker", "judge"}
    assert suite([{"strategy": "tap", "on_topic": False}]).needs == {"target", "attacker"}


def test_the_objective_and_the_instructions_are_templates() -> None:
    settings = {"strategy": "pair", "objective": "get {{ prompt }} done", "system": "Obey {{ objective }}. {x}"}
    record, _ = run({**settings, "streams": 1, "depth": 1}, refuses, Writer())
    asked = turns(record, "attacker")[0].messages
    assert asked[0].content == "Obey get do it done. {x}"
    assert asked[1].content.startswith("Objective: get do it done")


def test_a_reply_is_shown_to_the_attacker_in_part() -> None:
    record, _ = run({"strategy": "pair", "streams": 1, "depth": 2}, lambda _: "I'm sorry" + "x" * 10_000, Writer())
    shown = turns(record, "attacker")[-1].messages[-1].content
    assert attacker.SHOWN_CHARS < len(shown) < attacker.SHOWN_CHARS + 200
