"""The example jobs over real data sets, on the organism."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import run
from attest import verify
from attest.cli import read_bundle
from tests.conftest import ROOT


@pytest.mark.parametrize(("name", "samples"), [("harmbench", 400), ("gsm8k", 200)])
def test_example_runs_as_it_is_and_verifies(
    name: str, samples: int, tmp_path: Path, data: Path, execute: Callable[..., run.Outcome]
) -> None:
    job = ROOT / "examples" / "jobs" / f"{name}.yaml"
    outcome = execute(job, tmp_path / name, data=(data / "datasets",))
    verified = verify.verify(read_bundle(outcome.bundle), (outcome.bundle / "trust/trusted_root.json").read_bytes())
    counts = verified.manifest.counts
    assert counts.planned == counts.run + counts.failed == samples
    assert counts.failed <= samples // 100  # prompts longer than the organism's context, each with its error
    assert verified.results.suites[0].scores[0].estimate is not None
