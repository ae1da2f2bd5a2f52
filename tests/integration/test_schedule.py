"""Models one after another: the same records and results as all at once, with one model loaded at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog.testing
import yaml

from appliance import run
from attest import transcript, verify
from attest.cli import read_bundle
from tests.conftest import ROOT

pytestmark = [pytest.mark.engine, pytest.mark.slow]
JOB = """
format: vitrine/job/v1
name: scheduled
schedule: SCHEDULE
models:
  - {id: organism, path: "resource:demo/organism-q8_0.gguf"}
  - {id: clean, path: "resource:demo/clean-q8_0.gguf"}
  - {id: again, path: "resource:demo/organism-q8_0.gguf"}
suites:
  - {path: "resource:demo/suites/addition.yaml", limit: 4, models: [organism, clean]}
  - {path: "resource:demo/suites/facts.yaml", limit: 3, models: [organism, clean]}
  - {path: judged.yaml, limit: 3, models: [clean], judge: organism}
sampling: {temperature: "0.8", max_tokens: 24}
limits: {context_tokens: 256, memory_bytes: 1073741824}
numerics: {sequences: 2}
"""
JUDGE = {"scorer": "judge", "name": "refused", "user": "Rude? {{ reply }}", "verdicts": {"yes": "1", "no": "0"}}


def job(folder: Path, schedule: str, judged: bool) -> Path:
    """A job on three models; `again` has no suite, and `judged` keeps organism beside clean."""
    suite = yaml.safe_load((ROOT / "appliance" / "demo" / "suites" / "chat.yaml").read_text())
    suite |= {"name": "judged", "scorers": [JUDGE]}
    suite["dataset"]["path"] = str(ROOT / "appliance" / "demo" / "suites" / suite["dataset"]["path"])
    (folder / "judged.yaml").write_text(yaml.safe_dump(suite))
    lines = JOB.replace("SCHEDULE", schedule).splitlines(keepends=True)
    path = folder / f"{schedule}-{judged}.yaml"
    path.write_text("".join(line for line in lines if judged or "judged" not in line))
    return path


@pytest.mark.parametrize("judged", [False, True])
def test_both_schedules_give_the_same(tmp_path: Path, execute: Callable[..., run.Outcome], judged: bool) -> None:
    at_once = execute(job(tmp_path, "concurrent", judged), tmp_path / "at-once").bundle
    with structlog.testing.capture_logs() as events:
        in_turn = execute(job(tmp_path, "sequential", judged), tmp_path / "in-turn").bundle
    results = [json.loads((bundle / "results.json").read_bytes()) for bundle in (at_once, in_turn)]
    assert results[0].pop("job_digest") != results[1].pop("job_digest")
    assert results[0] == results[1]
    samples = [
        [line.raw_record for line in transcript.read((bundle / "transcript.jsonl").read_bytes()).samples]
        for bundle in (at_once, in_turn)
    ]
    assert samples[0] == samples[1]
    trust = (in_turn / "trust" / "trusted_root.json").read_bytes()
    verified = verify.verify(read_bundle(in_turn), trust)
    assert [report.model for report in verified.manifest.determinism] == ["organism", "clean", "again"]
    told = [
        f"{event['event']} {event['worker'].removeprefix('model.')}"
        for event in events
        if event["event"] in ("sealed", "released") and event["worker"] != "eval"
    ]
    # The judge stays beside the model that it grades; otherwise each has gone when the next one comes.
    both = ["sealed organism", "sealed clean", "released organism", "released clean"]
    alone = ["sealed organism", "released organism", "sealed clean", "released clean"]
    assert told == [*(both if judged else alone), "sealed again", "released again"]
