"""Every real GPU report, chain and manifest at hand: what it shows, and how it is decided.

The report is of driver 550.90.07 and VBIOS 96.00.9F.00.01; the manifests at hand are of 545.00 and 96.00.5E.00.01: they
are genuine and do not fit (validly signed, wrong policy). Their signers' certificates ended in 2025.
"""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attest import chain, nvgpu
from attest.errors import VerificationError, VitrineError
from attest.nvgpu import layout, rim, xmldsig
from tests.fakes.mutate import MUTATIONS, mutated

NOW = datetime(2024, 6, 1, tzinfo=UTC)
LATER = datetime(2025, 7, 1, tzinfo=UTC)
DRIVER_RIM = "nvtrust/Driver_RIM_test_no_gpu.swidtag"
VBIOS_RIM = "nvtrust/1010_0200_882_96005E0001_PROD.swidtag"
OTHER_VBIOS_RIM = "nvtrust/1010_0200_882_96005E0001_test_no_gpu.swidtag"
WITHOUT = {"unsafe_without_revocation": True}
ALONE = WITHOUT | {"unsafe_without_rims": True}


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "attestation" / "nvidia"


def der(folder: Path, name: str) -> bytes:
    return x509.load_pem_x509_certificate((folder / name).read_bytes()).public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def endorsements(folder: Path) -> nvgpu.Endorsements:
    return nvgpu.Endorsements(
        device_roots=(der(folder, "nvtrust/verifier_device_root.pem"),),
        rim_roots=(der(folder, "nvtrust/verifier_RIM_root.pem"),),
        driver_rim=(folder / DRIVER_RIM).read_bytes(),
        vbios_rim=(folder / VBIOS_RIM).read_bytes(),
    )


@pytest.fixture(scope="module")
def report(folder: Path) -> bytes:
    return layout.from_text((folder / "nvtrust" / "hopperAttestationReport.txt").read_bytes())


@pytest.fixture(scope="module")
def evidence(folder: Path, report: bytes) -> nvgpu.Evidence:
    return nvgpu.Evidence(report, (folder / "nvtrust" / "hopperCertChain.txt").read_bytes())


def code(evidence: nvgpu.Evidence, endorsements: nvgpu.Endorsements, **options: object) -> str:
    with pytest.raises(VerificationError) as caught:
        nvgpu.authenticate(evidence, endorsements, **({"now": NOW} | options))  # type: ignore[arg-type]
    assert caught.value.layer == "nvgpu"
    return caught.value.code


def bare(endorsements: nvgpu.Endorsements) -> nvgpu.Endorsements:
    return nvgpu.Endorsements(endorsements.device_roots)


def test_a_real_report_says_what_another_verifier_says(
    folder: Path, evidence: nvgpu.Evidence, endorsements: nvgpu.Endorsements
) -> None:
    expected = json.loads((folder / "trustee" / "hopperAttestationReport-claims.txt").read_text())
    claims = nvgpu.claims(nvgpu.authenticate(evidence, bare(endorsements), now=NOW, **ALONE))
    assert claims.measurements == expected["measurements"]
    assert claims.driver_version == expected["config"]["driver_version"] == "550.90.07"
    assert claims.vbios_version == expected["config"]["vbios_version"].upper() == "96.00.9F.00.01"
    read = layout.read(evidence.report)
    assert read.opaque.fwid.hex() == expected["config"]["fwid"]
    assert (read.opaque.nvdec0_enabled, read.opaque.protected_pcie) == (False, False)
    local = json.loads((folder / "claims" / "detached_claims_local.json").read_text())
    assert claims.bound == local["eat_nonce"]
    assert claims.model == local["hwmodel"] == "GH100 A01 GSP BROM"
    assert claims.debug


