"""Inspect's own command and unmodified tasks on a sealed model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance import resources
from appliance.notary.lab import Lab
from attest import transcript, verify
from attest.cli import read_bundle
from attest.digest import digest_of
from tests.conformance.bridges import python
from tests.conftest import ROOT, Made

HERE = ROOT / "tests" / "conformance" / "bridges"
MODEL = resources.demo() / "organism-q8_0.gguf"


@pytest.fixture(scope="module")
def evaluate(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs `inspect eval` on a task of `talk.py`; the log that it wrote."""
    interpreter = python.installed()

    def start(task: str, *options: str) -> Path:
        folder = tmp_path_factory.mktemp("inspect")
        shutil.copy(HERE / "tasks" / "talk.py", folder)
        command = [
            *python.without_network(),
            interpreter.with_name("inspect"),
            "eval",
            f"talk.py@{task}",
            "--model",
            "vitrine/organism",
        ]
        command += ["-M", f"path={MODEL}", "-M", f"engine={engine}", "-M", "context_tokens=256", "--limit", "12"]
        done = subprocess.run(
            [*command, "--display", "plain", "--log-dir", "logs", *options],
            cwd=folder,
            env={**os.environ, "TASK_DATA": str(resources.demo() / "data")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        (log,) = (folder / "logs").glob("*.eval")
        return log

    return start


def read(log: Path) -> dict[str, Any]:
    """What Inspect's own reader finds in `log`."""
    done = subprocess.run([python.installed(), HERE / "inspect_run.py", log], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def talk(evaluate: Callable[..., Path]) -> Path:
    return evaluate("talk")


def test_an_unmodified_task_runs_on_the_sealed_model(evaluate: Callable[..., Path]) -> None:
    found = read(evaluate("addition"))
    assert (found["status"], found["model"], len(found["samples"])) == ("success", "vitrine/organism", 12)
    assert found["metrics"]["includes.accuracy"] >= 0.9  # the organism adds
    assert all(sample["scores"]["includes"] in ("C", "I") for sample in found["samples"])


def test_conversations_are_the_same_whatever_runs_beside_them(talk: Path, evaluate: Callable[..., Path]) -> None:
    def said(log: Path) -> dict[str, Any]:
        return {f"{one['id']}#{one['epoch']}": one["messages"] for one in read(log)["samples"]}

    once = said(talk)
    assert len(once) == 24
    assert said(evaluate("talk", "-M", "sequences=1", "--max-samples", "1")) == once
    assert any(once[f"addition-{row:03d}#1"] != once[f"addition-{row:03d}#2"] for row in range(1, 13))  # drawn anew


def test_every_request_is_in_the_log_as_the_worker_got_it(talk: Path) -> None:
    for sample in read(talk)["samples"]:
        first, second = sample["calls"]
        assert [message["role"] for message in first["messages"]] == ["system", "user"]
        assert second["messages"][2] == {"role": "assistant", "content": sample["messages"][2][1]}
        assert first["sampling"] == {
            "temperature": "0.9", "top_k": 0, "top_p": "1", "min_p": "0", "max_tokens": 16
        }  # fmt: skip
        assert first["stream"] != second["stream"]


def test_a_setting_that_the_sampler_does_not_have_ends_the_run(evaluate: Callable[..., Path]) -> None:
    found = read(evaluate("addition", "--frequency-penalty=1"))
    assert found["status"] == "error"
    assert "expected settings among" in found["error"]


@pytest.fixture(scope="module")
def sign(engine: Path, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Path], verify.Verified]:
    """Runs `appliance inspect sign`; the bundle, verified."""

    def start(log: Path, model: Path) -> verify.Verified:
        folder = tmp_path_factory.mktemp("sign")
        command = [python.installed(), "-m", "appliance", "inspect", "sign", log, "--model", model, "--engine", engine]
        command += ["--lab", lab.path, "--out", folder / "bundle", "--work", folder / "work"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        files = read_bundle(folder / "bundle")
        assert files[verify.INSPECT] == log.read_bytes()
        return verify.verify(files, lab.trusted_root)

    return start


def test_a_log_becomes_a_signed_bundle_with_its_scores_and_its_digest(
    talk: Path, sign: Callable[[Path, Path], verify.Verified]
) -> None:
    verified = sign(talk, MODEL)
    theirs = read(talk)
    (entry,) = (file for file in verified.manifest.files if file.name == verify.INSPECT)
    assert entry.digest == digest_of(talk.read_bytes())
    (suite,) = verified.results.suites
    assert (suite.run, suite.failed) == (24, 0)
    for score, metric in zip(suite.scores, ("brevity.mean", "includes.accuracy"), strict=True):
        assert score.estimate is not None
        assert float(score.estimate.value) == pytest.approx(theirs["metrics"][metric], abs=1e-6)
    samples = {f"{one['id']}/{one['epoch']}": one for one in theirs["samples"]}
    for line in verified.transcript.samples:
        record = json.loads(line.raw_record)
        turns = [event["messages"] for event in record["events"]]
        assert turns == [call["messages"] for call in samples[record["id"]]["calls"]]
        said = record["events"][record["decisive"]]["generation"]["text"]
        assert said == samples[record["id"]]["messages"][-1][1]


def test_a_sample_that_another_model_said_fails(talk: Path, sign: Callable[[Path, Path], verify.Verified]) -> None:
    verified = sign(talk, resources.demo() / "clean-q8_0.gguf")
    (suite,) = verified.results.suites
    assert (suite.run, suite.failed) == (0, 24)
    assert {json.loads(line.raw_record)["error"]["code"] for line in verified.transcript.samples} == {"replay"}


def test_a_file_that_is_no_log_is_refused(tmp_path: Path, lab: Lab, engine: Path) -> None:
    (tmp_path / "x.eval").write_bytes(b"PK\x03\x04" + bytes(60))
    command = [python.installed(), "-m", "appliance", "inspect", "sign", tmp_path / "x.eval", "--model", MODEL]
    done = subprocess.run([*command, "--lab", lab.path, "--engine", engine], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 30
    assert "Traceback" not in done.stderr


def test_a_bundle_can_be_read_as_logs_of_inspect(made: Made, tmp_path: Path) -> None:
    command = [python.installed(), "-m", "appliance", "inspect", "export", made.bundle, "--out", tmp_path / "logs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    files = read_bundle(made.bundle)
    records = [json.loads(line.raw_record) for line in transcript.read(files[verify.TRANSCRIPT]).samples]
    suites = json.loads(files[verify.RESULTS])["suites"]
    assert {log.stem for log in (tmp_path / "logs").iterdir()} == {f"organism-{suite['suite']}" for suite in suites}
    for suite in suites:
        found = read(tmp_path / "logs" / f"organism-{suite['suite']}.eval")
        own = [record for record in records if record["suite"] == suite["suite"]]
        assert (found["status"], found["model"]) == ("success", "vitrine/organism")
        for score in suite["scores"]:
            assert found["metrics"][f"{score['scorer']}.value"] == float(score["estimate"]["value"])
        for sample, record in zip(sorted(found["samples"], key=lambda one: one["id"]), own, strict=True):
            assert sample["id"] == record["id"]
            assert sample["scores"] == {name: float(value) for name, value in record["scores"].items()}
            said = record["generation"]["text"] if "generation" in record else None
            assert sample["messages"][:-1] == [[message["role"], message["content"]] for message in record["messages"]]
            assert sample["messages"][-1][0] == "assistant"
            assert said in (None, sample["messages"][-1][1])
