"""OCSP responses: each rule broken once, by responders that sign."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as library
from cryptography.x509.ocsp import OCSPCertStatus
from hypothesis import given
from hypothesis import strategies as st

from attest.errors import MalformedInput, VerificationError, VitrineError
from attest.nvgpu import ocsp
from tests.fakes.authority import NOW, SIGNER, Issued, issue, key
from tests.fakes.mutate import MUTATIONS, mutated
from tests.fakes.nvgpu import responder, response

ROOT = issue("ocsp root")
MIDDLE = issue("ocsp middle", ROOT)
LEAF = issue("ocsp leaf", MIDDLE, ca=False, key_usage=SIGNER)
CHAIN = [item.certificate for item in (LEAF, MIDDLE, ROOT)]
GOOD = (response(LEAF, MIDDLE), response(MIDDLE, ROOT))
DELEGATED = response(LEAF, MIDDLE, signer=responder(MIDDLE))


def check(*responses: bytes, first: int = 0, now: object = NOW) -> None:
    ocsp.check(CHAIN, responses, first=first, now=now, layer="test")  # type: ignore[arg-type]


def code(*responses: bytes, **options: object) -> str:
    with pytest.raises(VerificationError) as caught:
        check(*responses, **options)  # type: ignore[arg-type]
    assert caught.value.layer == "test"
    return caught.value.code


def test_a_signature_has_one_spelling() -> None:
    """Unused bits, where the signature ends in a zero bit; ECDSA signs anew each time."""
    der = next(d for d in iter(lambda: response(LEAF, MIDDLE), None) if _signature(d)[-1] % 2 == 0)
    other = der.replace(b"\0" + _signature(der), b"\1" + _signature(der))
    assert _signature(other) == _signature(der)
    with pytest.raises(MalformedInput, match="unused bits"):
        check(other, GOOD[1])


def tlv(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    size = len(content).to_bytes(2, "big")
    return bytes([tag]) + (size[1:] if content[0x7F:] == b"" else b"\x82" + size) + content


def spelled(found: bytes, signature: bytes, *, algorithm: bytes = b"", certificates: bytes = b"") -> bytes:
    """The response with its signature's BIT STRING, its algorithm or its certificates written otherwise."""
    said = library.load_der_ocsp_response(found).tbs_response_bytes
    algorithm = algorithm or tlv(0x30, ECDSA_SHA384)
    basic = tlv(0x30, said, algorithm, signature, tlv(0xA0, tlv(0x30, certificates)) if certificates else b"")
    return tlv(0x30, b"\x0a\1\0", tlv(0xA0, tlv(0x30, tlv(6, bytes.fromhex("2b0601050507300101")), tlv(4, basic))))


ECDSA_SHA384 = bytes.fromhex("06082a8648ce3d040303")


def test_a_signature_that_stands_elsewhere_too_is_looked_for_in_its_own_place() -> None:
    """The certificates beside a response are not signed: one of them repeats the signature after a zero byte."""
    found = next(d for d in iter(lambda: response(LEAF, MIDDLE, signer=responder(MIDDLE)), None) if even(d))
    signature, own = _signature(found), library.load_der_ocsp_response(found).certificates[0]
    repeated = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\0" + signature)
    other = issue("bystander", MIDDLE, extensions=[(repeated, False)]).certificate
    both = own.public_bytes(Encoding.DER) + other.public_bytes(Encoding.DER)
    right = spelled(found, tlv(3, b"\0", signature), certificates=both)
    check(right, GOOD[1])
    wrong = spelled(found, tlv(3, b"\1", signature), certificates=both)
    assert wrong != right
    assert _signature(wrong) == signature
    assert b"\0" + signature in wrong
    with pytest.raises(MalformedInput, match="whole bytes in its place"):
        check(wrong, GOOD[1])


def test_an_algorithm_has_one_spelling() -> None:
    found = response(LEAF, MIDDLE)
    signature = tlv(3, b"\0", _signature(found))
    assert spelled(found, signature) == found
    with_null = spelled(found, signature, algorithm=tlv(0x30, ECDSA_SHA384, b"\5\0"))
    with pytest.raises(MalformedInput):
        check(with_null, GOOD[1])


def even(der: bytes) -> bool:
    """Whether the signature's last bit is zero."""
    return _signature(der)[-1] % 2 == 0


def _signature(der: bytes) -> bytes:
    return library.load_der_ocsp_response(der).signature


def test_good_responses_in_any_order() -> None:
    check(*GOOD)
    check(*reversed(GOOD))
    check(response(LEAF, MIDDLE, algorithm=hashes.SHA256()), response(MIDDLE, ROOT, algorithm=hashes.SHA384()))


def test_each_certificate_from_the_first_on_needs_one() -> None:
    assert code() == "ocsp_missing"
    assert code(GOOD[0]) == "ocsp_missing"
    assert code(GOOD[1]) == "ocsp_missing"
    check(GOOD[1], first=1)
    check(first=2)


def test_a_response_on_another_certificate() -> None:
    sibling = issue("ocsp sibling", MIDDLE)
    assert code(response(sibling, MIDDLE), GOOD[1]) == "ocsp_missing"
    assert code(response(LEAF, issue("elsewhere")), GOOD[1]) == "ocsp_missing"


def test_an_issuer_of_the_same_key_and_another_name() -> None:
    renamed = issue("leaf", MIDDLE, ca=False, issuer_name="renamed", serial=LEAF.certificate.serial_number)
    assert code(response(renamed, MIDDLE), GOOD[1]) == "ocsp_missing"