def test_genuine_manifests_of_other_versions_do_not_fit(
    evidence: nvgpu.Evidence, endorsements: nvgpu.Endorsements
) -> None:
    claims = nvgpu.claims(nvgpu.authenticate(evidence, endorsements, now=NOW, **WITHOUT))
    policy = nvgpu.Policy(drivers=("550.90.07",), vbioses=("96.00.9F.00.01",))
    broken = [line.rule for line in nvgpu.appraise(claims, policy) if not line.holds]
    assert broken == [
        "nvgpu.revocation", "nvgpu.measurements", "nvgpu.debug", "nvgpu.driver_rim", "nvgpu.vbios_rim"
    ]  # fmt: skip
    assert claims.matched == (1, 4, 5, 6, 7, 9, 11, 13, 24, 25, 29, 34, 39)
    assert 36 in claims.uncovered  # the video decoder is off
    assert [item.block for item in claims.mismatched][:3] == [2, 3, 8]


@pytest.mark.parametrize(
    ("name", "version", "active"),
    [
        (DRIVER_RIM, "545.00", 21),
        (VBIOS_RIM, "96.00.5E.00.01", 12),
        (OTHER_VBIOS_RIM, "96.00.5E.00.01", 12),
    ],
)
def test_real_manifests_are_signed(folder: Path, name: str, version: str, active: int) -> None:
    signed = xmldsig.read((folder / name).read_bytes(), name)
    found = rim.read(xmldsig.verify(signed, layer="nvgpu"))
    assert (found.version, found.product, len(found.values)) == (version, "GH100", active)


def test_a_real_manifest_with_a_value_changed(
    folder: Path, evidence: nvgpu.Evidence, endorsements: nvgpu.Endorsements
) -> None:
    for name in (DRIVER_RIM, VBIOS_RIM, OTHER_VBIOS_RIM):
        changed = (folder / name).read_bytes().replace(b'active="False"', b'active="True"', 1)
        with pytest.raises(VerificationError) as caught:
            xmldsig.verify(xmldsig.read(changed, name), layer="nvgpu")
        assert caught.value.code == "rim_digest"


def test_the_manifests_signers_ended_in_2025(evidence: nvgpu.Evidence, endorsements: nvgpu.Endorsements) -> None:
    assert code(evidence, endorsements, now=LATER, **WITHOUT) == "certificate_time"
    nvgpu.authenticate(evidence, bare(endorsements), now=LATER, **ALONE)


def test_without_revocation_or_manifests_nothing_real_is_accepted(
    evidence: nvgpu.Evidence, endorsements: nvgpu.Endorsements
) -> None:
    assert code(evidence, endorsements) == "ocsp_missing"
    assert code(evidence, bare(endorsements), unsafe_without_rims=True) == "ocsp_missing"
    assert code(evidence, bare(endorsements), **WITHOUT) == "rim_missing"


def test_roots_are_not_exchangeable(evidence: nvgpu.Evidence, endorsements: nvgpu.Endorsements) -> None:
    swapped = nvgpu.Endorsements(
        endorsements.rim_roots, endorsements.device_roots, endorsements.driver_rim, endorsements.vbios_rim
    )
    assert code(evidence, swapped, **WITHOUT) == "root"
    assert code(evidence, nvgpu.Endorsements(endorsements.rim_roots), **ALONE) == "root"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hopper_cert_chain_case1.txt", None),  # whole
        ("hopper_cert_chain_case2.txt", "chain_length"),  # the root alone
        ("hopper_cert_chain_case3.txt", "certificate_signature"),  # an intermediate is missing
        ("hopper_cert_chain_case4.txt", "leaf_is_ca"),  # the leaf is missing
        ("hopper_signing_cert.pem", "chain_length"),  # the leaf alone
    ],
)
def test_chains(folder: Path, report: bytes, endorsements: nvgpu.Endorsements, name: str, expected: str | None) -> None:
    evidence = nvgpu.Evidence(report, (folder / "trustee" / name).read_bytes())
    if expected is None:
        nvgpu.authenticate(evidence, bare(endorsements), now=NOW, **ALONE)
    else:
        assert code(evidence, bare(endorsements), **ALONE) == expected


