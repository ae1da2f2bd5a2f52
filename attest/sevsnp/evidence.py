"""Evidence of SEV-SNP as it travels, and what a relying party has from elsewhere to judge it by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attest.canonical import Model
from attest.dsse import Base64


class Evidence(Model):
    """What the attester sends. All of it is untrusted until `authenticate` returns."""

    format: Literal["vitrine/sev-snp-evidence/v1"] = "vitrine/sev-snp-evidence/v1"
    """Format and version."""
    report: Base64
    """The attestation report, 1184 bytes, see `attest.sevsnp.layout`."""
    certificate: Base64
    """The VCEK's or VLEK's certificate (DER): the key that signed the report."""
    id_block: Base64 | None = None
    """The ID block that the guest was launched with (96 bytes), see `attest.sevsnp.idblock`."""
    id_authentication: Base64 | None = None
    """Who signed it (4096 bytes); given exactly where `id_block` is."""


@dataclass(frozen=True)
class Endorsements:
    """AMD's statements, collected beforehand. May hold those of several products; what fits is used."""

    certificates: tuple[bytes, ...]
    """ARK, ASK and ASVK certificates (DER), in any order. An ARK counts only if its fingerprint is pinned."""
    crls: tuple[bytes, ...]
    """Certificate revocation lists (DER) that the ARKs signed."""
