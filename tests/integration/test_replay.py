"""What was recorded is asked again, sealed; a log that came with it lies in the bundle, if the manifest says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance import run
from attest import transcript, verify
from attest.cli import read_bundle
from attest.digest import digest_of
from attest.errors import VerificationError
from tests.conftest import SMALL_JOB, Made

SUITE = {
    "format": "vitrine/suite/v1",
    "name": "replayed",
    "columns": {"id": "{{ id }}"},
    "prompt": {"user": "{{ id }}"},
    "solver": "replay",
    "scorers": [{"scorer": "recorded", "name": "theirs", "of": "Their Scorer"}],
}


def rows(made: Made) -> list[dict[str, Any]]:
    """The completions of the small job, as somebody might have recorded them."""
    sampling = yaml.safe_load(SMALL_JOB)["sampling"]
    lines = transcript.read((made.bundle / verify.TRANSCRIPT).read_bytes()).samples
    records = [json.loads(line.raw_record) for line in lines]
    return [
        {
            "id": f"{record['suite']}/{record['id']}",
            "replay": {
                "turns": [
                    {
                        "messages": record["messages"],
                        "sampling": sampling,
                        "stream": f"{record['suite']}/{record['id']}",
                        "generation": record["generation"],
                    }
                ],
                "decisive": 0,
                "scores": {"Their Scorer": "0.25"},
            },
        }
        for record in records
        if "generation" in record
    ]


def job(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A job that replays `rows`."""
    folder.mkdir()
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "rows.jsonl").write_bytes(data)
    dataset = {"path": "rows.jsonl", "digest": digest_of(data), "format": "jsonl"}
    (folder / "suite.yaml").write_text(yaml.safe_dump({**SUITE, "dataset": dataset}))
    small = yaml.safe_load(SMALL_JOB)
    small |= {"name": "replay", "suites": [{"path": "suite.yaml"}], "claims": [], "sampling": {"max_tokens": 3}}
    (folder / "job.yaml").write_text(yaml.safe_dump(small))
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def replayed(
    made: Made, tmp_path_factory: pytest.TempPathFactory, execute: Callable[..., run.Outcome]
) -> dict[str, bytes]:
    """The files of a bundle of a replay; in the last two rows a digit of a log-probability and a score are missing."""
    folder, recorded = tmp_path_factory.mktemp("replay"), rows(made)
    generation = recorded[-1]["replay"]["turns"][0]["generation"]
    generation["logprobs"] = ["-9.000000", *generation["logprobs"][1:]]
    recorded[-2]["replay"]["scores"] = {}
    outcome = execute(job(folder / "job", recorded), folder / "bundle", inspect_log=b"a log")
    return read_bundle(outcome.bundle)


def test_a_replay_is_scored_as_recorded_and_one_that_differs_fails(made: Made, replayed: dict[str, bytes]) -> None:
    verified = verify.verify(replayed, made.lab.trusted_root)
    *same, unscored, other = [json.loads(line.raw_record) for line in verified.transcript.samples]
    assert len(same) >= 3
    assert {json.dumps(record["scores"]) for record in same} == {'{"theirs": "0.25"}'}
    assert unscored["unscored"] == {"theirs": "the harness gave no score"}
    assert other["error"]["code"] == "replay"
    (suite,) = verified.results.suites
    assert (suite.run, suite.failed, suite.scores[0].unscored) == (len(same) + 1, 1, 1)
    assert suite.scores[0].estimate is not None
    assert suite.scores[0].estimate.value == "0.250000"


def test_the_log_is_in_the_manifest_and_cannot_be_taken_away_changed_or_added(
    made: Made, replayed: dict[str, bytes]
) -> None:
    verified = verify.verify(replayed, made.lab.trusted_root)
    manifest = verified.manifest
    assert any("Inspect gave them" in line for line in verified.not_proven)
    assert {file.name: file.digest for file in manifest.files}[verify.INSPECT] == digest_of(b"a log")
    without = {name: data for name, data in replayed.items() if name != verify.INSPECT}
    plain = read_bundle(made.bundle)
    for files in (without, replayed | {verify.INSPECT: b"another"}, plain | {verify.INSPECT: b"a log"}):
        with pytest.raises(VerificationError, match="files/"):
            verify.verify(files, made.lab.trusted_root)
