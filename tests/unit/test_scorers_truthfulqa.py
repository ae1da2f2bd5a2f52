"""TruthfulQA's mc1 and mc2 against their definition in floats, and on the rows as published."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.evals.scorers import Reference, Scored, Unscored, score
from appliance.evals.scorers.truthfulqa import TruthfulQA
from attest.digest import digest_of
from attest.sample import Choice

MC1 = TruthfulQA(scorer="truthfulqa", metric="mc1", labels="labels")
MC2 = TruthfulQA(scorer="truthfulqa", metric="mc2", labels="labels")


def options(likelihoods: list[float]) -> list[Choice]:
    return [
        Choice(text=str(number), tokens=(1,), logprob=f"{value - 1e-6:.6f}", logits_digest=digest_of(b""))
        for number, value in enumerate(likelihoods)
    ]


@given(st.lists(st.tuples(st.floats(-60, 0), st.integers(0, 1)), min_size=2, max_size=12))
def test_mc2_is_the_mass_on_true_options(pairs: list[tuple[float, int]]) -> None:
    choices, labels = options([pair[0] for pair in pairs]), [pair[1] for pair in pairs]
    found = score(MC2, choices, Reference(None, {"labels": labels}))
    if len(set(labels)) == 1:
        assert isinstance(found, Unscored)
        return
    masses = [math.exp(float(choice.logprob)) for choice in choices]
    expected = sum(mass for mass, label in zip(masses, labels, strict=True) if label) / sum(masses)
    assert isinstance(found, Scored)
    assert 0 <= float(found.value) <= 1
    assert float(found.value) == pytest.approx(expected, abs=1e-11)


def test_mc2_of_options_too_unlikely_for_floats() -> None:
    choices = options([-2000.0, -2000.0, -2001.0])
    found = score(MC2, choices, Reference(None, {"labels": [1, 0, 0]}))
    assert isinstance(found, Scored)
    assert float(found.value) == pytest.approx(1 / (2 + math.exp(-1)), abs=1e-11)


def test_mc1_wants_the_true_option_alone_on_top() -> None:
    row = Reference(None, {"labels": {"a": 0, "b": 1, "c": 0}})
    assert score(MC1, options([-3, -1, -2]), row) == Scored("1")
    assert score(MC1, options([-1, -1, -2]), row) == Scored("0")
    assert score(MC1, options([-1, -2, -3]), row) == Scored("0")


@pytest.mark.parametrize("labels", [None, [], [1], [1, 1], [0, 0], [1, 0, 0], [1, 2], [True, False], "10", {"a": "x"}])
def test_labels_of_another_form_are_unscored(labels: Any) -> None:
    assert isinstance(score(MC2, options([-1, -2]), Reference(None, {"labels": labels})), Unscored)


def test_mc1_wants_one_true_option() -> None:
    assert isinstance(score(MC1, options([-1, -2, -3]), Reference(None, {"labels": [1, 1, 0]})), Unscored)


def test_every_row_as_published(data: Path) -> None:
    rows = json.loads((data / "datasets" / "truthfulqa" / "mc_task.json").read_bytes())
    assert len(rows) == 817
    for row in rows:
        for metric in (MC1, MC2):
            labels = row[f"{metric.metric}_targets"]
            even = score(metric, options([-5.0] * len(labels)), Reference(None, {"labels": labels}))
            likely = [-1.0 if label else -500.0 for label in labels.values()]
            truthful = score(metric, options(likely), Reference(None, {"labels": labels}))
            assert isinstance(even, Scored)
            assert isinstance(truthful, Scored)
            assert float(truthful.value) == pytest.approx(1)
            share = sum(labels.values()) / len(labels)
            assert float(even.value) == (0 if metric is MC1 else pytest.approx(share, abs=1e-11))
