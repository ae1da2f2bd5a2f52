"""Evidence of a confidential VM on Azure, and what a relying party has from elsewhere to judge it by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from attest.canonical import Model
from attest.digest import Hex32
from attest.dsse import Base64
from attest.sevsnp import Endorsements as AmdEndorsements
from attest.tdx import Endorsements as IntelEndorsements
from attest.tpm.evidence import Register, Signed


class Evidence(Model):
    """What the attester sends. All of it is untrusted until `authenticate` returns."""

    format: Literal["vitrine/azure-evidence/v1"] = "vitrine/azure-evidence/v1"
    """Format and version."""
    hcl_report: Base64
    """The paravisor's report, see `attest.azure.hcl`."""
    certificate: Base64 | None = None
    """SEV-SNP: the VCEK's certificate (DER)."""
    td_quote: Base64 | None = None
    """TDX: the quote that the host's quoting enclave made of the TDREPORT."""
    quote: Signed
    """The vTPM's quote over registers of its SHA-256 bank."""
    registers: Annotated[dict[Register, Hex32], Field(min_length=1, max_length=24)]
    """The values that were quoted, by register: these and no others."""


@dataclass(frozen=True)
class Endorsements:
    """The hardware vendors' statements; only the one of the evidence's hardware is needed."""

    sev_snp: AmdEndorsements | None = None
    """AMD's."""
    roots: Collection[str] = frozenset()
    """Fingerprints (`sha256:...`) of AMD's roots that are trusted."""
    tdx: IntelEndorsements | None = None
    """Intel's."""
