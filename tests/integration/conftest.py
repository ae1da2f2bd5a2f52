"""Fixtures: two runs that a TPM speaks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import run
from appliance.attester.machine import MachineAttester
from attest import reference
from tests.conftest import Made
from tests.tools import swtpm
from tests.tools.quoted import INPUTS, Quoted


@pytest.fixture(scope="session")
def quoted(
    tmp_path_factory: pytest.TempPathFactory, job_file: Path, execute: Callable[..., run.Outcome], made: Made
) -> Iterator[Quoted]:
    """Two runs in one boot of one machine."""
    folder = tmp_path_factory.mktemp("quoted")
    with swtpm.started(folder / "state") as tpm:
        swtpm.measured_boot(tpm)
        tpm.extend(reference.APPLICATION, INPUTS)
        bundles = []
        for name in ("bundle", "other"):
            attester = MachineAttester(tpm, swtpm.EVENT_LOG)
            bundles.append(execute(job_file, folder / name, attester=attester).bundle)
        values = reference.read((swtpm.RECORDED / "reference.json").read_bytes())
        yield Quoted(Made(bundles[0], made.trusted_root, job_file, made.lab), bundles[1], tpm, folder / "state", values)
