"""The attester of Azure's confidential VMs, over a real software TPM with a report of synthetic hardware in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.attester import azure
from attest.azure import authenticate, claims
from attest.errors import EnvironmentProblem, VerificationError
from tests.fakes.sevsnp import NOW
from tests.tools import azure_machine, swtpm

NONCE = bytes(range(32))


@pytest.mark.parametrize("kind", ["sev-snp", "tdx"])
def test_evidence_is_authenticated(kind: str, tmp_path: Path) -> None:
    with swtpm.started(tmp_path / "state") as tpm:
        given = azure_machine.set_up(tpm, kind)
        tpm.extend(11, bytes(range(32)))
        evidence = azure.report(tpm, NONCE, certificate=given.certificate, td_quote=given.td_quote)
        registers = tpm.read(range(24))
        # What is of the other hardware is left out.
        both = azure.report(tpm, NONCE, certificate=given.certificate or b"other", td_quote=given.td_quote or b"other")
    assert (both.certificate, both.td_quote) == (given.certificate, given.td_quote)
    found = claims(authenticate(evidence, azure_machine.endorsements(), nonce=NONCE, now=NOW))
    assert (found.platform, found.bound, found.vm_id) == (f"azure-{kind}", NONCE.hex(), "a machine")
    assert found.measurements == {f"sha256:{number}": value.hex() for number, value in registers.items()}
    with pytest.raises(VerificationError, match="tpm/nonce"):
        authenticate(evidence, azure_machine.endorsements(), nonce=bytes(32), now=NOW)


@pytest.mark.parametrize(("kind", "wanted"), [("sev-snp", "VCEK"), ("tdx", "TD quote")])
def test_what_azure_has_to_hand_out_is_asked_for(kind: str, wanted: str, tmp_path: Path) -> None:
    with swtpm.started(tmp_path / "state") as tpm:
        azure_machine.set_up(tpm, kind)
        with pytest.raises(EnvironmentProblem, match=f"runs on {kind}: fetch the {wanted}"):
            azure.report(tpm, NONCE)


def test_another_machine_is_none_of_azures(tmp_path: Path) -> None:
    with swtpm.started(tmp_path / "state") as tpm:
        with pytest.raises(EnvironmentProblem, match="holds no report"):
            azure.report(tpm, NONCE, certificate=b"any")
        azure_machine.write(tpm, b"no report".ljust(1300))
        with pytest.raises(EnvironmentProblem, match="holds no report"):
            azure.report(tpm, NONCE, certificate=b"any")
