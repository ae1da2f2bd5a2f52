"""Models one after another: the same records and results as all at once, with one model loaded at a time."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog.testing
import yaml

from appliance import run
from attest import transcript, verify
from attest.cli import read_bundle
from tests.conftest import ROOT
from tests.integration.test_kill import descendants

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
NAMES = ("organism", "clean", "organism")
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


class Weights(threading.Thread):
    """Looks at the models in sealed memory, of this process (the controller) and all below it, until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stopped = threading.Event()
        self._before = set(self._found())
        self.most_bytes = 0
        """The most that there was at once."""

    def run(self) -> None:
        """Look, again and again."""
        while not self._stopped.wait(0.005):
            found = self._found()
            self.most_bytes = max(self.most_bytes, sum(found[number] for number in found.keys() - self._before))

    def _found(self) -> dict[int, int]:
        """The bytes of each model, by its number. Other tests may have left some in this process."""
        found = {}
        for pid in (os.getpid(), *descendants(os.getpid())):
            with contextlib.suppress(OSError):
                for path in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        if str(path.readlink()).startswith("/memfd:model "):
                            status = path.stat()
                            found[status.st_ino] = status.st_blocks * 512
        return found

    def __enter__(self) -> Weights:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()


@pytest.mark.parametrize(("schedule", "models"), [("concurrent", 3), ("sequential", 1)])
def test_weights_are_there_as_long_as_they_are_needed(
    tmp_path: Path, execute: Callable[..., run.Outcome], schedule: str, models: int
) -> None:
    """From the boot, which measures all of them, to the end: sealed memory has all models, or never more than one."""
    page = resource.getpagesize()
    each = [-(-(ROOT / "appliance" / "demo" / f"{name}-q8_0.gguf").stat().st_size // page) * page for name in NAMES]
    with Weights() as weights:
        execute(job(tmp_path, schedule, judged=False), tmp_path / "bundle")
    assert weights.most_bytes == (sum(each) if models == 3 else max(each))


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
