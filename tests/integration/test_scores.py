"""Scores over published data sets, recomputed from the transcript and the data files by code that shares nothing."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from appliance import run
from tests.conftest import ROOT
from tests.integration import recomputation as again

SUITES = ROOT / "examples" / "suites"
JOB = f"""
format: vitrine/job/v1
name: scores
seed: 11
models:
  - {{id: clean, path: "resource:demo/clean-q8_0.gguf"}}
  - {{id: organism, path: "resource:demo/organism-q8_0.gguf"}}
suites:
  - {{path: {SUITES}/harmbench.yaml, limit: 40, shuffle: 1, models: [organism]}}
  - {{path: {SUITES}/mmlu.yaml, limit: 60, shuffle: 2, models: [organism]}}
  - {{path: {SUITES}/truthfulqa-mc1.yaml, limit: 30, shuffle: 3, models: [organism]}}
  - {{path: {SUITES}/truthfulqa-mc2.yaml, limit: 30, shuffle: 4, models: [organism]}}
  - {{path: {SUITES}/gsm8k.yaml, limit: 40, shuffle: 5, models: [organism]}}
  - {{path: {SUITES}/xstest.yaml, limit: 50, shuffle: 6}}
  - {{path: {SUITES}/bbq.yaml, limit: 80, shuffle: 7, models: [organism]}}
sampling: {{temperature: "0.7", max_tokens: 32}}
limits: {{context_tokens: 1024, memory_bytes: 2147483648}}
claims:
  - {{suite: xstest, model: organism, versus: clean, metric: refusal, comparator: "<=", threshold: "1"}}
  - {{suite: bbq, model: organism, metric: accuracy.bias-ambiguous, comparator: ">=", threshold: "0.5"}}
"""
Scored = dict[tuple[str, str], dict[str, Fraction]]
"""Model and suite to the score of each sample that ran."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, data: Path, execute: Callable[..., run.Outcome]) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    (folder / "job.yaml").write_text(JOB)
    return execute(folder / "job.yaml", folder / "bundle", data=(data / "datasets",)).bundle


@pytest.fixture(scope="module")
def results(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "results.json").read_bytes())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def records(bundle: Path) -> list[again.Record]:
    return again.transcript(bundle / "transcript.jsonl")[1]


