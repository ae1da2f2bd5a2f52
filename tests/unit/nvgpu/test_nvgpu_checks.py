"""Each check of a GPU's evidence broken once, by a fake GPU and a fake maker that sign what is wrong."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.ocsp import OCSPCertStatus
from hypothesis import given
from hypothesis import strategies as st

from attest import canonical, nvgpu
from attest.errors import MalformedInput, VerificationError, VitrineError
from tests.fakes.authority import NOW, SIGNER, Issued, issue, key
from tests.fakes.mutate import MUTATIONS, mutated
from tests.fakes.nvgpu import (
    DRIVER,
    DRIVER_BLOCKS,
    FWID,
    NONCE,
    VBIOS,
    VBIOS_BLOCKS,
    Gpu,
    Maker,
    device_chain,
    device_identity,
    leaf,
    manifest_chain,
    response,
    signed,
    tag,
    value,
)

MAKER = Maker()
GPU = MAKER.gpus[0]
ENDORSEMENTS = MAKER.endorsements()
POLICY = {"drivers": (DRIVER,), "vbioses": (VBIOS,)}


def authenticate(
    gpu: Gpu = GPU, endorsements: nvgpu.Endorsements = ENDORSEMENTS, **options: object
) -> nvgpu.Authenticated:
    return nvgpu.authenticate(gpu.evidence(), endorsements, **({"now": NOW} | options))  # type: ignore[arg-type]


def code(gpu: Gpu = GPU, endorsements: nvgpu.Endorsements = ENDORSEMENTS, **options: object) -> str:
    with pytest.raises(VerificationError) as caught:
        authenticate(gpu, endorsements, **options)
    assert caught.value.layer == "nvgpu"
    return caught.value.code


def with_leaf(made: Issued) -> Gpu:
    return Gpu(chain=[made, *GPU.chain[1:]])


def test_accepted_with_manifests_and_responses() -> None:
    found = authenticate()
    assert found.skipped == ()
    assert (found.model, found.report.nonce) == ("GH100 A01 GSP BROM", NONCE)
    assert len(found.device) == 32


def test_what_was_skipped_is_said() -> None:
    bare = nvgpu.Endorsements(ENDORSEMENTS.device_roots)
    found = authenticate(endorsements=bare, unsafe_without_revocation=True, unsafe_without_rims=True)
    assert found.skipped == (
        "NVIDIA: revocation of the certificates was not checked.",
        "NVIDIA: there is no driver manifest to compare with.",
        "NVIDIA: there is no VBIOS manifest to compare with.",
    )
    only = replace(ENDORSEMENTS, vbios_rim=None)
    assert authenticate(endorsements=only, unsafe_without_rims=True).skipped == found.skipped[2:]


# The report.


def test_signed_by_another_key() -> None:
    evidence = nvgpu.Evidence(GPU.sign(GPU.message(), key("attacker")), GPU.pem())
    with pytest.raises(VerificationError) as caught:
        nvgpu.authenticate(evidence, ENDORSEMENTS, now=NOW)
    assert caught.value.code == "signature"


def test_request_and_response_are_both_signed() -> None:
    good = GPU.evidence().report
    for offset in (10, 60, len(good) - 150):
        changed = bytearray(good)
        changed[offset] ^= 1
        with pytest.raises((VerificationError, MalformedInput)):
            nvgpu.authenticate(nvgpu.Evidence(bytes(changed), GPU.pem()), ENDORSEMENTS, now=NOW)


def test_a_key_of_another_curve_or_kind() -> None:
    extension = (leaf(GPU.chain[1]).certificate.extensions[-1].value, False)
    for public in (key("p256", ec.SECP256R1).public_key(), rsa.generate_private_key(65537, 2048).public_key()):
        wrong = issue("leaf", GPU.chain[1], ca=None, key_usage=SIGNER, extensions=[extension], public=public)
        assert code(with_leaf(wrong)) == "key"


def test_firmware_identity() -> None:
    assert code(with_leaf(leaf(GPU.chain[1], device_identity(bytes(48))))) == "fwid"
    assert code(with_leaf(leaf(GPU.chain[1], b""))) == "fwid"
    without = {kind: item for kind, item in GPU.opaque.items() if kind != 20}
    assert code(Gpu(chain=GPU.chain, opaque=without)) == "fwid"
    assert code(Gpu(chain=[leaf(GPU.chain[1], b""), *GPU.chain[1:]], opaque=without)) == "fwid"
    assert code(Gpu(chain=GPU.chain, opaque=GPU.opaque | {20: FWID[::-1]})) == "fwid"


def test_chain_of_the_device() -> None:
    other = replace(ENDORSEMENTS, device_roots=(issue("device root").der,))
    assert code(endorsements=other) == "root"
    assert code(endorsements=replace(ENDORSEMENTS, device_roots=ENDORSEMENTS.rim_roots)) == "root"
    assert code(Gpu(chain=GPU.chain[:1] + GPU.chain[2:])) == "certificate_signature"
    assert code(now=NOW + timedelta(days=31)) == "certificate_time"


def test_a_chain_of_the_device_alone_is_checked_at_now() -> None:
    bare = nvgpu.Endorsements(ENDORSEMENTS.device_roots)
    options = {"unsafe_without_revocation": True, "unsafe_without_rims": True}
    assert code(endorsements=bare, now=NOW + timedelta(days=31), **options) == "certificate_time"


@pytest.mark.parametrize("pem", [b"", b"text", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_certificates_that_are_none(pem: bytes) -> None:
    with pytest.raises(MalformedInput):
        nvgpu.authenticate(nvgpu.Evidence(GPU.evidence().report, pem), ENDORSEMENTS, now=NOW)


def test_certificates_are_bounded() -> None:
    padded = GPU.pem() + b"\n" * (65_536 - len(GPU.pem()))
    nvgpu.authenticate(nvgpu.Evidence(GPU.evidence().report, padded), ENDORSEMENTS, now=NOW)
    with pytest.raises(MalformedInput, match="65536"):
        nvgpu.authenticate(nvgpu.Evidence(GPU.evidence().report, padded + b"\n"), ENDORSEMENTS, now=NOW)


# Revocation.


def test_every_certificate_but_leaf_and_root_needs_a_response() -> None:
    everything = MAKER.responses()
    assert len(everything) == 5  # boot ROM, provisioner, identity; signer and authority of manifests
    for index in range(5):
        rest = everything[:index] + everything[index + 1 :]
        assert code(endorsements=replace(ENDORSEMENTS, ocsp=rest)) == "ocsp_missing"


def test_revoked_boot_rom_and_revoked_signer_of_manifests() -> None:
    everything = MAKER.responses()
    for index, (subject, issuer) in {0: GPU.chain[1:3], 3: MAKER.chain[:2]}.items():
        revoked = response(subject, issuer, status=OCSPCertStatus.REVOKED)
        changed = (*everything[:index], revoked, *everything[index + 1 :])
        assert code(endorsements=replace(ENDORSEMENTS, ocsp=changed)) == "revoked"
        authenticate(endorsements=replace(ENDORSEMENTS, ocsp=changed), unsafe_without_revocation=True)


# Manifests.


def test_manifests_have_to_be_there() -> None:
    for name in ("driver_rim", "vbios_rim"):
        assert code(endorsements=replace(ENDORSEMENTS, **{name: None})) == "rim_missing"


def test_manifests_are_signed_by_the_maker() -> None:
    forged = MAKER.driver_rim(own=key("attacker"))
    assert code(endorsements=replace(ENDORSEMENTS, driver_rim=forged)) == "rim_signature"
    changed = MAKER.vbios_rim().replace(value(1).hex().encode(), bytes(48).hex().encode())
    assert code(endorsements=replace(ENDORSEMENTS, vbios_rim=changed)) == "rim_digest"
    other = signed(tag(DRIVER, DRIVER_BLOCKS), manifest_chain())
    assert code(endorsements=replace(ENDORSEMENTS, driver_rim=other)) == "root"
    assert code(endorsements=replace(ENDORSEMENTS, rim_roots=ENDORSEMENTS.device_roots)) == "root"
    assert code(endorsements=replace(ENDORSEMENTS, rim_roots=())) == "root"


def test_manifests_are_checked_at_now() -> None:
    root = issue("rim root")
    late = [issue("rim signer", root, ca=False, key_usage=SIGNER, days=(-9, -8)), root]
    endorsements = replace(
        ENDORSEMENTS, rim_roots=(root.der, *ENDORSEMENTS.rim_roots), vbios_rim=signed(tag(VBIOS, VBIOS_BLOCKS), late)
    )
    assert code(endorsements=endorsements, unsafe_without_revocation=True) == "certificate_time"


def test_two_manifests_on_one_measurement() -> None:
    both = signed(tag(VBIOS, (1, 8)), MAKER.chain)
    assert code(endorsements=replace(ENDORSEMENTS, vbios_rim=both)) == "rim_conflict"


# Several GPUs.


def test_several_gpus() -> None:
    maker = Maker(gpus=[Gpu(), Gpu(chain=device_chain("GH100 other"))])
    endorsements = maker.endorsements()
    evidence = [gpu.evidence() for gpu in maker.gpus]
    found = nvgpu.authenticate_all(evidence, endorsements, now=NOW)
    assert [item.model for item in found] == ["GH100 A01 GSP BROM", "GH100 other"]

    def several(*wrong: nvgpu.Evidence) -> str:
        with pytest.raises(VerificationError) as caught:
            nvgpu.authenticate_all(wrong, endorsements, now=NOW)
        return caught.value.code

    assert several() == "nonces"
    assert several(evidence[0], evidence[0]) == "device_twice"
    assert several(evidence[0], maker.gpus[1].evidence(bytes(32))) == "nonces"
    again = Gpu(chain=[leaf(maker.gpus[0].chain[1], common="next boot"), *maker.gpus[0].chain[1:]])
    assert several(evidence[0], again.evidence()) == "device_twice"


def test_a_boot_rom_without_a_common_name_is_of_no_model() -> None:
    named = device_chain()
    rom = issue("nameless", named[2], subject=x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "x")]))
    maker = Maker(gpus=[Gpu(chain=[leaf(rom), rom, *named[2:]])])
    assert nvgpu.authenticate(maker.gpus[0].evidence(), maker.endorsements(), now=NOW).model == ""


# Claims.


def claims(gpu: Gpu = GPU, **options: object) -> nvgpu.Claims:
    return nvgpu.claims(authenticate(gpu, **options))


def measuring(**options: object) -> Gpu:
    return Gpu(chain=GPU.chain, **options)  # type: ignore[arg-type]


def test_claims_of_good_evidence() -> None:
    found = claims()
    assert (found.matched, found.mismatched, found.debug) == ((1, 2, 8, 13, 22, 36), (), False)
    assert found.uncovered == tuple(set(range(1, 65)) - set(found.matched))
    assert (found.bound, found.driver_version, found.vbios_version) == (NONCE.hex(), DRIVER, VBIOS)
    assert (found.driver_rim_version, found.vbios_rim_version) == (DRIVER, VBIOS)
    assert found.rim_products == ("GH100", "GH100")
    assert found.measurements["64"] == value(64).hex()
    assert canonical.parse(nvgpu.Claims, canonical.dump_model(found), "claims") == found


def test_alternatives_are_allowed_and_others_are_not() -> None:
    older = measuring(measurements=GPU.measurements | {8: value(8, "older")})
    assert claims(older).mismatched == ()
    for block, wrong in ((8, b"\0" * 48), (1, value(2)), (13, b"")):
        found = claims(measuring(measurements=GPU.measurements | {block: wrong}))
        assert [item.block for item in found.mismatched] == [block]
        assert found.mismatched[0].found == wrong.hex()
        assert found.mismatched[0].allowed == (value(block, "older").hex(), value(block).hex())
        assert found.debug


def test_a_missing_block_is_a_mismatch() -> None:
    found = claims(measuring(measurements={key: item for key, item in GPU.measurements.items() if key != 22}))
    assert [(item.block, item.found) for item in found.mismatched] == [(22, "")]


def test_the_video_decoders_block_counts_only_while_it_is_on() -> None:
    wrong = GPU.measurements | {36: bytes(48)}
    assert [item.block for item in claims(measuring(measurements=wrong)).mismatched] == [36]
    off = claims(measuring(measurements=wrong, opaque=GPU.opaque | {11: b"\x55"}))
    assert off.mismatched == ()
    assert 36 in off.uncovered


def test_debugging_is_ruled_out_by_both_manifests_alone() -> None:
    for name in ("driver_rim", "vbios_rim"):
        found = claims(endorsements=replace(ENDORSEMENTS, **{name: None}), unsafe_without_rims=True)
        assert found.debug
        assert found.matched


def test_manifests_of_nothing_rule_nothing_out() -> None:
    empty = tag("1", (), entries=tag("x", (5,)).split("<Payload>\n")[1].split("</Payload>")[0].replace("True", "False"))
    nothing = signed(empty, MAKER.chain)
    found = claims(endorsements=replace(ENDORSEMENTS, driver_rim=nothing, vbios_rim=nothing))
    assert (found.matched, found.mismatched, found.debug) == ((), (), True)
    rules = {line.rule: line.holds for line in nvgpu.appraise(found, nvgpu.Policy(**POLICY))}
    assert (rules["nvgpu.measurements"], rules["nvgpu.debug"]) == (False, False)


# Policy.


def broken(found: nvgpu.Claims, **policy: object) -> list[str]:
    read = canonical.validate(nvgpu.Policy, POLICY | policy, "policy")
    return [line.rule for line in nvgpu.appraise(found, read) if not line.holds]


def test_a_policy_holds() -> None:
    assert broken(claims()) == []
    assert len(nvgpu.appraise(claims(), nvgpu.Policy())) == 9


def test_the_default_policy_names_no_version_and_refuses() -> None:
    assert broken(claims(), drivers=(), vbioses=()) == ["nvgpu.driver", "nvgpu.vbios"]
    assert broken(claims(), drivers=("550.90.08",)) == ["nvgpu.driver"]
    assert broken(claims(), vbioses=("96.00.9F.00.02",)) == ["nvgpu.vbios"]
    assert broken(claims(), drivers=(), vbioses=(), unsafe_any_version=True) == []


def test_manifests_of_other_versions_or_chips() -> None:
    def with_rims(driver: str, vbios: str) -> nvgpu.Claims:
        return claims(
            endorsements=replace(
                ENDORSEMENTS,
                driver_rim=signed(driver, MAKER.chain),
                vbios_rim=signed(vbios, MAKER.chain),
            )
        )

    good = tag(DRIVER, DRIVER_BLOCKS), tag(VBIOS, VBIOS_BLOCKS)
    assert broken(with_rims(tag("545.00", DRIVER_BLOCKS), good[1])) == ["nvgpu.driver_rim"]
    assert broken(with_rims(good[0], tag("96.00.5E.00.01", VBIOS_BLOCKS))) == ["nvgpu.vbios_rim"]
    assert broken(with_rims(good[0], tag(VBIOS.lower(), VBIOS_BLOCKS))) == []
    assert broken(with_rims(tag(DRIVER, DRIVER_BLOCKS, product="GB100"), good[1])) == ["nvgpu.product"]
    assert broken(with_rims(good[0], tag(VBIOS, VBIOS_BLOCKS, product="GB100"))) == ["nvgpu.product"]
    swapped = replace(ENDORSEMENTS, driver_rim=ENDORSEMENTS.vbios_rim, vbios_rim=ENDORSEMENTS.driver_rim)
    assert broken(claims(endorsements=swapped)) == ["nvgpu.driver_rim", "nvgpu.vbios_rim"]


def test_wrong_measurements() -> None:
    wrong = claims(measuring(measurements=GPU.measurements | {8: bytes(48)}))
    assert broken(wrong) == ["nvgpu.measurements", "nvgpu.debug"]
    assert broken(wrong, unsafe_without_rims=True) == []


def test_no_manifests() -> None:
    bare = replace(ENDORSEMENTS, driver_rim=None, vbios_rim=None)
    found = claims(endorsements=bare, unsafe_without_rims=True)
    assert broken(found) == [
        "nvgpu.measurements", "nvgpu.debug", "nvgpu.driver_rim", "nvgpu.vbios_rim", "nvgpu.product"
    ]  # fmt: skip
    assert broken(found, unsafe_without_rims=True) == []


def test_no_revocation() -> None:
    found = claims(unsafe_without_revocation=True)
    assert broken(found) == ["nvgpu.revocation"]
    assert broken(found, unsafe_without_revocation=True) == []


def test_protected_pcie() -> None:
    assert broken(claims(), protected_pcie=True) == ["nvgpu.protected_pcie"]
    protected = claims(measuring(opaque=GPU.opaque | {21: b"\xaa"}))
    assert broken(protected, protected_pcie=True) == []
    assert broken(protected) == []


def test_a_policy_is_strict() -> None:
    for wrong in ({"driver": ("1",)}, {"drivers": "1"}, {"unsafe_any_version": 1}):
        with pytest.raises(MalformedInput):
            canonical.validate(nvgpu.Policy, wrong, "policy")


SMALL = Gpu(chain=GPU.chain, measurements={block: value(block) for block in (*DRIVER_BLOCKS, *VBIOS_BLOCKS)})
REPORT = SMALL.evidence()


@MUTATIONS
@given(st.data())
def test_a_mutated_report_is_refused(random: st.DataObject) -> None:
    changed = replace(REPORT, report=random.draw(mutated(REPORT.report)))
    try:
        nvgpu.authenticate(changed, ENDORSEMENTS, now=NOW)
    except VitrineError:
        return
    assert changed == REPORT