def test_eight_real_gpus(folder: Path, endorsements: nvgpu.Endorsements) -> None:
    text = (folder / "ppcie" / "gpu_evidence.json").read_bytes()
    listed = nvgpu.read_list(text)
    found = [nvgpu.claims(item) for item in nvgpu.authenticate_all(listed, bare(endorsements), now=NOW, **ALONE)]
    unsigned = json.loads(text)
    assert len({claims.device for claims in found}) == 8
    assert [claims.bound for claims in found] == [item["nonce"] for item in unsigned]
    assert [claims.driver_version for claims in found] == [item["driver_version"] for item in unsigned]
    assert [claims.vbios_version for claims in found] == [item["vbios_version"] for item in unsigned]
    assert all(claims.protected_pcie for claims in found)


def test_real_gpus_of_two_questions_or_one_twice(
    folder: Path, evidence: nvgpu.Evidence, endorsements: nvgpu.Endorsements
) -> None:
    listed = nvgpu.read_list((folder / "ppcie" / "gpu_evidence.json").read_bytes())
    for wrong, expected in (((listed[0], evidence), "nonces"), ((listed[0], listed[0]), "device_twice")):
        with pytest.raises(VerificationError) as caught:
            nvgpu.authenticate_all(wrong, bare(endorsements), now=NOW, **ALONE)
        assert caught.value.code == expected


def test_a_report_of_one_gpu_with_the_chain_of_another(folder: Path, endorsements: nvgpu.Endorsements) -> None:
    first, second = nvgpu.read_list((folder / "ppcie" / "gpu_evidence.json").read_bytes())[:2]
    relayed = nvgpu.Evidence(first.report, second.certificates)
    assert code(relayed, bare(endorsements), **ALONE) == "signature"


def test_an_appraisal_takes_less_than_fifty_milliseconds(
    evidence: nvgpu.Evidence, endorsements: nvgpu.Endorsements
) -> None:
    def once() -> float:
        start = time.process_time()
        nvgpu.appraise(nvgpu.claims(nvgpu.authenticate(evidence, endorsements, now=NOW, **WITHOUT)), nvgpu.Policy())
        return time.process_time() - start

    assert min(once() for _ in range(5)) < 0.05


@MUTATIONS
@given(st.data())
def test_a_mutated_report_is_refused(
    evidence: nvgpu.Evidence, endorsements: nvgpu.Endorsements, random: st.DataObject
) -> None:
    changed = random.draw(mutated(evidence.report))
    try:
        nvgpu.authenticate(nvgpu.Evidence(changed, evidence.certificates), bare(endorsements), now=NOW, **ALONE)
    except VitrineError:
        return
    assert changed == evidence.report


@MUTATIONS
@given(st.data())
def test_mutated_certificates_are_refused_or_the_same(
    evidence: nvgpu.Evidence, endorsements: nvgpu.Endorsements, random: st.DataObject
) -> None:
    changed = nvgpu.Evidence(evidence.report, random.draw(mutated(evidence.certificates)))
    try:
        found = nvgpu.authenticate(changed, bare(endorsements), now=NOW, **ALONE)
    except VitrineError:
        return
    assert found == nvgpu.authenticate(evidence, bare(endorsements), now=NOW, **ALONE)


@MUTATIONS
@given(st.data())
def test_a_mutated_manifest_is_refused_or_says_the_same(
    folder: Path, endorsements: nvgpu.Endorsements, random: st.DataObject
) -> None:
    original = (folder / VBIOS_RIM).read_bytes()

    def read(data: bytes) -> rim.Rim:
        signed = xmldsig.read(data, "manifest")
        chain.verify(signed.certificates, endorsements.rim_roots, now=NOW, layer="nvgpu")
        return rim.read(xmldsig.verify(signed, layer="nvgpu"))

    try:
        found = read(random.draw(mutated(original)))
    except VitrineError:
        return
    assert found == read(original)


@MUTATIONS
@given(st.data())
def test_a_mutated_list_gives_only_our_errors(folder: Path, random: st.DataObject) -> None:
    original = (folder / "ppcie" / "gpu_evidence.json").read_bytes()
    try:
        found = nvgpu.read_list(random.draw(mutated(original)))
    except VitrineError:
        return
    assert found
