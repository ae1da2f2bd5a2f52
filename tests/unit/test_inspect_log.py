"""What Inspect's scores and names become."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bridges import imports, inspect_log
from attest.digest import digest_of
from attest.errors import VitrineError


@pytest.mark.parametrize(
    ("value", "score"),
    [
        ("C", "1"),
        ("I", "0"),
        ("P", "0.5"),
        ("N", "0"),
        ("yes", "1"),
        ("False", "0"),
        (True, "1"),
        (False, "0"),
        (0, "0"),
        (1, "1"),
        (0.25, "0.25"),
        (1 / 3, "0.333333333333"),
        ("0.75", "0.75"),
        ("1", "1"),
        (1.5, None),
        (-0.1, None),
        (7, None),
        ("2", None),
        ("", None),
        ("correct", None),
        (float("nan"), None),
        (float("inf"), None),
        (None, None),
        ([1], None),
        ({"a": 1}, None),
    ],
)
def test_a_score_is_read_as_inspect_reads_it_or_is_none(value: Any, score: str | None) -> None:
    assert inspect_log.score_of(value) == score


@given(st.text(max_size=100))
def test_every_name_becomes_one_of_ours(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?", imports.name_of(text))


def test_names_that_become_the_same_are_told_apart() -> None:
    assert inspect_log.unique(["a", "b", "a"]) == ["a-0", "b", "a-2"]


def logged(**changes: Any) -> SimpleNamespace:
    """A sample of a log with one request."""
    text = {"tokens": [1], "text": "75", "stop": "eos", "logprobs": ["-0.100000"], "logits_digest": digest_of(b"")}
    request = {"messages": [{"role": "user", "content": "q"}], "sampling": {}, "stream": "s", "seed": 3, "stop": []}
    call = SimpleNamespace(request=request | changes.pop("request", {}), response={"generation": text})
    output = SimpleNamespace(completion="75")
    fields = {"event": "model", "error": None, "cache": None, "call": call, "model": "vitrine/x", "output": output}
    event = SimpleNamespace(**{**fields, **changes.pop("event", {})})
    sample = {"id": 1, "epoch": 2, "error": None, "events": [event], "input": "q", "output": output, "scores": {}}
    return SimpleNamespace(**{**sample, **changes})


def test_a_sample_becomes_a_row() -> None:
    seeds: set[int] = set()
    row = inspect_log.row(logged(scores={"match": SimpleNamespace(value="C"), "odd": SimpleNamespace(value=7)}), seeds)
    assert (row["id"], row["input"], seeds) == ("1/2", "q", {3})
    assert row["replay"]["scores"] == {"match": "1"}
    assert list(row["replay"]["unscored"]) == ["odd"]
    assert row["replay"]["turns"][0]["generation"]["text"] == "75"


@pytest.mark.parametrize(
    "changes",
    [
        {"error": "failed"},
        {"events": []},
        {"event": {"cache": "read"}},
        {"event": {"call": None}},
        {"event": {"model": "openai/x"}},
        {"event": {"call": SimpleNamespace(request={"seed": 1}, response=None)}},
        {"request": {"seed": None}},
        {"request": {"seed": [1]}},
        {"request": {"seed": True}},
        {"request": {"messages": []}},
        {"request": {"messages": "x"}},
        {"request": {"sampling": {"temperature": 0.5}}},
        {"request": {"stream": None}},
    ],
)
def test_a_sample_that_cannot_be_asked_again_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(VitrineError):
        inspect_log.row(logged(**changes), set())
