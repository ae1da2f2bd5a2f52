"""A model of several files on the real engine: the same bits as the model in one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance import resources, run
from attest import transcript, verify
from attest.cli import read_bundle
from attest.errors import MalformedInput, VerificationError
from tests.conftest import SMALL_JOB, Made
from tests.tools.gguf_split import even, save, split

MODEL = "resource:demo/organism-q8_0.gguf"


def job_of(folder: Path, count: int) -> tuple[Path, list[Path]]:
    """The small job on the organism in `count` shards, and the shards."""
    whole = (resources.demo() / "organism-q8_0.gguf").read_bytes()
    paths = save(split(whole, even(whole, count)), folder, "organism")
    job = folder / "sharded.yaml"
    job.write_text(SMALL_JOB.replace(MODEL, paths[0].name))
    return job, paths


def records(bundle: Path) -> list[dict[str, Any]]:
    return [line.record for line in transcript.read((bundle / "transcript.jsonl").read_bytes()).samples]


def results(bundle: Path) -> dict[str, Any]:
    """The results without the job's digest: the job names another path."""
    found: dict[str, Any] = json.loads((bundle / "results.json").read_bytes())
    return {key: value for key, value in found.items() if key != "job_digest"}


@pytest.mark.parametrize("count", [2, 3])
def test_a_sharded_model_gives_the_same_results(
    tmp_path: Path, made: Made, execute: Callable[..., run.Outcome], count: int
) -> None:
    job, paths = job_of(tmp_path, count)
    outcome = execute(job, tmp_path / "bundle")
    assert records(outcome.bundle) == records(made.bundle), "tokens, likelihoods and fingerprints of logits"
    assert results(outcome.bundle) == results(made.bundle)
    verified = verify.verify(read_bundle(outcome.bundle), made.trusted_root)
    assert verified.assurance == ("signed", "measured")
    assert all(path.name.encode() in (outcome.bundle / "evidence" / "appliance.lock").read_bytes() for path in paths)


def test_shards_that_are_missing_or_mixed_up_end_the_run(tmp_path: Path, execute: Callable[..., run.Outcome]) -> None:
    job, paths = job_of(tmp_path, 2)
    shutil.copy(paths[0], tmp_path / "kept")
    shutil.copy(paths[1], paths[0])
    shutil.copy(tmp_path / "kept", paths[1])
    with pytest.raises(MalformedInput, match="model organism: expected shard 0 of 2"):
        execute(job, tmp_path / "bundle")
    paths[1].unlink()
    with pytest.raises(VerificationError, match="missing"):
        execute(job, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
