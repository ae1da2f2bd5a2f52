"""`--limit` and `--shuffle`: another job, never more rows than the job file says."""

from __future__ import annotations

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
