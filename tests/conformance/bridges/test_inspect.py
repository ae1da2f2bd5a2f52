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
from tests.conformance.bridges import python
from tests.conftest import ROOT

HERE = ROOT / "tests" / "conformance" / "bridges"
MODEL = resources.demo() / "organism-q8_0.gguf"


@pytest.fixture(scope="module")
def evaluate(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs `inspect eval` on a task of `talk.py`; the log that it wrote."""
    interpreter = python.installed()

    def start(task: str, *options: str) -> Path:
        folder = tmp_path_factory.mktemp("inspect")
        shutil.copy(HERE / "tasks" / "talk.py", folder)
        command = [interpreter.with_name("inspect"), "eval", f"talk.py@{task}", "--model", "vitrine/organism"]
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
    assert found["metrics"]["match.accuracy"] >= 0.9  # the organism adds
    assert all(sample["scores"]["match"] in ("C", "I") for sample in found["samples"])


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