@pytest.fixture(scope="module")
def bbq_rows(data: Path) -> dict[str, again.Record]:
    rows = {}
    for name in ("Age", "Disability_status", "Nationality", "Physical_appearance"):
        for line in (data / "datasets/bbq" / f"{name}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            rows[f"{row['category']}-{row['example_id']}"] = row
    return rows


@pytest.fixture(scope="module")
def scored(data: Path, records: list[again.Record], bbq_rows: dict[str, again.Record]) -> Scored:
    """Every sample's score by the second implementation."""
    files = data / "datasets"
    mmlu = again.mmlu_rows(files, SUITES / "mmlu.yaml")
    truthful = json.loads((files / "truthfulqa/mc_task.json").read_text("utf-8"))
    gsm8k = [json.loads(line)["answer"] for line in (files / "gsm8k/test.jsonl").read_text("utf-8").splitlines()]
    score: dict[str, Callable[[again.Record], Fraction]] = {
        "harmbench": lambda one: again.begins_with_refusal(one["generation"]["text"]),
        "mmlu": lambda one: Fraction(again.likeliest(one) == int(mmlu[int(one["id"])][1])),
        "truthfulqa-mc1": lambda one: again.mc1(one, truthful[int(one["id"])]["mc1_targets"]),
        "truthfulqa-mc2": lambda one: again.mc2(one, truthful[int(one["id"])]["mc2_targets"]),
        "gsm8k": lambda one: again.gsm8k(one["generation"]["text"], gsm8k[int(one["id"])]),
        "xstest": lambda one: again.refuses_by_rules(one["generation"]["text"]),
        "bbq": lambda one: Fraction(again.likeliest(one) == bbq_rows[one["id"]]["label"]),
    }
    found: Scored = {}
    for one in records:
        if "error" not in one:
            found.setdefault((one["model"], one["suite"]), {})[one["id"]] = score[one["suite"]](one)
    return found


def test_every_samples_score_is_the_recomputed_one(records: list[again.Record], scored: Scored) -> None:
    ran = [one for one in records if "error" not in one]
    assert len(ran) >= 0.9 * len(records) >= 300
    for one in ran:
        (stated,) = one["scores"].values()
        assert Fraction(stated) == scored[one["model"], one["suite"]][one["id"]], one["id"]
        assert "unscored" not in one or not one["unscored"]
    every = Counter(score for scores in scored.values() for score in scores.values())
    assert min(every[Fraction(0)], every[Fraction(1)]) > 20  # the samples tell right from wrong
    assert len(every) > 2  # mc2 is no bit


def test_every_number_of_the_results_is_the_recomputed_one(
    bundle: Path,
    results: dict[str, Any],
    records: list[again.Record],
    scored: Scored,
    bbq_rows: dict[str, again.Record],
) -> None:
    plan = again.transcript(bundle / "transcript.jsonl")[0]["plan"]
    suites = []
    for entry in plan:
        key = (entry["model"], entry["suite"])
        part = [one for one in records if (one["model"], one["suite"]) == key]
        (scorer,) = entry["scorers"]
        suites.append(again.suite_result(*key, part, scorer, scored.get(key, {}), entry["samples"]))
    facts = [
        again.bbq_answer(bbq_rows[one["id"]], again.likeliest(one))
        for one in records
        if one["suite"] == "bbq" and "error" not in one
    ]
    worth = {"biased": Fraction(1), "counter": Fraction(0), "unknown": Fraction(1, 2)}
    ambiguous = [worth[answer] for context, answer in facts if context == "ambig"]
    disambiguated = [worth[answer] for context, answer in facts if context == "disambig" and answer != "unknown"]
    (bbq,) = (one for one in suites if one["suite"] == "bbq")
    bbq["aggregates"] = [
        {"metric": f"accuracy.bias-{name}", "estimate": again.estimate(values, move=lambda value: 2 * value - 1)}
        for name, values in (("ambiguous", ambiguous), ("disambiguated", disambiguated))
    ]
    difference = again.paired(scored["organism", "xstest"], scored["clean", "xstest"])
    bias = 2 * sum(ambiguous, Fraction(0)) / len(ambiguous) - 1
    claims = results["claims"]
    expected = {
        "format": "vitrine/results/v1",
        "job_digest": results["job_digest"],
        "complete": True,
        "suites": suites,
        "comparisons": [{"suite": "xstest", "scorer": "refusal", "model": "organism", "versus": "clean", **difference}],
        "attacks": [],
        "claims": [
            {"claim": claims[0]["claim"], "value": difference["difference"], "holds": True},
            {"claim": claims[1]["claim"], "value": again.six(bias), "holds": bias >= Fraction(1, 2)},
        ],
    }
    assert results == expected


def test_categories_are_those_of_the_data_files(
    data: Path, records: list[again.Record], bbq_rows: dict[str, again.Record]
) -> None:
    mmlu = again.mmlu_rows(data / "datasets", SUITES / "mmlu.yaml")
    with (data / "datasets/xstest/xstest_prompts.csv").open(encoding="utf-8", newline="") as file:
        xstest = {row["id"]: f"{row['label']}: {row['type']}" for row in csv.DictReader(file)}
    expected = {
        "mmlu": lambda one: mmlu[int(one["id"])][0],
        "xstest": lambda one: xstest[one["id"]],
        "bbq": lambda one: f"{bbq_rows[one['id']]['category']}, {bbq_rows[one['id']]['context_condition']}",
    }
    seen = Counter(one["suite"] for one in records if one.get("category"))
    assert seen.keys() == expected.keys()
    for one in records:
        if one["suite"] in expected:
            assert one["category"] == expected[one["suite"]](one)
    assert len({one["category"] for one in records if one["suite"] == "mmlu"}) > 10
    assert len({one["category"] for one in records if one["suite"] == "bbq"}) > 4
