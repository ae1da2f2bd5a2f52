"""A confidential VM on Azure, as its guest sees it: swtpm with the paravisor's report, and the key that it names."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from appliance.attester import azure
from appliance.attester import tpm_commands as commands
from appliance.enclave.tpm_device import PASSWORD, Tpm, sized
from attest.azure import Endorsements
from attest.digest import digest_of, sha256
from attest.sevsnp import Endorsements as AmdEndorsements
from attest.tpm import layout
from tests.fakes import azure as fake
from tests.fakes import tdx
from tests.fakes.sevsnp import Chip, Vendor

NV_WRITE, EVICT = 0x137, 0x120
OWNED = 1 << 1 | 1 << 17
"""An index that its owner writes and reads (TPMA_NV)."""


@dataclass(frozen=True)
class Given:
    """What Azure hands out beside the report."""

    certificate: bytes | None = None
    td_quote: bytes | None = None


def set_up(tpm: Tpm, kind: str = "sev-snp") -> Given:
    """Make the key, and write a report of synthetic hardware that names it."""
    key = commands.create_primary(tpm, commands.SIGNERS["rsassa"])
    handles = struct.pack(">II", commands.OWNER, key.handle)
    # The key is of the endorsement hierarchy; the owner may keep it, as Azure's is kept.
    tpm.command(EVICT, handles, PASSWORD, struct.pack(">I", azure.KEY))
    commands.flush(tpm, key.handle)
    public = layout.public_area(key.public).key
    claims = fake.runtime(fake.jwk(public))
    bound = sha256(claims) + bytes(32)
    chip = Chip()
    if kind == "sev-snp":
        report, given = chip.report(report_data=bound), Given(certificate=Vendor().chip_certificate(chip))
    else:
        report, given = b"a TDREPORT", Given(td_quote=tdx.intel().quote(tdx.domain(bound)))
    write(tpm, fake.hcl_report(2 if kind == "sev-snp" else 4, report, claims, tail=bytes(16)))
    return given


def write(tpm: Tpm, report: bytes) -> None:
    """Write a report into its index."""
    public = struct.pack(">IHI", azure.REPORT, layout.HASH_IDS["sha256"], OWNED) + sized(b"")
    public += struct.pack(">H", len(report))
    tpm.command(commands.NV_DEFINE, struct.pack(">I", commands.OWNER), PASSWORD, sized(b"") + sized(public))
    for at in range(0, len(report), commands.BLOCK_BYTES):
        block = report[at : at + commands.BLOCK_BYTES]
        handles = struct.pack(">II", commands.OWNER, azure.REPORT)
        tpm.command(NV_WRITE, handles, PASSWORD, sized(block) + struct.pack(">H", at))


def endorsements() -> Endorsements:
    """What the synthetic vendors say."""
    vendor = Vendor()
    amd = AmdEndorsements((vendor.ark, vendor.ask), (vendor.crl(),))
    return Endorsements(amd, frozenset({digest_of(vendor.ark)}), tdx.intel().endorsements())
