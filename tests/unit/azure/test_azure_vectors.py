"""Every real piece of evidence of Azure's confidential VMs, decided as it must be, and mutations of it."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.azure import Claims, Endorsements, Evidence, authenticate, claims
from attest.canonical import dump_model, parse
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.sevsnp.certificates import split
from attest.tpm import Signed
from tests.fakes.mutate import EXAMPLES
from tests.fakes.tdx import stored
from tests.tools import snp_vectors

NOW = datetime(2025, 9, 1, tzinfo=UTC)
NONCE = b"challenge"


@dataclass(frozen=True)
class Parts:
    """A vector's files, as bytes."""

    report: bytes
    message: bytes
    signature: bytes
    registers: list[bytes]
    certificate: bytes | None = None
    td_quote: bytes | None = None

    def evidence(self) -> Evidence:
        signature = struct.pack(">HHH", 0x0014, 0x000B, len(self.signature)) + self.signature
        return Evidence(
            hcl_report=self.report, certificate=self.certificate, td_quote=self.td_quote,
            quote=Signed(attested=self.message, signature=signature),
            registers={str(number): value.hex() for number, value in enumerate(self.registers)},
        )  # fmt: skip


def numbers(value: Any) -> bytes:
    """Bytes, as the vectors spell them: a list of numbers, hexadecimal digits or base64url."""
    if isinstance(value, list):
        return bytes(value)
    try:
        return bytes.fromhex(value)
    except ValueError:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))


def read(folder: Path, name: str) -> Parts:
    """The vector `name`."""
    machine, _, version = name.partition("/")
    here = folder / f"az-{machine}-vtpm"
    if version == "files":
        quote = json.loads((here / "tpm-quote-v1.json").read_bytes())
        certificate = split((here / "vcek.pem").read_bytes())[0] if machine == "snp" else None
        td_quote = (here / "td-quote.bin").read_bytes() if machine == "tdx" else None
        report = (here / "hcl-report.bin").read_bytes()
    else:
        value = json.loads((here / f"evidence-{version}.json").read_bytes())
        quote = value.get("quote") or value["tpm_quote"]
        report = numbers(value.get("report") or value["hcl_report"])
        vcek = value.get("vcek")
        certificate = vcek and (split(vcek.encode())[0] if vcek.startswith("---") else numbers(vcek))
        td_quote = numbers(value["td_quote"]) if machine == "tdx" else None
    registers = [numbers(register) for register in quote["pcrs"]]
    return Parts(report, numbers(quote["message"]), numbers(quote["signature"]), registers, certificate, td_quote)


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "attestation" / "azure"


@pytest.fixture(scope="module")
def endorsements(data: Path) -> Endorsements:
    amd = snp_vectors.endorsements(data / "attestation" / "snp")
    intel = stored(data / "attestation" / "tdx" / "dcap-qvl", "tdx_quote_collateral.json")
    return Endorsements(amd, frozenset(snp_vectors.ROOTS.values()), intel)


def decide(evidence: Evidence, endorsements: Endorsements, **changes: Any) -> Claims:
    # There is no revocation list of AMD's, and no collateral of this platform of Intel's, among the vectors.
    opted_out = {"unsafe_without_revocation": True, "unsafe_without_tcb": True}
    return claims(authenticate(evidence, endorsements, **({"nonce": NONCE, "now": NOW} | opted_out | changes)))


ACCEPTED = ["snp/v0", "snp/v1", "snp/files", "tdx/v0", "tdx/files"]


@pytest.mark.parametrize("name", ACCEPTED)
def test_real_evidence_is_accepted(name: str, folder: Path, endorsements: Endorsements) -> None:
    found = decide(read(folder, name).evidence(), endorsements)
    assert found.bound == NONCE.hex() and not found.debug and found.secure_boot and found.console
    assert len(found.measurements) == 24 and found.user_data == "00" * 64 and len(found.vm_id) == 36
    assert found.skipped and parse(Claims, dump_model(found), "claims") == found
    if name.startswith("snp"):
        assert found.platform == "azure-sev-snp" and found.tdx is None and found.sev_snp is not None
        assert found.sev_snp.vmpl == 0 and found.sev_snp.product in ("Milan", "Genoa")
    else:
        assert found.platform == "azure-tdx" and found.sev_snp is None and found.tdx is not None


