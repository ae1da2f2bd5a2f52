"""Evidence of a confidential VM on Azure: the paravisor's report in the vTPM, and a quote by the key that it names.

The report lies in an index of the vTPM, which its owner may read; the key is there already, at a fixed handle. What the
hardware's vendor says of the chip is not in the machine: Azure hands it out over the link to its host (the VCEK's
certificate; the TD quote of the TDREPORT in the report). Both hold for as long as the machine is up: fetch them before
the run, and give them here. Nothing is verified here.

Source: Microsoft, "Guest attestation for confidential VMs"; `attest.azure.hcl` for the report.
"""

from __future__ import annotations

from typing import Final

from appliance.attester import tpm as attesters
from appliance.attester import tpm_commands as commands
from appliance.enclave.tpm_device import Tpm
from attest.azure import Evidence, hcl
from attest.errors import EnvironmentProblem, VitrineError

REPORT: Final = 0x01400001
"""The index of the report."""
KEY: Final = 0x81000003
"""The handle of the attestation key."""
REGISTERS: Final = range(24)


def report(tpm: Tpm, nonce: bytes, *, certificate: bytes | None = None, td_quote: bytes | None = None) -> Evidence:
    """Evidence that bears the `nonce` (at most 64 bytes), over all registers of the SHA-256 bank.

    `certificate`: the VCEK's, DER, on SEV-SNP; `td_quote`: on TDX. Raises `EnvironmentProblem`.
    """
    try:
        stored = commands.nv_read(tpm, REPORT, by=commands.OWNER)
        kind = hcl.read(stored).kind
    except VitrineError as error:
        raise EnvironmentProblem(f"no confidential VM on Azure: its vTPM holds no report ({error})") from None
    if (certificate if kind == "sev-snp" else td_quote) is None:
        wanted = "the VCEK's certificate" if kind == "sev-snp" else "the TD quote of its report"
        raise EnvironmentProblem(f"this machine runs on {kind}: fetch {wanted} from Azure before the run, and give it")
    key = commands.read_public(tpm, KEY)
    values, signed = attesters.quote(tpm, key, nonce, {"sha256": REGISTERS})
    return Evidence(
        hcl_report=stored,
        certificate=certificate if kind == "sev-snp" else None,
        td_quote=td_quote if kind == "tdx" else None,
        quote=signed,
        registers={str(register): value.hex() for register, value in values["sha256"].items()},
    )
