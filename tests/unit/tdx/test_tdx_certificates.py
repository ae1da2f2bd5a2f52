"""Certificates and revocation lists: each rule broken once, by a hierarchy that signs it so."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attest import chain as chains
from attest.errors import MalformedInput, VerificationError
from attest.tdx import authenticate, certificates
from tests.fakes import tdx
from tests.fakes.tdx import END, LIST_END, LIST_START, NOW, START, Intel

INTEL = tdx.intel()
QUOTE = INTEL.quote(tdx.domain())
SECOND = timedelta(seconds=1)


def code_of(intel: Intel, *, now: datetime = NOW, **endorsements: object) -> str:
    with pytest.raises(VerificationError) as caught:
        authenticate(intel.quote(tdx.domain()), intel.endorsements(**endorsements), now=now)
    assert caught.value.layer == "tdx"
    return caught.value.code


def leaf(subject: str | x509.Name = tdx.LEAF, **changes: object) -> Intel:
    values: dict[str, object] = {
        "key": INTEL.pck_key,
        "issuer": tdx.PLATFORM,
        "issuer_key": INTEL.authority_key,
        "ca": False,
        "extensions": tdx.intels(tdx.sgx_extension()),
    }
    return replace(INTEL, leaf=tdx.certify(subject, **values | changes))  # type: ignore[arg-type]


def authority(subject: str = tdx.PLATFORM, **changes: object) -> Intel:
    """Another authority of platforms, and a platform's certificate of its own."""
    values: dict[str, object] = {"issuer": tdx.ROOT, "issuer_key": INTEL.root_key, "ca": True}
    values["key"] = INTEL.authority_key
    certificate = tdx.certify(subject, **values | changes)  # type: ignore[arg-type]
    below = leaf(issuer=subject, issuer_key=(values | changes)["key"])
    return replace(below, authority=certificate)


def signer(subject: str = tdx.SIGNER, **changes: object) -> Intel:
    values: dict[str, object] = {"issuer": tdx.ROOT, "issuer_key": INTEL.root_key, "ca": False}
    values["key"] = INTEL.signer_key
    return replace(INTEL, signer=tdx.certify(subject, **values | changes))  # type: ignore[arg-type]


TWO_NAMES = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, tdx.LEAF), *tdx.name("other")])
OTHER = ec.generate_private_key(ec.SECP256R1())
INTELS = tdx.intels(tdx.sgx_extension())
UNKNOWN = (x509.PolicyConstraints(0, None), True)


@pytest.mark.parametrize(
    ("intel", "code"),
    [
        (leaf("Intel SGX PCK Platform CA"), "certificate-name"),
        (leaf(TWO_NAMES), "certificate-name"),
        (leaf(key=ec.generate_private_key(ec.SECP384R1())), "certificate-key"),
        (leaf(key=rsa.generate_private_key(65537, 2048)), "certificate-key"),
        (leaf(issuer_key=OTHER), "certificate-signature"),
        (leaf(issuer=tdx.PROCESSOR), "certificate-signature"),
        (leaf(ca=True, usage="data"), "certificate-constraints"),
        (leaf(ca=None), "certificate-constraints"),
        (leaf(usage="certificates"), "certificate-usage"),
        (leaf(usage=None), "certificate-usage"),
        (leaf(extensions=(*INTELS, UNKNOWN)), "critical-extension"),
        (leaf(extensions=((INTELS[0][0], True),)), "critical-extension"),
        (leaf(start=NOW + SECOND), "not-yet-valid"),
        (leaf(end=NOW - SECOND), "expired"),
        (authority(tdx.SIGNER), "certificate-name"),
        (authority(key=ec.generate_private_key(ec.SECP384R1())), "certificate-key"),
        (authority(issuer_key=OTHER), "certificate-signature"),
        (authority(ca=False, usage="certificates"), "certificate-constraints"),
        (authority(usage="data"), "certificate-usage"),
        (authority(start=NOW + SECOND), "not-yet-valid"),
        (authority(end=NOW - SECOND), "expired"),
        (signer("Intel SGX PCK Certificate"), "certificate-name"),
        (signer(issuer_key=OTHER), "certificate-signature"),
        (signer(ca=True, usage="data"), "certificate-constraints"),
        (signer(usage="certificates"), "certificate-usage"),
        (signer(end=NOW - SECOND), "expired"),
    ],
)
def test_a_certificate_that_breaks_the_profile(intel: Intel, code: str) -> None:
    assert code_of(intel) == code


