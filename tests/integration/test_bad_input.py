"""Data sets and suites that a new user gets wrong, on the command line: exit code 30, and what is wrong where."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appliance.notary.lab import Lab
from attest.digest import digest_of

pytestmark = [pytest.mark.engine, pytest.mark.slow]
JOB = """
format: vitrine/job/v1
name: bad
models:
  - {id: organism, path: "resource:demo/organism-q8_0.gguf"}
suites:
  - {path: suite.yaml}
limits: {context_tokens: 256, memory_bytes: 1073741824}
"""
SUITE = """
format: vitrine/suite/v1
name: mine
description: A first suite.
dataset: {path: rows.csv, format: csv, digest: "DIGEST"}
columns: {id: "{{ id }}", target: "{{ answer }}"}
prompt: {user: "{{ question }}"}
scorers: [{scorer: exact}]
"""


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (b"id,question\n1,what?\n", "answer"),
        (b"id,question,answer\n1,what?,a\n1,who?,b\n", "id"),
        (b"id,question,answer\n", "row"),
        (b"", "column"),
        (b"id,question,answer\n1,wh\xffat?,a\n", "UTF-8"),
        (b"id,prompt,answer\n1,what?,a\n", "question"),
    ],
    ids=["missing-column", "duplicate-id", "no-rows", "empty-file", "not-utf-8", "unknown-field"],
)
def test_bad_rows_end_the_run_with_what_is_wrong(
    tmp_path: Path, lab: Lab, engine: Path, rows: bytes, said: str
) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "suite.yaml").write_text(SUITE.replace("DIGEST", digest_of(rows)))
    (tmp_path / "rows.csv").write_bytes(rows)
    command = [sys.executable, "-m", "appliance", "run", "job.yaml", "--lab", str(lab.path), "--engine", str(engine)]

    def start(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, timeout=300)

    dry = start("--dry-run")
    assert dry.returncode == 30, dry.stderr
    assert said in dry.stdout + dry.stderr
    done = start("--out", "bundle")
    told = done.stderr + "".join(path.read_text() for path in tmp_path.glob("*.incomplete/failure.txt"))
    assert done.returncode == 30, told
    assert "mine" in told or "rows.csv" in told
    assert said in told, told
    assert "Traceback" not in done.stderr
    # A dry run says the same, but for where the worker's own words are.
    assert dry.stderr.splitlines()[-1].partition(" and is ")[0] == done.stderr.splitlines()[-1].partition(" and is ")[0]
    assert not (tmp_path / "bundle").exists()