def test_an_issuer_of_the_same_name_and_another_key() -> None:
    rekeyed = Issued(
        issue("ocsp middle", public=key("second").public_key(), signed_by=key("second")).certificate, key("second")
    )
    assert code(response(LEAF, rekeyed), GOOD[1]) == "ocsp_missing"


def test_a_response_that_names_by_another_hash() -> None:
    assert code(response(LEAF, MIDDLE, algorithm=hashes.SHA512()), GOOD[1]) == "ocsp_missing"


def test_delegated_responders() -> None:
    check(DELEGATED, GOOD[1])
    check(response(LEAF, MIDDLE, signer=MIDDLE), GOOD[1])


def test_the_first_and_last_second_of_a_responder() -> None:
    delegated = response(LEAF, MIDDLE, signer=responder(MIDDLE, days=(-1, 1)))
    for now in (NOW - timedelta(days=1), NOW + timedelta(days=1)):
        check(delegated, GOOD[1], now=now)


def test_responders_that_are_none() -> None:
    for wrong in (
        responder(ROOT),
        responder(MIDDLE, signed_by=key("attacker")),
        responder(MIDDLE, extensions=[]),
        responder(MIDDLE, extensions=[(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), False)]),
        responder(MIDDLE, days=(-9, -8)),
        responder(MIDDLE, days=(8, 9)),
        LEAF,
    ):
        assert code(response(LEAF, MIDDLE, signer=wrong), GOOD[1]) == "ocsp_responder"


def test_signed_by_another_key() -> None:
    assert code(response(LEAF, MIDDLE, own=issue("attacker")), GOOD[1]) == "ocsp_signature"
    assert code(response(LEAF, MIDDLE, signer=responder(MIDDLE), own=issue("attacker")), GOOD[1]) == "ocsp_signature"
    assert code(response(LEAF, MIDDLE, digest=hashes.SHA3_384()), GOOD[1]) == "ocsp_signature"


def test_a_responder_with_a_key_of_another_kind() -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    wrong = responder(MIDDLE, public=public)
    builder = library.OCSPResponseBuilder().add_response(
        cert=LEAF.certificate, issuer=MIDDLE.certificate, algorithm=hashes.SHA1(), cert_status=OCSPCertStatus.GOOD,
        this_update=NOW, next_update=NOW + timedelta(days=1), revocation_time=None, revocation_reason=None,
    )  # fmt: skip
    builder = builder.responder_id(library.OCSPResponderEncoding.NAME, MIDDLE.certificate)
    signed = builder.certificates([wrong.certificate]).sign(MIDDLE.key, hashes.SHA384())
    assert code(signed.public_bytes(Encoding.DER), GOOD[1]) == "ocsp_signature"


def test_time() -> None:
    check(*GOOD, now=NOW + timedelta(days=1))
    check(*GOOD, now=NOW - timedelta(days=1))
    assert code(*GOOD, now=NOW + timedelta(days=1, seconds=1)) == "ocsp_time"
    assert code(*GOOD, now=NOW - timedelta(days=1, seconds=1)) == "ocsp_time"
    assert code(response(LEAF, MIDDLE, days=(-1, None)), GOOD[1]) == "ocsp_time"


def test_status() -> None:
    for reason, text in ((x509.ReasonFlags.certificate_hold, "certificateHold"), (None, "no reason given")):
        revoked = response(LEAF, MIDDLE, status=OCSPCertStatus.REVOKED, reason=reason)
        with pytest.raises(VerificationError, match=text) as caught:
            check(revoked, GOOD[1])
        assert caught.value.code == "revoked"
    assert code(GOOD[0], response(MIDDLE, ROOT, status=OCSPCertStatus.REVOKED)) == "revoked"
    assert code(response(LEAF, MIDDLE, status=OCSPCertStatus.UNKNOWN), GOOD[1]) == "ocsp_status"


def test_the_newest_response_counts() -> None:
    newer = response(LEAF, MIDDLE, status=OCSPCertStatus.REVOKED, days=(-0.5, 1))
    assert code(*GOOD, newer) == "revoked"
    assert code(newer, *GOOD) == "revoked"


def test_what_is_no_response() -> None:
    failed = library.OCSPResponseBuilder.build_unsuccessful(library.OCSPResponseStatus.TRY_LATER)
    for wrong in (b"", b"\x30\x00", failed.public_bytes(Encoding.DER)):
        with pytest.raises(MalformedInput):
            check(wrong)
    # A responder's certificate with a signature that the library does not know.
    known, unknown = bytes.fromhex("2a8648ce3d040303"), bytes.fromhex("2a8648ce3d04037f")
    signer = responder(MIDDLE)
    delegated = response(LEAF, MIDDLE, signer=signer)
    with pytest.raises(MalformedInput, match="certificate in OCSP response"):
        check(delegated.replace(signer.der, signer.der.replace(known, unknown)), GOOD[1])
    with pytest.raises(MalformedInput, match="at most 64"):
        check(*(GOOD[:1] * 65))
    check(*GOOD, *(GOOD[:1] * 62))


@MUTATIONS
@given(st.data())
def test_a_mutated_response_is_refused(random: st.DataObject) -> None:
    data = random.draw(mutated(DELEGATED))
    try:
        check(data, GOOD[1])
    except VitrineError:
        return
    plain, changed = (library.load_der_ocsp_response(item) for item in (DELEGATED, data))
    assert changed.tbs_response_bytes == plain.tbs_response_bytes
