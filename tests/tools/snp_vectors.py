"""Real SEV-SNP evidence of `attestation/snp`, as the attester would send it, and the collateral it is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from attest.sevsnp import Endorsements, Evidence
from attest.sevsnp.certificates import split
from tests.tools import protobuf

# SHA-256 of AMD's three roots (DER), pinned here as a relying party would.
ROOTS = {
    "Milan": "sha256:69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "Genoa": "sha256:4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "Turin": "sha256:1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
}
NOW = datetime(2025, 9, 1, tzinfo=UTC)
"""A time at which every certificate of the vectors is valid."""


@dataclass(frozen=True)
class Vector:
    """One piece of evidence, and how it must be decided."""

    report: str
    """The report: a file, or a protobuf message and the path of the report in it."""
    certificate: str
    """The certificate of the chip's key, likewise."""
    shows: str
    """What it shows."""
    code: str = ""
    """The code of the rejection; accepted when empty."""
    version: int = 0
    product: str = ""
    kind: str = "vcek"


VECTORS = {
    "milan-v2-trustee": Vector(
        "trustee/test-report.bin", "trustee/test-vcek.der", "Milan, version 2, ID block with ID key digest",
        version=2, product="Milan",
    ),
    "milan-v2-virtee": Vector(
        "virtee-sev/report_milan.hex", "virtee-sev/vcek_milan.der", "Milan, version 2, no ID block",
        version=2, product="Milan",
    ),
    "milan-v3-vlek": Vector(
        "trustee/test-vlek-report.bin", "trustee/test-vlek.der", "a key lent to a cloud, chip id masked, VMPL 1",
        version=3, product="Milan", kind="vlek",
    ),
    "milan-v3-oak-containers": Vector(
        "oak-milan-staging/milan_oc_staging_evidence.binarypb:1.2",
        "oak-milan-staging/milan_oc_staging_endorsements.binarypb:2.1.1", "Milan, version 3",
        version=3, product="Milan",
    ),
    "milan-v3-oak-kernel": Vector(
        "oak-milan-staging/milan_rk_staging_evidence.binarypb:1.2",
        "oak-milan-staging/milan_rk_staging_endorsements.binarypb:1.1.1", "Milan, version 3, another chip",
        version=3, product="Milan",
    ),
    "genoa-v5-oak-containers": Vector(
        "oak-genoa/genoa_oc_evidence.binarypb:1.2", "oak-genoa/genoa_oc_endorsements.binarypb:2.1.1",
        "Genoa, version 5 with mitigation vectors", version=5, product="Genoa",
    ),
    "milan-vcek-legacy-other-chip": Vector(
        "trustee/test-report.bin", "trustee/test-vcek-invalid-legacy.der",
        "chip id as bare bytes; changed after AMD signed it", code="certificate-signature",
    ),
    "milan-vcek-new-other-chip": Vector(
        "trustee/test-report.bin", "trustee/test-vcek-invalid-new.der",
        "chip id as OCTET STRING; changed after AMD signed it", code="certificate-signature",
    ),
    "milan-vcek-of-another-milan": Vector(
        "trustee/test-report.bin", "virtee-sev/vcek_milan.der", "AMD's certificate of another chip", code="signature",
    ),
    "milan-report-turin-vcek": Vector(
        "trustee/test-report.bin", "virtee-sev/vcek_turin.der", "AMD's certificate of a Turin", code="signature",
    ),
    "milan-v3-vlek-for-vcek": Vector(
        "oak-milan-staging/milan_oc_staging_evidence.binarypb:1.2", "trustee/test-vlek.der",
        "a VLEK's certificate for a VCEK's report", code="signature",
    ),
}  # fmt: skip


def read(folder: Path, where: str) -> bytes:
    """The bytes at `where`: `file`, `file.hex`, or `file:1.2` for a field of a protobuf message."""
    name, _, path = where.partition(":")
    data = (folder / name).read_bytes()
    if path:
        return protobuf.at(data, *map(int, path.split(".")))
    return bytes.fromhex(data.decode().strip()) if name.endswith(".hex") else data


def evidence(folder: Path, vector: Vector) -> Evidence:
    """The evidence of `vector`; `folder` is `attestation/snp`."""
    return Evidence(report=read(folder, vector.report), certificate=read(folder, vector.certificate))


def endorsements(folder: Path) -> Endorsements:
    """AMD's certificates of all products: ARK, ASK and ASVK. There are no revocation lists among the vectors."""
    names = ("milan", "genoa", "turin")
    chains = [split((folder / "trustee" / f"{name}_ask_ark_asvk.pem").read_bytes()) for name in names]
    return Endorsements(tuple(certificate for chain in chains for certificate in chain), ())