def test_the_boot_that_was_quoted(folder: Path, endorsements: Endorsements) -> None:
    found = decide(read(folder, "snp/v1").evidence(), endorsements)
    v0 = decide(read(folder, "snp/v0").evidence(), endorsements)
    assert found == v0, "two spellings of one piece of evidence"
    parts = read(folder, "snp/v1")
    assert found.measurements["sha256:7"] == parts.registers[7].hex()


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_replayed_quote_is_refused(name: str, folder: Path, endorsements: Endorsements) -> None:
    with pytest.raises(VerificationError) as caught:
        decide(read(folder, name).evidence(), endorsements, nonce=b"another challenge")
    assert (caught.value.layer, caught.value.code) == ("tpm", "nonce")


@pytest.mark.parametrize("name", ACCEPTED)
def test_nothing_is_accepted_without_collateral(name: str, folder: Path, endorsements: Endorsements) -> None:
    evidence = read(folder, name).evidence()
    with pytest.raises(VerificationError) as caught:
        decide(evidence, endorsements, unsafe_without_revocation=False)
    assert caught.value.layer in ("sev-snp", "tdx")
    with pytest.raises(VerificationError) as caught:
        decide(evidence, Endorsements())
    assert (caught.value.layer, caught.value.code) == ("azure", "missing")
    with pytest.raises(VerificationError) as caught:
        decide(evidence.model_copy(update={"certificate": None, "td_quote": None}), endorsements)
    assert (caught.value.layer, caught.value.code) == ("azure", "missing")


@pytest.mark.parametrize(("hardware", "machine"), [("snp/v1", "snp/files"), ("tdx/v0", "snp/files")])
def test_a_quote_of_another_machine_is_refused(
    hardware: str, machine: str, folder: Path, endorsements: Endorsements
) -> None:
    other = read(folder, machine)
    mixed = replace(read(folder, hardware), message=other.message, signature=other.signature, registers=other.registers)
    with pytest.raises(VerificationError) as caught:
        decide(mixed.evidence(), endorsements)
    assert (caught.value.layer, caught.value.code) == ("tpm", "signature")


@pytest.mark.parametrize("name", ["snp/v1", "tdx/v0"])
def test_runtime_claims_of_another_machine_are_refused(name: str, folder: Path, endorsements: Endorsements) -> None:
    good = read(folder, name)
    forged = good.report.replace(b'"HCLEkPub"', b'"HCLXkPub"')
    assert forged != good.report
    with pytest.raises(VerificationError) as caught:
        decide(replace(good, report=forged).evidence(), endorsements)
    assert (caught.value.layer, caught.value.code) == ("azure", "runtime-claims")


def test_a_wrong_register_is_refused(folder: Path, endorsements: Endorsements) -> None:
    good = read(folder, "snp/v1")
    for registers in (good.registers[:-1], [*good.registers[:-1], bytes(31) + b"\x01"]):
        with pytest.raises(VerificationError) as caught:
            decide(replace(good, registers=registers).evidence(), endorsements)
        assert caught.value.layer == "tpm"


@settings(max_examples=EXAMPLES, deadline=None)
@given(draw=st.data())
def test_mutated_evidence_gives_our_errors_and_is_never_accepted(
    draw: st.DataObject, folder: Path, endorsements: Endorsements
) -> None:
    name = draw.draw(st.sampled_from(["snp/v1", "tdx/files"]))
    good = read(folder, name)
    part = draw.draw(st.sampled_from(["report", "message", "signature"]))
    changed = bytearray(getattr(good, part))
    # Of the TDREPORT only the quote says anything; of the header's version and request nothing is used.
    place = draw.draw(st.integers(0, len(changed) - 1))
    before = changed[place]
    changed[place] = draw.draw(st.integers(0, 255))
    unread = range(32, 32 + 1184) if name.startswith("tdx") else range(0)
    unused = part == "report" and (4 <= place < 8 or 12 <= place < 32 or place in unread)
    if changed[place] == before or unused:
        return
    with pytest.raises((VerificationError, MalformedInput, Unsupported)):
        decide(replace(good, **{part: bytes(changed)}).evidence(), endorsements)