def test_a_key_off_the_profile_without_lists_too() -> None:
    other = authority(key=ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(VerificationError) as caught:
        authenticate(other.quote(tdx.domain()), other.endorsements(), now=NOW, unsafe_without_revocation=True)
    assert caught.value.code == "certificate-key"


@pytest.mark.parametrize(
    ("intel", "words"), [(leaf(usage=None), "to sign data"), (authority(usage=None), "to sign certificates")]
)
def test_what_a_key_is_for_is_said(intel: Intel, words: str) -> None:
    with pytest.raises(VerificationError, match=words):
        authenticate(intel.quote(tdx.domain()), intel.endorsements(), now=NOW)


def test_both_authorities_of_platforms() -> None:
    processor = authority(tdx.PROCESSOR)
    lists = {"pck_crl": tdx.revocations(tdx.PROCESSOR, INTEL.authority_key)}
    assert authenticate(processor.quote(tdx.domain()), processor.endorsements(**lists), now=NOW).skipped == ()


def test_a_root_that_is_not_the_trusted_one() -> None:
    twin = replace(INTEL, root=tdx.certify(tdx.ROOT, INTEL.root_key, tdx.ROOT, INTEL.root_key, ca=True))
    trusted = INTEL.root.public_bytes(Encoding.DER)
    assert code_of(twin, root=trusted) == "root"
    signer_of_twin = replace(INTEL.signed(INTEL.tcb), chain=tdx.pem(INTEL.signer, twin.root))
    assert code_of(INTEL, tcb_info=signer_of_twin) == "root"


@pytest.mark.parametrize(
    "chain",
    [
        tdx.pem(INTEL.leaf, INTEL.authority),
        tdx.pem(INTEL.leaf, INTEL.authority, INTEL.root, INTEL.root),
        tdx.pem(INTEL.leaf, INTEL.root),
        b"",
    ],
)
def test_a_chain_has_its_length(chain: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        authenticate(INTEL.quote(tdx.domain(), chain=chain), INTEL.endorsements(), now=NOW)
    assert caught.value.code == "chain-length"


def test_a_chain_is_pem_and_nothing_else() -> None:
    chain = INTEL.pck_chain()
    assert certificates.load_chain(chain + b"\0", "chain") == certificates.load_chain(chain, "chain")
    block = chain.splitlines(keepends=True)[1]
    wrong = [
        chain + b"\0\0",
        b" " + chain,
        chain + b"more",
        chain.replace(block, b"=" + block[1:]),
        chain.replace(block, b"AAAA" + block[4:]),
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
    ]
    for data in wrong:
        with pytest.raises(MalformedInput, match=r"expected|cannot be read"):
            certificates.load_chain(data, "chain")


def test_the_longest_chain() -> None:
    short = tdx.pem(INTEL.leaf)
    fitting = short + b"\n" * (certificates.MAX_BYTES - len(short))
    assert len(certificates.load_chain(fitting, "chain")) == 1
    with pytest.raises(MalformedInput, match="at most"):
        certificates.load_chain(fitting + b"\n", "chain")


@pytest.mark.parametrize("now", [NOW.replace(tzinfo=None)])
def test_a_time_without_a_zone_is_the_callers_mistake(now: datetime) -> None:
    with pytest.raises(TypeError):
        authenticate(QUOTE, INTEL.endorsements(), now=now)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"root_crl": tdx.revocations(tdx.ROOT, INTEL.root_key, (INTEL.authority,))}, "revoked"),
        ({"root_crl": tdx.revocations(tdx.ROOT, INTEL.root_key, (INTEL.signer,))}, "revoked"),
        ({"pck_crl": tdx.revocations(tdx.PLATFORM, INTEL.authority_key, (INTEL.signer, INTEL.leaf))}, "revoked"),
        ({"root_crl": tdx.revocations(tdx.ROOT, OTHER)}, "crl-signature"),
        ({"root_crl": tdx.revocations(tdx.PLATFORM, INTEL.root_key)}, "crl-issuer"),
        ({"pck_crl": tdx.revocations(tdx.PLATFORM, INTEL.root_key)}, "crl-signature"),
        ({"pck_crl": tdx.revocations(tdx.PROCESSOR, INTEL.authority_key)}, "crl-issuer"),
        ({"pck_crl": tdx.revocations(tdx.ROOT, INTEL.root_key)}, "crl-issuer"),
        ({"pck_crl": tdx.revocations(tdx.PLATFORM, INTEL.authority_key, critical=True)}, "critical-extension"),
        ({"root_crl": tdx.revocations(tdx.ROOT, INTEL.root_key, start=NOW + SECOND)}, "not-yet-valid"),
        ({"root_crl": tdx.revocations(tdx.ROOT, INTEL.root_key, end=NOW - SECOND)}, "expired"),
        ({"pck_crl": tdx.revocations(tdx.PLATFORM, INTEL.authority_key, end=NOW - SECOND)}, "expired"),
        ({"root_crl": None}, "collateral-missing"),
        ({"pck_crl": None}, "collateral-missing"),
        ({"tcb_info": None}, "collateral-missing"),
        ({"qe_identity": None}, "collateral-missing"),
    ],
)
def test_what_revokes_or_is_missing(change: dict[str, object], code: str) -> None:
    assert code_of(INTEL, **change) == code


