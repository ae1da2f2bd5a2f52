"""Whether a quote was made by the vTPM of a confidential VM on Azure that runs on genuine hardware.

The hardware vouches for the paravisor (Microsoft's, measured by it), the paravisor for the vTPM's attestation key, and
that key for the registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from attest import sevsnp, tdx
from attest.azure import hcl
from attest.azure.evidence import Endorsements, Evidence
from attest.azure.hcl import HclReport
from attest.digest import sha256
from attest.errors import MalformedInput, VerificationError
from attest.tpm.authenticate import check_signed, check_values
from attest.tpm.layout import PublicArea

LAYER: Final = "azure"


@dataclass(frozen=True)
class Authenticated:
    """A quote of a vTPM that the hardware vouches for. Only `authenticate` makes it."""

    hcl: HclReport
    """What the paravisor said."""
    hardware: sevsnp.Authenticated | tdx.Authenticated
    """What the hardware said of the paravisor."""
    nonce: bytes
    """What the quote was made for."""
    registers: dict[int, bytes]
    """The registers of the SHA-256 bank that were quoted."""


def authenticate(
    evidence: Evidence,
    endorsements: Endorsements,
    *,
    nonce: bytes,
    now: datetime,
    unsafe_without_revocation: bool = False,
    unsafe_without_tcb: bool = False,
) -> Authenticated:
    """Authenticate `evidence` at the time `now` (aware); its quote has to carry `nonce`.

    Raises `VerificationError` (layers `azure`, `tpm`, and the hardware's), `MalformedInput`, `Unsupported`.
    """
    # 1. The hardware is genuine, and says what the paravisor is.
    report = hcl.read(evidence.hcl_report)
    hardware: sevsnp.Authenticated | tdx.Authenticated
    if report.kind == "sev-snp":
        if evidence.certificate is None or endorsements.sev_snp is None:
            raise _missing("the VCEK's certificate, and AMD's endorsements")
        hardware = sevsnp.authenticate(
            sevsnp.Evidence(report=report.hardware, certificate=evidence.certificate), endorsements.sev_snp,
            roots=endorsements.roots, now=now, unsafe_without_revocation=unsafe_without_revocation,
        )  # fmt: skip
        bound = hardware.report.report_data
    else:
        if evidence.td_quote is None or endorsements.tdx is None:
            raise _missing("the TD quote, and Intel's endorsements")
        hardware = tdx.authenticate(
            evidence.td_quote, endorsements.tdx, now=now,
            unsafe_without_revocation=unsafe_without_revocation, unsafe_without_tcb=unsafe_without_tcb,
        )  # fmt: skip
        if not isinstance(hardware.quote.body, tdx.Domain):
            raise MalformedInput("TD quote", "expected one of a trust domain, found one of an enclave")
        bound = hardware.quote.body.report_data
    # 2. The paravisor said this of the machine, and nothing else.
    expected = sha256(report.runtime_bytes) + bytes(32)
    if bound != expected:
        raise VerificationError(
            LAYER, "runtime-claims", expected=expected.hex(), found=bound.hex(),
            advice="these claims, and the key in them, are of another machine or boot",
        )  # fmt: skip
    # 3. The key that it named signed the quote, with this nonce, over these registers.
    key = PublicArea("rsa", "sha256", 0, b"", 0, "rsassa", "sha256", report.attestation_key(), b"")
    statement = check_signed(key, evidence.quote, nonce)
    registers = {int(register): bytes.fromhex(value) for register, value in evidence.registers.items()}
    check_values(key, (statement,), {"sha256": registers})
    return Authenticated(report, hardware, nonce, registers)


def _missing(what: str) -> VerificationError:
    return VerificationError(LAYER, "missing", expected=what, found="less", advice="absent evidence is refused")
