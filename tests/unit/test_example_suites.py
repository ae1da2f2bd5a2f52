"""The example suites fit the published files, whole: every row becomes a task."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance import job
from appliance.evals import dataset, prompts
from appliance.evals.prompts import Selection
from appliance.evals.suite import Suite
from attest.digest import digest_of
from tests.conftest import ROOT

SUITES = ROOT / "examples" / "suites"
ROWS = {
    "advbench": 520,
    "anthropic-ai-risk": 8116,
    "anthropic-persona": 4000,
    "bbq": 9892,
    "gsm8k": 1319,
    "gsm8k-5shot": 1319,
    "harmbench": 400,
    "humaneval": 164,
    "ifeval": 541,
    "mmlu": 6475,
    "realtoxicityprompts": 700,
    "strongreject": 313,
    "strongreject-judged": 313,
    "truthfulqa-mc1": 817,
    "truthfulqa-mc2": 817,
    "xstest": 450,
}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_every_row_of_the_published_files_becomes_a_task(name: str, data: Path) -> None:
    suite = job.parse(Suite, (SUITES / f"{name}.yaml").read_bytes(), name)
    assert suite.name == name
    rows: list[dataset.Row] = []
    shots: list[dataset.Row] = []
    for part, file in suite.files.items():
        content = (data / "datasets" / file.path).read_bytes()
        assert digest_of(content) == file.digest
        (shots if ".shots." in part else rows).extend(dataset.read(content, file))
    assert len(rows) == ROWS[name]
    tasks = prompts.tasks(suite, rows, Selection(shots=shots))
    assert len(tasks) == ROWS[name] * suite.epochs
    assert all(task.messages[-1].content.strip() for task in tasks)