def test_the_signer_of_an_identity_can_be_revoked_on_its_own() -> None:
    other = signer()
    lists = {"root_crl": tdx.revocations(tdx.ROOT, INTEL.root_key, (other.signer,))}
    assert code_of(INTEL, qe_identity=other.signed(INTEL.qe), **lists) == "revoked"
    assert code_of(INTEL, tcb_info=other.signed(INTEL.tcb), **lists) == "revoked"


def test_times_are_inclusive() -> None:
    def accepted(now: datetime) -> bool:
        lists = {
            "root_crl": tdx.revocations(tdx.ROOT, INTEL.root_key, start=LIST_START, end=LIST_END),
            "pck_crl": tdx.revocations(tdx.PLATFORM, INTEL.authority_key, start=LIST_START, end=LIST_END),
        }
        try:
            authenticate(QUOTE, INTEL.endorsements(**lists), now=now)
        except VerificationError as error:
            assert error.code in ("not-yet-valid", "expired")
            return False
        return True

    assert [accepted(LIST_START - SECOND), accepted(LIST_START)] == [False, True]
    assert [accepted(LIST_END), accepted(LIST_END + SECOND)] == [True, False]


def test_a_list_that_names_no_end() -> None:
    whole = tdx.revocations(tdx.ROOT, INTEL.root_key)
    crl = certificates.load_crl(whole, "list")
    end = b"\x17\x0d" + LIST_END.strftime("%y%m%d%H%M%SZ").encode()
    body = crl.tbs_certlist_bytes
    assert end in body
    body = tdx.der(0x30, body[body.index(b"\x02\x01\x01") :].replace(end, b""))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    from cryptography.hazmat.primitives import hashes

    signature = INTEL.root_key.sign(body, ec.ECDSA(hashes.SHA256()))
    endless = tdx.der(0x30, body + algorithm + tdx.der(3, b"\0" + signature))
    assert certificates.load_crl(endless, "list").next_update_utc is None
    assert code_of(INTEL, root_crl=endless) == "crl-time"


def test_what_cannot_be_read() -> None:
    for change in ({"root": b"\x30\0"}, {"root_crl": b"\x30\0"}, {"pck_crl": b"no"}):
        with pytest.raises(MalformedInput):
            authenticate(QUOTE, INTEL.endorsements(**change), now=NOW)
    with pytest.raises(MalformedInput, match="at most"):
        certificates.load_crl(bytes(certificates.MAX_CRL_BYTES + 1), "list")
    with pytest.raises(MalformedInput, match="cannot be read"):
        certificates.load_crl(bytes(certificates.MAX_CRL_BYTES), "list")


def test_a_certificate_whose_key_is_no_point() -> None:
    whole = INTEL.leaf.public_bytes(Encoding.DER)
    point = tdx.point(INTEL.pck_key)
    assert chains.load(whole, "leaf") == INTEL.leaf
    with pytest.raises(MalformedInput, match="cannot be read"):
        chains.load(whole.replace(point, bytes(63) + b"\1"), "leaf")


def test_the_end_of_an_appraisal_is_its_first_end() -> None:
    until = authenticate(QUOTE, INTEL.endorsements(), now=NOW).valid_until
    assert until == LIST_END
    early = NOW + timedelta(hours=1)
    lists = {"pck_crl": tdx.revocations(tdx.PLATFORM, INTEL.authority_key, end=early)}
    assert authenticate(QUOTE, INTEL.endorsements(**lists), now=NOW).valid_until == early
    assert authenticate(leaf(end=early).quote(tdx.domain()), INTEL.endorsements(), now=NOW).valid_until == early
    signed = signer(end=early).signed(INTEL.tcb)
    assert authenticate(QUOTE, INTEL.endorsements(tcb_info=signed), now=NOW).valid_until == early
    document = INTEL.tcb | {"nextUpdate": early.strftime("%Y-%m-%dT%H:%M:%SZ")}
    assert authenticate(QUOTE, INTEL.endorsements(tcb_info=INTEL.signed(document)), now=NOW).valid_until == early
    assert START < NOW < END
