"""Each check behind a signature, reached by evidence that a synthetic AMD really signed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.sevsnp import Endorsements, Evidence, authenticate, claims
from tests.fakes import sevsnp as fake
from tests.fakes.mutate import EXAMPLES
from tests.fakes.sevsnp import DAY, NOW, Chip, Vendor, integer
from tests.fakes.sevsnp_scene import Scene, of, refused

ID_KEY_DIGEST = {"id_key_digest": hashlib.sha384(fake.amd_key(fake.ec_key("id"))).digest()}
AUTHOR = {
    "keys": 1,
    "author_key_digest": hashlib.sha384(fake.amd_key(fake.ec_key("author"))).digest(),
}
OTHER_SIGNATURE = fake.amd_signature(fake.ec_key("other"), b"")


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("kind", ["vcek", "vlek"])
@pytest.mark.parametrize("version", [2, 3, 5])
def test_good_evidence_is_accepted(product: str, kind: str, version: int) -> None:
    found = of(product, kind, version).decide()
    assert (found.chip.product, found.chip.kind, found.report.version) == (product, kind, version)
    assert found.skipped == () and not found.id_block
    assert (found.chip.provider, found.chip.chip_id is None) == (
        ("CN=a.lender", True) if kind == "vlek" else (None, False)
    )
    expected = {
        "Milan": "fmc 0, boot_loader 4, tee 0, snp 24, microcode 219",
        "Genoa": "fmc 0, boot_loader 10, tee 0, snp 25, microcode 84",
        "Turin": "fmc 1, boot_loader 2, tee 3, snp 4, microcode 72",
    }[product]
    tcbs = (found.reported_tcb, found.committed_tcb, found.current_tcb, found.launch_tcb)
    assert {str(tcb) for tcb in tcbs} == {expected}


def test_each_tcb_is_read_from_its_own_field() -> None:
    def tcb(microcode: int) -> bytes:
        return bytes([4, 0, 0, 0, 0, 0, 24, microcode])

    found = Scene(report={"committed_tcb": tcb(220), "current_tcb": tcb(221), "launch_tcb": tcb(222)}).decide()
    levels = [found.reported_tcb, found.committed_tcb, found.current_tcb, found.launch_tcb]
    assert [level.microcode for level in levels] == [219, 220, 221, 222]


def test_an_id_block_is_verified() -> None:
    assert Scene(report=ID_KEY_DIGEST, block={}).decide().id_block
    assert Scene(report=ID_KEY_DIGEST | AUTHOR, block={}).decide().id_block
    # Without an author's key, what stands in its place is not looked at.
    assert Scene(report=ID_KEY_DIGEST, block={}, authentication={"author_algorithm": 0}).decide().id_block


def test_both_spellings_of_a_chip_id_are_read() -> None:
    chip_id = Chip().chip_id
    assert Scene(leaf={"chip_id": b"\x04\x40" + chip_id}).decide().chip.chip_id == chip_id
    turin = of("Turin")
    turin.leaf = {"chip_id": b"\x04\x08" + turin.chip.chip_id[:8]}
    assert turin.decide().chip.chip_id == turin.chip.chip_id


def test_what_is_not_amds_and_not_critical_does_not_matter() -> None:
    number = ((x509.CRLNumber(7), False),)
    scene = Scene(leaf={"more": ((fake.key_usage(signs=False), False),)}, crls=(Vendor().crl(extensions=number),))
    assert scene.decide().chip.product == "Milan"


def test_a_guest_that_may_be_debugged_says_so() -> None:
    assert claims(Scene().decide()).debug is False
    assert claims(Scene(report={"policy": 1 << 19 | fake.TRUE_POLICY}).decide()).debug is True


def test_collateral_of_several_products_is_sorted_out() -> None:
    milan, genoa = of("Milan"), Vendor("Genoa")
    milan.more = (genoa.ark, genoa.ask, genoa.asvk, milan.vendor.asvk)
    milan.crls = (genoa.crl(), milan.vendor.crl())
    assert milan.decide().chip.product == "Milan"
    # A list of another root's is no list of this one's.
    assert refused(replace(milan, crls=(genoa.crl(),))) == "crl-missing"


def test_a_skipped_revocation_is_recorded() -> None:
    assert len(Scene(crls=(), unsafe=True).decide().skipped) == 1
    # Whoever has a list is held to it.
    assert refused(Scene(crls=(Vendor().crl(0x10001),), unsafe=True)) == "revoked"
    assert Scene(unsafe=True).decide().skipped == ()


def test_the_time_has_to_be_aware() -> None:
    with pytest.raises(TypeError, match="expected an aware time"):
        Scene(now=datetime(2026, 3, 1)).decide()


@pytest.mark.parametrize(
    ("until", "changes"),
    [
        (30, {}),
        (29, {"leaf": {"ends": NOW + 29 * DAY}}),
        (28, {"ask": lambda: ask(MILAN, ends=NOW + 28 * DAY)}),
        (27, {"ark": lambda: ark(MILAN, ends=NOW + 27 * DAY)}),
        (26, {"crls": lambda: (MILAN.crl(), MILAN.crl(ends=NOW + 26 * DAY))}),
        (300, {"crls": (), "unsafe": True}),
    ],
)
def test_a_verdict_holds_until_the_first_document_ends(until: int, changes: dict[str, Any]) -> None:
    scene = Scene(**{name: value() if callable(value) else value for name, value in changes.items()})
    found = scene.decide()
    assert found.valid_until == NOW + until * DAY
    assert found.root == digest_of(scene.endorsements().certificates[0])


def test_the_ends_of_a_time_belong_to_it() -> None:
    ends = {"leaf": {"begins": NOW, "ends": NOW}, "crls": (MILAN.crl(begins=NOW, ends=NOW + DAY),)}
    assert Scene(**ends).decide().valid_until == NOW
    assert Scene(crls=(MILAN.crl(begins=NOW - DAY, ends=NOW),)).decide().valid_until == NOW


AUTHORITY_BUT = {
    "not-ca": ((x509.BasicConstraints(ca=False, path_length=None), True), (fake.key_usage(), True)),
    "no-basic-constraints": ((fake.key_usage(), True),),
    "may-not-sign": ((x509.BasicConstraints(ca=True, path_length=None), True), (fake.key_usage(signs=False), True)),
    "no-key-usage": ((x509.BasicConstraints(ca=True, path_length=None), True),),
}
STRANGE = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)


def ask(vendor: Vendor, **changes: Any) -> bytes:
    return vendor.authority("SEV-{}", "ask", "ARK-{}", "ark", **({"serial": 0x10001} | changes))


def ark(vendor: Vendor, **changes: Any) -> bytes:
    return vendor.authority("ARK-{}", "ark", "ARK-{}", "ark", **changes)


MILAN = Vendor()
CASES: dict[str, tuple[str, Scene]] = {
    # The root.
    "no root is pinned": ("root", Scene(roots=frozenset())),
    "another root is pinned": ("root", Scene(roots=frozenset({digest_of(Vendor("Genoa").ark)}))),
    "a root of the same name": ("root", Scene(ark=ark(MILAN, serial=7), roots=frozenset({digest_of(MILAN.ark)}))),
    # The path.
    "no ASK": ("issuer", Scene(ask=MILAN.ark)),
    "two ASKs": ("issuer", Scene(more=(ask(MILAN, serial=9),))),
    "no ARK": ("issuer", Scene(ark=MILAN.ask)),
    "a leaf that the ASK did not sign": ("certificate-signature", Scene(leaf={"issuer_key": "other"})),
    "an ASK that the ARK did not sign": (
        "certificate-signature",
        Scene(ask=MILAN.authority("SEV-{}", "ask", "ARK-{}", "other")),
    ),
    "a leaf with PKCS#1 v1.5": (
        "certificate-algorithm",
        Scene(leaf={"rsa_padding": padding.PKCS1v15()}),
    ),
    "an ASK with PKCS#1 v1.5": ("certificate-algorithm", Scene(ask=ask(MILAN, rsa_padding=padding.PKCS1v15()))),
    "a leaf with SHA-256": (
        "certificate-algorithm",
        Scene(leaf={"algorithm": hashes.SHA256(), "rsa_padding": padding.PSS(padding.MGF1(hashes.SHA256()), 32)}),
    ),
    **{
        f"{who.__name__}: {why}": ("certificate-authority", Scene(**{who.__name__: who(MILAN, extensions=how)}))
        for why, how in AUTHORITY_BUT.items()
        for who in (ask, ark)
    },
    "a leaf with an unknown critical extension": ("certificate-extension", Scene(leaf={"more": (STRANGE,)})),
    "an ASK with one": ("certificate-extension", Scene(ask=ask(MILAN, extensions=(*fake.AUTHORITY, STRANGE)))),
    "an ARK with one": ("certificate-extension", Scene(ark=ark(MILAN, extensions=(*fake.AUTHORITY, STRANGE)))),
    # Time.
    "a leaf not yet valid": ("certificate-validity", Scene(leaf={"begins": NOW + DAY})),
    "a leaf no longer valid": ("certificate-validity", Scene(leaf={"ends": NOW - DAY})),
    "an ASK not yet valid": ("certificate-validity", Scene(ask=ask(MILAN, begins=NOW + DAY))),
    "an ASK no longer valid": ("certificate-validity", Scene(ask=ask(MILAN, ends=NOW - DAY))),
    "an ARK not yet valid": ("certificate-validity", Scene(ark=ark(MILAN, begins=NOW + DAY))),
    "an ARK no longer valid": ("certificate-validity", Scene(ark=ark(MILAN, ends=NOW - DAY))),
    # Revocation.
    "no list": ("crl-missing", Scene(crls=())),
    "a list of another name": ("crl-missing", Scene(crls=(MILAN.crl(issuer="ARK-Other"),))),
    "a list of another key": ("crl-signature", Scene(crls=(MILAN.crl(key=fake.rsa_key("other")),))),
    "a list with PKCS#1 v1.5": ("certificate-algorithm", Scene(crls=(MILAN.crl(rsa_padding=padding.PKCS1v15()),))),
    "a list with SHA-256": (
        "certificate-algorithm",
        Scene(crls=(MILAN.crl(algorithm=hashes.SHA256(), rsa_padding=padding.PSS(padding.MGF1(hashes.SHA256()), 32)),)),
    ),
    "a list to come": ("crl-validity", Scene(crls=(MILAN.crl(begins=NOW + DAY),))),
    "a list without an end": ("crl-validity", Scene(crls=(MILAN.crl_without_end(),))),
    "a list that is out of date": ("crl-validity", Scene(crls=(MILAN.crl(ends=NOW - timedelta(hours=1)),))),
    "one of two lists out of date": (
        "crl-validity",
        Scene(crls=(MILAN.crl(), MILAN.crl(ends=NOW - timedelta(hours=1)))),
    ),
    "a list of a part": (
        "crl-extension",
        Scene(crls=(MILAN.crl(extensions=((x509.DeltaCRLIndicator(1), True),)),)),
    ),
    "a revoked ASK": ("revoked", Scene(crls=(MILAN.crl(5, 0x10001),))),
    "a revoked ARK": ("revoked", Scene(crls=(MILAN.crl(1),))),
    "revoked in the second list": ("revoked", Scene(crls=(MILAN.crl(), MILAN.crl(0x10001)))),
    # The chip's key.
    "a VCEK issued by the ASVK": (
        "issuer-kind",
        Scene(ask=MILAN.asvk, leaf={"issuer": "SEV-VLEK-Milan", "issuer_key": "asvk"}),
    ),
    "a VLEK issued by the ASK": (
        "issuer-kind",
        Scene(Chip(kind="vlek"), ask=MILAN.ask, leaf={"issuer": "SEV-Milan", "issuer_key": "ask"}),
    ),
    "a leaf issued by the ARK itself": (
        "issuer-kind",
        Scene(leaf={"issuer": "ARK-Milan", "issuer_key": "ark"}),
    ),
    "a Genoa issued by Milan's ASK": ("issuer-kind", Scene(leaf={"product": "Genoa-B0"})),
    "another chip's key": ("signature", Scene(leaf={"key": fake.ec_key("another chip")})),
    "a VLEK's report under a VCEK": ("signing-key", Scene(report={"keys": 4})),
    "a VCEK's report under a VLEK": ("signing-key", Scene(Chip(kind="vlek"), report={"keys": 0})),
    "a report that says nothing signed it": ("signing-key", Scene(report={"keys": 7 << 2})),
    "another chip's id": ("chip-id", Scene(report={"chip_id": b"\x55" * 64})),
    "a masked chip id": ("chip-id", Scene(report={"chip_id": bytes(64)})),
    "another product's CPUID": ("product", Scene(report={"cpuid": fake.CPUID["Genoa"]})),
    "older versions than the certificate's": ("certificate-tcb", Scene(report={"reported_tcb": bytes(8)})),
    "a certificate of older versions": ("certificate-tcb", Scene(leaf={"tcb": bytes(8)})),
    "a certificate of another reserved level": (
        "certificate-tcb",
        Scene(leaf={"tcb": bytes.fromhex("04000100000018db")}),
    ),
    # The ID block.
    "an ID block where the firmware saw none": ("id-key", Scene(block={})),
    "an ID block of another key": (
        "id-block-signature",
        Scene(report=ID_KEY_DIGEST, block={}, authentication={"block_signature": OTHER_SIGNATURE}),
    ),
    "an ID block of another measurement": ("id-block-measurement", Scene(report=ID_KEY_DIGEST, block={"digest": b"x"})),
    "an ID block of another family": ("id-block-family", Scene(report=ID_KEY_DIGEST, block={"family": b"x"})),
    "an ID block of another image": ("id-block-image", Scene(report=ID_KEY_DIGEST, block={"image": b"x"})),
    "an ID block of another version": ("id-block-svn", Scene(report=ID_KEY_DIGEST, block={"svn": 1})),
    "an ID block of another policy": ("id-block-policy", Scene(report=ID_KEY_DIGEST, block={"policy": 1 << 19})),
    "an author's key never seen": ("author-key", Scene(report=ID_KEY_DIGEST | {"keys": 1}, block={})),
    "an author's key of another kind": (
        "author-algorithm",
        Scene(report=ID_KEY_DIGEST | AUTHOR, block={}, authentication={"author_algorithm": 2}),
    ),
    "an ID key that the author did not sign": (
        "id-key-signature",
        Scene(report=ID_KEY_DIGEST | AUTHOR, block={}, authentication={"key_signature": OTHER_SIGNATURE}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_evidence_is_refused(name: str) -> None:
    code, scene = CASES[name]
    assert refused(scene) == code


MALFORMED: dict[str, tuple[str, Scene]] = {
    "no structure version": ("3704.1.1, found none", Scene(leaf={"without": "1"})),
    "no product": ("3704.1.2, found none", Scene(leaf={"without": "2"})),
    "no microcode level": ("3704.1.3.8, found none", Scene(leaf={"without": "3.8"})),
    "no chip id": ("3704.1.4, found none", Scene(leaf={"without": "4"})),
    "no provider": ("3704.1.5, found none", Scene(Chip(kind="vlek"), leaf={"without": "5"})),
    "a chip id that is short": ("one DER value with tag 0x04", Scene(leaf={"chip_id": bytes(63)})),
    "a wrapped chip id that is short": ("chip id of 64 bytes", Scene(leaf={"chip_id": b"\x04\x08" + bytes(8)})),
    "a key on P-256": ("a key on P-384", Scene(leaf={"key": fake.ec_key("small", ec.SECP256R1)})),
    "an RSA key": ("a key on P-384", Scene(leaf={"key": fake.rsa_key("other")})),
    "a level above a byte": ("integer of one byte", Scene(leaf={"amd": {"3.1": b"\x02\x02\x01\x00"}})),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_certificates_that_amd_would_not_issue_are_malformed(name: str) -> None:
    message, scene = MALFORMED[name]
    with pytest.raises(MalformedInput, match=message):
        scene.decide()


UNSUPPORTED: dict[str, tuple[str, Scene]] = {
    "another subject": ("SEV-VCEK or SEV-VLEK", Scene(leaf={"subject": "SEV-OTHER"})),
    "another structure": ("structure version 0 or 1", Scene(leaf={"amd": {"1": integer(2)}})),
    "another product": ("one of Milan", Scene(leaf={"product": "Venice"})),
    "a reserved component": (
        "reserved bytes of Milan",
        Scene(report={"current_tcb": bytes.fromhex("04000100000018db")}),
    ),
    "an unknown processor": ("no known product", Scene(report={"cpuid": b"\x1b\x00\x00"})),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_known_is_unsupported(name: str) -> None:
    message, scene = UNSUPPORTED[name]
    with pytest.raises(Unsupported, match=message):
        scene.decide()


@pytest.mark.parametrize("field_name", ["committed_tcb", "current_tcb", "launch_tcb"])
def test_every_tcb_is_read_strictly(field_name: str) -> None:
    with pytest.raises(Unsupported, match="reserved bytes"):
        Scene(report={field_name: b"\x00\x00\x00\x00\x00\x01\x00\x00"}).decide()


@pytest.mark.parametrize("missing", ["id_block", "id_authentication"])
def test_an_id_block_and_its_authentication_come_together(missing: str) -> None:
    scene = Scene(report=ID_KEY_DIGEST, block={})
    evidence = scene.evidence().model_copy(update={missing: None})
    roots = {digest_of(MILAN.ark)}
    with pytest.raises(MalformedInput, match="one without the other"):
        authenticate(evidence, scene.endorsements(), roots=roots, now=NOW)


@pytest.mark.parametrize(
    "change",
    [lambda data: b"\x30", lambda data: data + b"\0", lambda data: data[:-1], lambda data: bytes(20000)],
    ids=["stub", "trailing", "cut", "huge"],
)
@pytest.mark.parametrize("part", ["leaf", "ask", "crl"])
def test_what_is_no_certificate_is_malformed(part: str, change: Callable[[bytes], bytes]) -> None:
    scene = Scene()
    evidence, endorsements = scene.evidence(), scene.endorsements()
    roots = {digest_of(MILAN.ark)}
    if part == "leaf":
        evidence = evidence.model_copy(update={"certificate": change(evidence.certificate)})
    elif part == "ask":
        endorsements = replace(endorsements, certificates=(MILAN.ark, change(MILAN.ask)))
    else:
        endorsements = replace(endorsements, crls=(change(endorsements.crls[0]),))
    with pytest.raises(MalformedInput):
        authenticate(evidence, endorsements, roots=roots, now=NOW)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    part=st.sampled_from(["id_block", "id_authentication", "crl"]), place=st.integers(0, 4095), byte=st.integers(0, 255)
)
def test_mutated_blocks_and_lists_are_never_accepted(part: str, place: int, byte: int) -> None:
    evidence, endorsements = MUTABLE
    good = endorsements.crls[0] if part == "crl" else getattr(evidence, part)
    place %= len(good)
    if good[place] == byte:
        return
    changed = good[:place] + bytes([byte]) + good[place + 1 :]
    if part == "crl":
        endorsements = replace(endorsements, crls=(changed,))
    else:
        evidence = evidence.model_copy(update={part: changed})
    with pytest.raises((VerificationError, MalformedInput, Unsupported)):
        authenticate(evidence, endorsements, roots={digest_of(MILAN.ark)}, now=NOW)


def _mutable() -> tuple[Evidence, Endorsements]:
    scene = Scene(report=ID_KEY_DIGEST | AUTHOR, block={}, crls=(MILAN.crl(5, 6),))
    assert scene.decide().id_block
    return scene.evidence(), scene.endorsements()


MUTABLE = _mutable()
