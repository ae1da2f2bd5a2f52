"""Every format that attest reads, changed in thousands of ways: only our errors, no hang, and nothing that is accepted
and says something else. `VITRINE_MUTATIONS` sets how many ways, `make fuzz` tries 10,000 of each.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attest import (
    appraise,
    azure,
    canonical,
    capsule,
    chain,
    dsse,
    evidence,
    policy,
    reference,
    sevsnp,
    tpm,
    validity,
)  # fmt: skip
from attest.appraise import ear, items
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported, VerificationError, VitrineError
from tests.fakes import sevsnp as amd
from tests.fakes.mutate import MUTATIONS, mutated, mutated_json
from tests.unit.azure import test_azure_checks as azures
from tests.unit.sevsnp import test_sevsnp_authenticate as snps
from tests.unit.tpm import test_tpm_authenticate as tpms

NOW = amd.NOW
KEY = ec.generate_private_key(ec.SECP256R1())
REFUSED = (VerificationError, MalformedInput, Unsupported)


def text(model: canonical.Model) -> bytes:
    """The JSON of a model."""
    return canonical.dump_model(model)


# Evidence -------------------------------------------------------------------------------------------------------------

CHIP = tpms.scene()
SAID = CHIP.check()


@MUTATIONS
@given(data=mutated_json(text(CHIP.evidence)))
def test_evidence_of_a_tpm(data: bytes) -> None:
    try:
        found: Any = tpms.replace(CHIP, evidence=canonical.parse(tpm.Evidence, data, "evidence")).check()
    except REFUSED:
        return
    # Logs, list and counter may be left out, and what an event says of its digest is not signed. Nothing else differs.
    free = ("boot", "bank", "explained", "files", "counter")
    assert found.model_dump(exclude=free) == SAID.model_dump(exclude=free)  # type: ignore[attr-defined]
    assert found.counter in (None, SAID.counter)  # type: ignore[attr-defined]


def claims_of_azure(data: bytes) -> azure.Claims:
    """What evidence of Azure (JSON) says, authenticated."""
    found = canonical.parse(azure.Evidence, data, "evidence")
    return azure.claims(azure.authenticate(found, azures.ENDORSEMENTS, nonce=azures.NONCE, now=NOW))


AZURE = [text(azures.Scene(tdx).evidence()) for tdx in (False, True)]
AZURE_SAID = [claims_of_azure(data) for data in AZURE]


@pytest.mark.parametrize("tdx", [False, True])
@MUTATIONS
@given(data=st.data())
def test_evidence_of_azure(tdx: bool, data: st.DataObject) -> None:
    changed = data.draw(mutated_json(AZURE[tdx]))
    try:
        found = claims_of_azure(changed)
    except REFUSED:
        return
    assert found == AZURE_SAID[tdx]


BLOCK = snps.Scene(block={}, report=snps.ID_KEY_DIGEST)
AMD = BLOCK.endorsements()
ROOTS = frozenset({digest_of(AMD.certificates[0])})


def claims_of_amd(data: bytes) -> sevsnp.Claims:
    """What evidence of SEV-SNP (JSON) says, authenticated."""
    found = canonical.parse(sevsnp.Evidence, data, "evidence")
    return sevsnp.claims(sevsnp.authenticate(found, AMD, roots=ROOTS, now=NOW))


WITH_BLOCK = text(BLOCK.evidence())
BLOCK_SAID = claims_of_amd(WITH_BLOCK).model_dump()


@MUTATIONS
@given(data=mutated_json(WITH_BLOCK))
def test_evidence_of_sev_snp_with_an_id_block(data: bytes) -> None:
    try:
        found = claims_of_amd(data).model_dump()
    except REFUSED:
        return
    differing = {name for name, value in BLOCK_SAID.items() if found[name] != value}
    assert differing <= {"id_block"}
    assert BLOCK_SAID["id_block"] is True  # it may be left out, and then is not claimed


def package() -> bytes:
    """A package of two platforms."""
    documents = [BLOCK.evidence().model_dump(mode="json"), CHIP.evidence.model_dump(mode="json", exclude_none=True)]
    documents[0] = {"format": "vitrine/sev-snp-evidence/v1", **documents[0]}
    found = evidence.Evidence(when="start", challenge="00" * 32, items=tuple(documents), before="00" * 32)
    return text(found)


HARDWARE = appraise.policy.read(
    {
        "unsafe_unbound": True,
        "roots": {"sev-snp": [digest_of(BLOCK.endorsements().certificates[0])]},
        "tpm": {"kinds": ["unknown"], "unsafe_skipped": True},
        "sev-snp": {
            "unsafe_without_revocation": True,
            "measurements": ["00" * 48],
            "minimum_tcb": {"Milan": {"boot_loader": 0, "tee": 0, "snp": 0, "microcode": 0}},
        },
    }
)
PACKAGE = package()


@MUTATIONS
@given(data=mutated_json(PACKAGE))
def test_packages_and_their_appraisal(data: bytes) -> None:
    try:
        found = evidence.read(data, "start")
        judged = appraise.appraise(found.items, HARDWARE, None, bound=bytes(32), now=NOW)
    except REFUSED:
        return
    # No capsule: of these two, neither is vouched for.
    assert judged.status == "contraindicated"
    ear.claims(judged, policy_digest="sha256:" + "0" * 64, issued=NOW)


@MUTATIONS
@given(data=mutated_json(PACKAGE) | mutated(PACKAGE) | st.binary(max_size=40))
def test_documents_that_nobody_wrapped(data: bytes) -> None:
    try:
        assert isinstance(items.read(data)["format"], str)
    except REFUSED:
        return


@pytest.mark.parametrize("platform", ["sev-snp", "tdx", "nitro", "nvidia-gpu", "tpm", "azure"])
@MUTATIONS
@given(data=st.binary(max_size=80) | mutated(b"[" + PACKAGE[:200] + b"]") | mutated(b"0a" * 40))
def test_files_of_vendors_that_are_wrapped(platform: Any, data: bytes) -> None:
    try:
        assert items.wrap(data, platform, b"-----BEGIN CERTIFICATE-----" + data)["format"]
    except REFUSED:
        return


# Collateral -----------------------------------------------------------------------------------------------------------


def collateral() -> bytes:
    """A capsule of synthetic collateral."""
    vendor = amd.Vendor()
    parts = [
        capsule.item("sev-snp", "root", "ARK", vendor.ark),
        capsule.item("sev-snp", "certificate", "ASK", vendor.ask),
        capsule.item("sev-snp", "revocation-list", "CRL", vendor.crl()),
    ]
    return capsule.make(parts, KEY, NOW)


CAPSULE = collateral()
PAYLOAD = dsse.parse(CAPSULE).payload


@MUTATIONS
@given(data=mutated_json(CAPSULE) | mutated(CAPSULE))
def test_capsules(data: bytes) -> None:
    try:
        found = capsule.read(data)
    except REFUSED:
        return
    assert text(found) == PAYLOAD


@MUTATIONS
@given(payload=mutated_json(PAYLOAD) | mutated(PAYLOAD))
def test_capsules_that_their_maker_signed(payload: bytes) -> None:
    signature = KEY.sign(dsse.pae(capsule.PAYLOAD_TYPE, payload), ec.ECDSA(hashes.SHA256()))
    try:
        found = capsule.read(dsse.encode(dsse.make(payload, capsule.PAYLOAD_TYPE, signature)))
        capsule.check(found, makers=[found.maker_digest], now=NOW, max_age=timedelta(days=1))
        document = {"format": "vitrine/sev-snp-evidence/v1", **BLOCK.evidence().model_dump(mode="json")}
        hardware = HARDWARE.model_copy(update={"makers": (found.maker_digest,)})
        judged = appraise.appraise([document], hardware, found, bound=None, now=NOW)
    except REFUSED:
        return
    assert judged.status == "contraindicated"  # the measurement is another than the policy's


LISTS = {
    "SEV-SNP": (amd.Vendor().crl(), amd.Vendor().ark),
    "TPM": (tpms.fake.ROOT.revocations(7), tpms.fake.ROOT.certificate),
    "TDX": (
        azures.intel.intel().endorsements().root_crl,
        azures.intel.intel().root.public_bytes(Encoding.DER),
    ),
}


@pytest.mark.parametrize("name", LISTS)
@MUTATIONS
@given(data=st.data())
def test_revocation_lists(name: str, data: st.DataObject) -> None:
    good, authority = LISTS[name]
    key: Any = chain.load(authority).public_key()
    assert chain.load_list(good).is_signature_valid(key)
    changed = data.draw(mutated(good))
    try:
        found = chain.load_list(changed)
    except MalformedInput:
        return
    assert changed == good or not found.is_signature_valid(key)


@pytest.mark.parametrize("kind", sorted(validity.READERS))
@MUTATIONS
@given(data=st.data())
def test_items_of_a_capsule(kind: validity.Kind, data: st.DataObject) -> None:
    document = json.dumps({"tcbInfo": {"issueDate": "2026-01-01T00:00:00Z", "nextUpdate": "2026-02-01T00:00:00Z"}})
    manifest = b"<X509Certificate>MIIB</X509Certificate>"
    samples = [
        mutated(amd.Vendor().ark),
        mutated(amd.Vendor().crl()),
        mutated_json(document.encode()),
        mutated(manifest),
    ]
    try:
        start, end = validity.of(kind, data.draw(st.one_of(samples)), "it")
    except MalformedInput:
        return
    assert start <= end


# Policies and results -------------------------------------------------------------------------------------------------

RULES = b"""
format = "vitrine/appraisal-policy/v1"
assurance = "quoted"
walls = ["vm"]
max_attempts = 3
[hardware]
require = ["tpm"]
makers = ["sha256:0000000000000000000000000000000000000000000000000000000000000000"]
[hardware.roots]
tpm = ["sha256:0000000000000000000000000000000000000000000000000000000000000000"]
[hardware.tpm]
kinds = ["hardware"]
registers = {"sha256:11" = ["00"]}
[hardware.sev-snp]
measurements = ["00"]
minimum_tcb = {Milan = {boot_loader = 1, tee = 0, snp = 2, microcode = 3}}
"""


@MUTATIONS
@given(data=mutated(RULES))
def test_policies(data: bytes) -> None:
    try:
        assert policy.read(data).assurance in ("signed", "measured", "quoted", "confidential")
    except (MalformedInput, Unsupported):
        return


JUDGED = appraise.appraise([], HARDWARE, None, bound=None, now=NOW)
RESULT = ear.sign(ear.claims(JUDGED, policy_digest="sha256:" + "0" * 64, issued=NOW), KEY)


@MUTATIONS
@given(data=mutated(RESULT.encode()))
def test_attestation_results(data: bytes) -> None:
    token = data.decode("latin-1")
    try:
        ear.verify(token, KEY.public_key())
    except REFUSED:
        return
    assert token == RESULT


VALUES = (Path(__file__).parent / "recorded_boot" / "reference.json").read_bytes()


@MUTATIONS
@given(data=mutated_json(VALUES) | mutated(VALUES))
def test_reference_values(data: bytes) -> None:
    try:
        assert reference.read(data).registers
    except REFUSED:
        return


def test_every_error_here_is_ours() -> None:
    assert all(issubclass(error, VitrineError) for error in REFUSED)
