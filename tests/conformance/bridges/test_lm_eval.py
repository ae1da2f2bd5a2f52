"""lm-eval's own evaluator and unmodified tasks on a sealed model, and the same rows in a job of ours."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance import resources, run
from appliance.bridges import imports
from attest import transcript
from tests.conformance.bridges import python
from tests.conftest import ROOT

HERE = ROOT / "tests" / "conformance" / "bridges"
JOB = """
format: vitrine/job/v1
name: facts
models: [{id: organism, path: "resource:demo/organism-q8_0.gguf"}]
suites: [{path: suite.yaml}]
limits: {context_tokens: 256, memory_bytes: 1073741824}
"""


@pytest.fixture(scope="module")
def evaluate(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """Runs the tasks of lm-eval, with so many requests side by side; what it reports."""
    interpreter = python.installed()
    folder = tmp_path_factory.mktemp("tasks")
    for task in (HERE / "tasks").glob("*.yaml"):
        (folder / task.name).write_text(task.read_text().replace("DATA", str(resources.demo() / "data")))

    def start(sequences: int) -> dict[str, Any]:
        model = resources.demo() / "organism-q8_0.gguf"
        done = subprocess.run(
            [*python.without_network(), interpreter, HERE / "lm_eval_run.py", model, engine, folder, str(sequences)],
            env={**os.environ, "HF_HOME": str(folder / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]

    return start


@pytest.fixture(scope="module")
def report(evaluate: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    return evaluate(8)


def test_multiple_choice_scores_are_those_of_our_suite_to_the_last_digit(
    report: dict[str, Any], tmp_path: Path, execute: Callable[..., run.Outcome]
) -> None:
    task = (HERE / "tasks" / "facts.yaml").read_text().replace("DATA", str(resources.demo() / "data"))
    (tmp_path / "facts.yaml").write_text(task)
    suite = tmp_path / "suite.yaml"
    suite.write_bytes(imports.make("lm-eval", tmp_path / "facts.yaml", suite))
    (tmp_path / "job.yaml").write_text(JOB)
    outcome = execute(tmp_path / "job.yaml", tmp_path / "bundle")

    records = [line.record for line in transcript.read((outcome.bundle / "transcript.jsonl").read_bytes()).samples]
    theirs = sorted(report["samples"]["facts"])
    assert len(records) == len(theirs) == 60
    for record, (number, replies, scores) in zip(records, theirs, strict=True):
        assert record["index"] == number
        assert [float(choice["logprob"]) for choice in record["choices"]] == [reply[0][0] for reply in replies]
        assert {name: float(score) for name, score in record["scores"].items()} == scores
    means = report["results"]["facts"]
    for score in outcome.results.suites[0].scores:
        assert score.estimate is not None
        assert score.estimate.value == f"{means[f'{score.scorer},none']:.6f}"
        assert score.estimate.stderr == f"{means[f'{score.scorer}_stderr,none']:.6f}"
    acc, acc_norm = ([row[2][name] for row in theirs] for name in ("acc", "acc_norm"))
    assert acc != acc_norm  # the division by length decides somewhere
    assert 0 < sum(acc) < 60


def test_replies_are_the_same_whatever_is_asked_beside_them(
    report: dict[str, Any], evaluate: Callable[[int], dict[str, Any]]
) -> None:
    assert evaluate(1)["samples"] == report["samples"]


def test_an_option_that_is_the_likeliest_token_by_token_is_called_greedy(report: dict[str, Any]) -> None:
    greedy = [reply[0][1] for _, replies, _ in report["samples"]["facts"] for reply in replies]
    assert set(greedy) <= {True, False}
    assert all(sum(reply[0][1] for reply in replies) <= 1 for _, replies, _ in report["samples"]["facts"])


def test_completions_end_at_their_stop_strings_and_repeats_are_drawn_anew(report: dict[str, Any]) -> None:
    replies = [texts for _, (texts,), _ in report["samples"]["addition"]]
    assert all("\n" not in text and "." not in text for texts in replies for text in texts)
    assert any(first != second for first, second in replies)


def test_whole_texts_have_a_likelihood(report: dict[str, Any]) -> None:
    values = [reply[0] for _, (reply,), _ in report["samples"]["texts"]]
    assert len(values) == 60
    assert all(value < 0 for value in values)
    assert report["results"]["texts"]["bits_per_byte,none"] > 0


def test_texts_longer_than_the_context_are_scored_in_lm_evals_windows(report: dict[str, Any]) -> None:
    """Their values are checked against lm-eval's calculation in tests/integration/test_rolling.py."""
    assert report["windows"] == 5 * 59
    short = {number: reply[0] for number, (reply,), _ in report["samples"]["texts"]}
    values = {number: reply[0] for number, (reply,), _ in report["samples"]["long-texts"]}
    assert values.keys() == short.keys()
    assert all(values[number] < short[number] for number in short)
