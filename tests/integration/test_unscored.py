"""On the command line: a judge that answers nonsense and an agent beyond its budget leave samples unscored, no zero.

The run goes on to its end, beside a suite that is scored, and the bundle says how many samples have no score and why.
While it runs, progress stays within its bounds, though nobody knows beforehand how often a model will be asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.notary.lab import Lab
from tests.conftest import ROOT
from tests.integration import recomputation as again

pytestmark = [pytest.mark.engine, pytest.mark.slow]
DEMO = ROOT / "appliance" / "demo"
JOB = """
format: vitrine/job/v1
name: unscored
models:
  - {id: organism, path: "resource:demo/organism-q8_0.gguf"}
  - {id: clean, path: "resource:demo/clean-q8_0.gguf"}
suites:
  - {path: judged.yaml, limit: 5, models: [organism], judge: clean}
  - {path: agent.yaml, limit: 5, models: [organism]}
  - {path: attack.yaml, limit: 3, models: [organism]}
  - {path: "resource:demo/suites/addition.yaml", limit: 5, models: [organism]}
sampling: {max_tokens: 24}
limits: {context_tokens: 96, memory_bytes: 1073741824}
"""
VERDICTS = {"the reply is as good as a reply of its kind can be": "1", "the reply is worse than that": "0"}
BAR = re.compile(r"samples\s+\S*\s+(\d+)/(\d+)\s+(?:[\d.]+/s)?\s*(-:--:--|\d+:\d\d:\d\d)")


def suites() -> dict[str, dict[str, Any]]:
    addition = yaml.safe_load((DEMO / "suites" / "addition.yaml").read_text())
    addition["dataset"]["path"] = str(DEMO / "data" / "addition.jsonl")
    # The context has room for the first words of a verdict.
    judge = {"scorer": "judge", "name": "good", "user": "{{ reply[:0] }}" + "Judge this. " * 14, "verdicts": VERDICTS}
    agent = yaml.safe_load((ROOT / "examples" / "suites" / "agent-calculator.yaml").read_text())
    agent["dataset"]["path"] = str(DEMO / "data" / "tools.jsonl")
    attack = yaml.safe_load((ROOT / "examples" / "suites" / "redteam-jailbreak.yaml").read_text())
    attack["dataset"]["path"] = str(DEMO / "data" / "forbidden.jsonl")
    return {
        "judged": {**addition, "name": "judged", "scorers": [judge]},
        "agent": {**agent, "agent": {**agent["agent"], "turns": 1}},
        "attack": attack,
    }


class Done:
    """A run of the job on the command line, its standard error a terminal."""

    def __init__(self, folder: Path, lab: Lab, engine: Path) -> None:
        (folder / "job.yaml").write_text(JOB)
        for name, suite in suites().items():
            (folder / f"{name}.yaml").write_text(json.dumps(suite))
        master, slave = os.openpty()
        command = [sys.executable, "-m", "appliance", "run", "job.yaml", "--lab", str(lab.path), "--out", "bundle"]
        process = subprocess.Popen(
            [*command, "--engine", str(engine)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=slave,
            cwd=folder,
            env={**os.environ, "COLUMNS": "160", "TERM": "xterm"},
        )
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(master, 1 << 16):
                shown += data
        os.close(master)
        process.communicate(timeout=300)
        self.status, self.bundle = process.returncode, folder / "bundle"
        self.shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, lab: Lab, engine: Path) -> Done:
    return Done(tmp_path_factory.mktemp("unscored"), lab, engine)


@pytest.mark.parametrize(
    ("suite", "scorer", "reason"),
    [
        ("judged", "good", r"expected one of \['the reply is as good .*'\], found '\"?[a-z ]{1,40}'"),
        ("agent-calculator", "accuracy", r"the agent came to no answer in its 1 turns"),
    ],
)
def test_a_sample_without_a_score_says_why(done: Done, suite: str, scorer: str, reason: str) -> None:
    assert done.status == 0, done.shown
    records = [one for one in again.transcript(done.bundle / "transcript.jsonl")[1] if one["suite"] == suite]
    assert len(records) == 5
    for record in records:
        assert record["scores"] == {}
        assert re.fullmatch(reason, record["unscored"][scorer]), record["unscored"]
    results = json.loads((done.bundle / "results.json").read_bytes())
    (found,) = (one for one in results["suites"] if one["suite"] == suite)
    assert (found["planned"], found["run"], found["failed"]) == (5, 5, 0)
    assert found["scores"] == [{"scorer": scorer, "unscored": 5}]  # and no estimate, of zero or otherwise


def test_the_other_suites_have_their_scores_and_the_bundle_verifies(done: Done, lab: Lab) -> None:
    results = json.loads((done.bundle / "results.json").read_bytes())
    (addition,) = (one for one in results["suites"] if one["suite"] == "addition")
    assert addition["scores"][0]["unscored"] == 0
    assert float(addition["scores"][0]["estimate"]["value"]) > 0
    trust = ["--trust", str(lab.path / "public" / "trusted_root.json")]
    command = [sys.executable, "-m", "attest", "verify", str(done.bundle), *trust]
    verdict = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_progress_goes_forward_and_stays_within_the_plan(done: Done) -> None:
    seen = [(int(at), int(of), left) for at, of, left in BAR.findall(done.shown)]
    total = len(again.transcript(done.bundle / "transcript.jsonl")[1])
    assert len({at for at, _, _ in seen}) > 3, done.shown
    assert {of for _, of, _ in seen} == {total}
    assert [at for at, _, _ in seen] == sorted(at for at, _, _ in seen)
    assert all(0 <= at <= total for at, _, _ in seen)
