"""Signatures and documents: each broken once, with everything before it whole."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.tdx import Authenticated, Endorsements, authenticate, collateral, layout
from attest.tdx.authenticate import WITHOUT_REVOCATION, WITHOUT_TCB
from tests.fakes import tdx
from tests.fakes.tdx import NOW

INTEL = tdx.intel()
OTHER = ec.generate_private_key(ec.SECP256R1())
DOMAIN = tdx.domain()


def code_of(quote: bytes, endorsements: Endorsements | None = None) -> str:
    with pytest.raises(VerificationError) as caught:
        authenticate(quote, endorsements or INTEL.endorsements(), now=NOW)
    assert caught.value.layer == "tdx"
    return caught.value.code


def with_info(**changes: Any) -> Endorsements:
    return replace(INTEL, tcb=INTEL.tcb | changes).endorsements()


def with_identity(**changes: Any) -> Endorsements:
    return replace(INTEL, qe=INTEL.qe | changes).endorsements()


@pytest.mark.parametrize(
    ("version", "body"),
    [(4, DOMAIN), (5, DOMAIN), (5, tdx.domain(td15=True))],
)
def test_a_domain_that_is_as_it_should_be(version: int, body: bytes) -> None:
    result = authenticate(INTEL.quote(body, version=version), INTEL.endorsements(), now=NOW)
    assert result.standing is not None
    assert (result.standing.status, result.standing.module, result.standing.evaluation) == ("UpToDate", "UpToDate", 18)
    assert (result.skipped, result.pck.fmspc) == ((), tdx.FMSPC)


@pytest.mark.parametrize("version", [3, 4, 5])
def test_an_enclave_that_is_as_it_should_be(version: int) -> None:
    sgx = INTEL.for_sgx()
    result = authenticate(sgx.quote(tdx.enclave(), version=version), sgx.endorsements(), now=NOW)
    assert result.standing is not None
    assert (result.standing.status, result.standing.module) == ("UpToDate", None)


def test_signatures_by_another_key() -> None:
    assert code_of(replace(INTEL, pck_key=OTHER).quote(DOMAIN)) == "qe-signature"
    signed = INTEL.quote(DOMAIN)
    body = layout.parse(signed).signed
    foreign = tdx.sign(OTHER, body)
    assert code_of(signed[: len(body) + 4] + foreign + signed[len(body) + 4 + 64 :]) == "quote-signature"


def test_the_attestation_key_is_the_one_that_the_quoting_enclave_bound() -> None:
    key = tdx.point(INTEL.attestation_key)
    digest = sha256(key + tdx.QE_AUTH).digest()
    for bound in (sha256(key).digest() + bytes(32), bytes(64), digest + b"\1" * 32, digest[:31] + b"\0" * 33):
        assert code_of(INTEL.quote(DOMAIN, bound=bound)) == "key-binding"


def test_an_attestation_key_off_the_curve() -> None:
    quote = INTEL.quote(DOMAIN)
    place = quote.index(tdx.point(INTEL.attestation_key))
    wrong = bytes(63) + b"\1"
    bound = sha256(wrong + tdx.QE_AUTH).digest() + bytes(32)
    quote = INTEL.quote(DOMAIN, bound=bound)
    assert code_of(quote[:place] + wrong + quote[place + 64 :]) == "attestation-key"


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64])
def test_signatures_out_of_range(signature: bytes) -> None:
    quote = INTEL.quote(DOMAIN)
    place = len(layout.parse(quote).signed) + 4
    assert code_of(quote[:place] + signature + quote[place + 64 :]) == "quote-signature"


@pytest.mark.parametrize(("field", "code"), [("tcb_info", "tcb-info"), ("qe_identity", "qe-identity")])
def test_documents_have_to_be_signed_as_they_are(field: str, code: str) -> None:
    whole = getattr(INTEL.endorsements(), field)
    for wrong in (
        replace(whole, body=whole.body + b" "),
        replace(whole, signature=tdx.sign(OTHER, whole.body)),
        replace(whole, signature=whole.signature + b"\0"),
        replace(whole, signature=whole.signature[:32] + b"\0" + whole.signature[32:]),
        replace(whole, signature=whole.signature[:63]),
    ):
        assert code_of(INTEL.quote(DOMAIN), INTEL.endorsements(**{field: wrong})) == f"{code}-signature"
    by_platform = replace(whole, chain=tdx.pem(INTEL.leaf, INTEL.root), signature=tdx.sign(INTEL.pck_key, whole.body))
    assert code_of(INTEL.quote(DOMAIN), INTEL.endorsements(**{field: by_platform})) == "certificate-name"


def test_documents_of_another_kind() -> None:
    sgx = INTEL.for_sgx()
    quote = INTEL.quote(DOMAIN)
    assert code_of(quote, INTEL.endorsements(tcb_info=sgx.signed(sgx.tcb))) == "collateral-kind"
    assert code_of(quote, INTEL.endorsements(qe_identity=sgx.signed(sgx.qe))) == "collateral-kind"
    enclave = sgx.quote(tdx.enclave(), version=3)
    assert code_of(enclave, sgx.endorsements(tcb_info=INTEL.signed(INTEL.tcb))) == "collateral-kind"
    assert code_of(enclave, sgx.endorsements(qe_identity=INTEL.signed(INTEL.qe))) == "collateral-kind"


@pytest.mark.parametrize("of", [with_info, with_identity])
def test_documents_in_time(of: Any) -> None:
    def at(second: int) -> str:
        return (NOW + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")

    quote = INTEL.quote(DOMAIN)
    assert code_of(quote, of(issueDate=at(1))) == "not-yet-valid"
    assert code_of(quote, of(nextUpdate=at(-1))) == "expired"
    assert authenticate(quote, of(issueDate=at(0), nextUpdate=at(0)), now=NOW).valid_until == NOW
    with pytest.raises(MalformedInput, match="expected a time"):
        authenticate(quote, of(issueDate="2026-02-30T00:00:00Z"), now=NOW)


def test_documents_of_another_platform() -> None:
    quote = INTEL.quote(DOMAIN)
    assert code_of(quote, with_info(fmspc="00906ED50001")) == "tcb-fmspc"
    assert code_of(quote, with_info(pceId="0001")) == "tcb-pceid"


def test_documents_of_another_version() -> None:
    for endorsements in (with_info(version=4), with_info(version=2), with_identity(version=3)):
        with pytest.raises(Unsupported, match="found version"):
            authenticate(INTEL.quote(DOMAIN), endorsements, now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"version": "3"},
        {"tcbType": 1},
        {"id": "TDY"},
        {"fmspc": "00"},
        {"tcbLevels": []},
        {"unknown": 1},
        {"tcbEvaluationDataNumber": -1},
        {"issueDate": "2026-02-27"},
    ],
)
def test_documents_out_of_form(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput, match="TCB info"):
        authenticate(INTEL.quote(DOMAIN), with_info(**change), now=NOW)


def test_an_identity_out_of_form() -> None:
    with pytest.raises(MalformedInput, match="enclave identity"):
        authenticate(INTEL.quote(DOMAIN), with_identity(unknown=1), now=NOW)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"", b"{", b'{"version": 3, "version": 3}'])
def test_documents_that_are_none(body: bytes) -> None:
    for field in ("tcb_info", "qe_identity"):
        with pytest.raises(MalformedInput):
            authenticate(INTEL.quote(DOMAIN), INTEL.endorsements(**{field: INTEL.signed(body)}), now=NOW)


def test_the_largest_document() -> None:
    whole = INTEL.endorsements().tcb_info
    assert whole is not None
    longest = whole.body.ljust(collateral.MAX_BYTES)
    endorsements = INTEL.endorsements(tcb_info=INTEL.signed(longest))
    assert authenticate(INTEL.quote(DOMAIN), endorsements, now=NOW).standing is not None
    with pytest.raises(MalformedInput, match="at most"):
        collateral.parse(collateral.TcbInfo, longest + b" ")


def without_revocation(quote: bytes, endorsements: Endorsements) -> Authenticated:
    return authenticate(quote, endorsements, now=NOW, unsafe_without_revocation=True)


def test_opting_out_of_revocation_is_recorded() -> None:
    nothing = INTEL.endorsements(root_crl=None, pck_crl=None)
    result = without_revocation(INTEL.quote(DOMAIN), nothing)
    assert result.skipped == (WITHOUT_REVOCATION,)
    assert result.standing is not None
    revoked = INTEL.endorsements(pck_crl=tdx.revocations(tdx.PLATFORM, INTEL.authority_key, (INTEL.leaf,)))
    assert without_revocation(INTEL.quote(DOMAIN), revoked).skipped == (WITHOUT_REVOCATION,)


def test_opting_out_of_the_tcb_is_recorded() -> None:
    nothing = INTEL.endorsements(tcb_info=None, qe_identity=None)
    result = authenticate(INTEL.quote(DOMAIN), nothing, now=NOW, unsafe_without_tcb=True)
    assert (result.skipped, result.standing) == ((WITHOUT_TCB,), None)


def test_intels_answers_are_taken_apart() -> None:
    body = b'{"id":"TDX","more":{"signature":"00"}}'
    answer = b'{"tcbInfo":' + body + b',"signature":"' + b"ab" * 64 + b'"}'
    assert collateral.signed(answer + b"\n", "tcbInfo", b"chain") == collateral.Signed(body, b"\xab" * 64, b"chain")
    for wrong in (answer[:-1], answer + b"}", b" " + answer, answer.replace(b"ab", b"", 1), answer.replace(b"I", b"i")):
        with pytest.raises(MalformedInput, match="expected tcbInfo and signature"):
            collateral.signed(wrong, "tcbInfo", b"chain")
    with pytest.raises(MalformedInput, match="expected enclaveIdentity"):
        collateral.signed(answer, "enclaveIdentity", b"chain")
    longest = answer.ljust(collateral.MAX_BYTES)
    assert collateral.signed(longest, "tcbInfo", b"").body == body
    with pytest.raises(MalformedInput):
        collateral.signed(longest + b" ", "tcbInfo", b"")
