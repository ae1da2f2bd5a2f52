"""Attacks: what a strategy may ask, what counts, what is recorded, and that one sample's attack is its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.evals.dice import Dice
from appliance.evals.suite import Suite
from attest.errors import MalformedInput
from attest.sample import SampleRecord, Turn
from tests.fakes import models
from tests.fakes.models import Desk

WRAPPERS = [f"{word}: {{{{ request }}}}" for word in ("please", "story", "magic", "base")]
ROWS = [{"id": "a", "prompt": "do it"}, {"id": "b", "prompt": "do that"}]


def suite(strategies: list[dict[str, Any]], **more: Any) -> Suite:
    attack = {"strategies": strategies, "success": models.SUCCESS, "queries": 3, **more}
    return models.suite(strategies, columns={"id": "{{ id }}"}, attack=attack)


def attacked(
    strategies: list[dict[str, Any]], reply: Callable[[str], str | None], seed: int = 0, **more: Any
) -> tuple[list[SampleRecord], Desk]:
    """Of a target that is a function of the last message."""
    return models.ran(suite(strategies, **more), lambda messages: reply(messages[-1]["content"]), rows=ROWS, seed=seed)


def only_magic(content: str) -> str:
    return "Here you are." if content.startswith("magic") else "I'm sorry, no."


BOTH: list[dict[str, Any]] = [{"strategy": "direct"}, {"strategy": "wrappers", "wrappers": WRAPPERS, "queries": 4}]


def test_each_row_is_attacked_by_each_strategy() -> None:
    records, _ = attacked(BOTH, only_magic)
    assert [(record.index, record.id, record.category) for record in records] == [
        (0, "a@direct", "direct"),
        (1, "a@wrappers", "wrappers"),
        (2, "b@direct", "direct"),
        (3, "b@wrappers", "wrappers"),
    ]


def test_the_turn_that_succeeded_counts_and_ends_the_attack() -> None:
    records, _ = attacked(BOTH, only_magic)
    for record in records[1::2]:
        assert record.attack is not None
        assert record.decisive is not None
        turn = record.events[record.decisive]
        assert isinstance(turn, Turn)
        assert turn.messages[-1].content.startswith("magic: do ")
        assert turn.messages[0].content == "Be good."
        assert record.scores == {"refusal": "0"}
        assert record.attack.first_success == record.attack.queries == len(record.events) == record.decisive + 1
        assert (record.generation, record.error) == (None, None)


def test_without_success_the_budget_is_spent_and_the_first_of_the_best_counts() -> None:
    records, desk = attacked(BOTH[1:], lambda _: "I'm sorry, no.", queries=2)
    assert [len(record.events) for record in records] == [4, 4]
    assert {record.attack.first_success for record in records if record.attack} == {None}
    assert [record.decisive for record in records] == [0, 0]
    assert [record.scores for record in records] == [{"refusal": "1"}] * 2
    assert len(desk.asked) == 8
    assert len(attacked([{**BOTH[1], "queries": 3}], lambda _: "I'm sorry, no.")[1].asked) == 6


def test_a_query_without_an_answer_counts_and_the_attack_goes_on() -> None:
    records, _ = attacked(BOTH[1:], lambda content: None if not content.startswith("magic") else "Sure.")
    for record in records:
        assert record.attack is not None
        assert record.attack.first_success == len(record.events)
        assert all(event.error is not None for event in record.events[:-1] if isinstance(event, Turn))


def test_an_attack_without_any_answer_has_failed() -> None:
    records, _ = attacked(BOTH, lambda _: None)
    assert [record.error.code for record in records if record.error] == ["deadline"] * 4
    assert [record.scores for record in records] == [{}] * 4
    assert records[1].attack is not None
    assert records[1].attack.queries == 4


def test_a_wrapper_that_names_an_unknown_column_fails_the_sample_alone() -> None:
    broken = {"strategy": "wrappers", "name": "broken", "wrappers": ["{{ nobody }}"]}
    records, _ = attacked([*BOTH, broken], only_magic)
    assert [record.error is None for record in records] == [True, True, False] * 2
    assert records[2].error is not None
    assert "nobody" in records[2].error.message


def test_the_order_follows_from_seed_and_sample_and_from_nothing_else() -> None:
    def orders(seed: int, strategies: list[dict[str, Any]]) -> dict[str, list[str]]:
        records, _ = attacked(strategies, lambda _: "I'm sorry, no.", seed)
        return {record.id: [event.label for event in record.events if isinstance(event, Turn)] for record in records}

    both = orders(0, BOTH)
    assert both == orders(0, BOTH)
    assert orders(0, BOTH[1:]).items() <= both.items()
    assert len({tuple(orders(seed, BOTH)["a@wrappers"]) for seed in range(20)}) > 5


@pytest.mark.parametrize(
    ("strategies", "more", "problem"),
    [
        ([], {}, "strategies"),
        ([{"strategy": "nobody"}], {}, "nobody"),
        ([{"strategy": "direct"}] * 2, {}, "unique"),
        ([{"strategy": "direct", "queries": 0}], {}, "queries"),
        ([{"strategy": "wrappers", "wrappers": []}], {}, "wrappers"),
        (BOTH, {"success": {"scorer": "exact", "comparator": "==", "threshold": "1"}}, "which the suite has not"),
        (BOTH, {"queries": 1001}, "queries"),
    ],
)
def test_what_does_not_fit_together(strategies: list[dict[str, Any]], more: dict[str, Any], problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        suite(strategies, **more)


@given(st.integers(0, 2**53 - 1), st.text(max_size=20), st.integers(1, 50))
def test_dice_are_a_function_of_seed_and_name(seed: int, name: str, count: int) -> None:
    first, second = Dice(seed, name), Dice(seed, name)
    drawn = first.shuffled(range(count))
    assert drawn == second.shuffled(range(count))
    assert sorted(drawn) == list(range(count))
    assert len(set(second.some(range(count), 5))) == min(count, 5)
    first.some(range(count), 5)
    assert 0 <= first.below(count) < count
    assert first.pick([name]) == name


def test_dice_are_fair() -> None:
    dice = Dice(1, "fair")
    counts = [0] * 6
    for _ in range(6000):
        counts[dice.below(6)] += 1
    assert all(850 < count < 1150 for count in counts)
