"""`--limit` and `--shuffle`: another job, never more rows than the job file says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appliance import job as jobs
from appliance.job import Rows
from attest.job import digest

JOB = """
format: vitrine/job/v1
name: rows
models:
  - {id: m, path: m.gguf}
suites:
  - {path: a.yaml}
  - {path: b.yaml, limit: 3, shuffle: 1}
"""


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (Rows(), [(None, None), (3, 1)]),
        (Rows(limit=5), [(5, None), (3, 1)]),
        (Rows(limit=2), [(2, None), (2, 1)]),
        (Rows(shuffle=0), [(None, 0), (3, 0)]),
        (Rows(limit=1, shuffle=9), [(1, 9), (1, 9)]),
    ],
)
def test_the_operator_takes_a_part_of_every_suite(
    tmp_path: Path, rows: Rows, expected: list[tuple[int | None, int | None]]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    found = jobs.load(path, rows).job
    assert [(entry.limit, entry.shuffle) for entry in found.suites] == expected
    assert (digest(found) == digest(jobs.load(path).job)) == (rows == Rows())


@pytest.mark.parametrize(
    "name", ["m.gguf", "1e5", "null", "a\u0085b\u2028c\x7f.gguf", "\U0001f600 'x' \\ \"y\": {z}", "x" * 400]
)
def test_job_that_is_written_is_read_as_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    rows = jobs.load(path, Rows(limit=2, shuffle=9)).job
    models = (rows.models[0].model_copy(update={"path": name}),)
    wanted = rows.model_copy(update={"models": models, "nonce": "12345678901234e5"})
    path.write_bytes(jobs.dump(wanted))
    assert jobs.load(path).job == wanted


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--resume", "x"], 2, ".incomplete"),
        (["--resume", "x.incomplete", "--out", "x"], 2, "--out"),
        (["--resume", "x.incomplete", "--wall", "vm"], 20, "keeps nothing for the next one"),
        (["--resume", "x.incomplete", "--attester", "auto"], 20, "draws all of its samples itself"),
        (["--limit", "0"], 2, "limit"),
        (["--shuffle", "-1"], 2, "shuffle"),
        (["--vcek", "vcek.pem"], 2, "--attester"),
        (["--key-certificate", "key.json", "--attester", ""], 2, "--attester"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_made(
    tmp_path: Path, options: list[str], status: int, said: str
) -> None:
    command = [sys.executable, "-m", "appliance", "run", "--lab", str(tmp_path / "lab"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120)
    assert (done.returncode, list(tmp_path.iterdir())) == (status, [])
    assert said in done.stderr
