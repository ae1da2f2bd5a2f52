"""Certificate chains and revocation lists: each rule broken once, on chains that are signed well."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from attest import chain
from attest.errors import MalformedInput, VerificationError, VitrineError
from tests.fakes.authority import (
    AUTHORITY,
    NOW,
    SIGNER,
    Issued,
    distribution_point,
    issue,
    key,
    revocation_list,
    usage,
)
from tests.fakes.der import tlv
from tests.fakes.mutate import MUTATIONS, mutated

ROOT = issue("root")
MIDDLE = issue("middle", ROOT, path_length=0, extensions=[distribution_point()])
LEAF = issue("leaf", MIDDLE, ca=False, key_usage=SIGNER, extensions=[distribution_point()])
LISTS = (revocation_list(ROOT), revocation_list(MIDDLE))


def verify(*issued: Issued, now: object = NOW, root: Issued = ROOT) -> None:
    chain.verify([item.certificate for item in issued], [root.der], now=now, layer="test")  # type: ignore[arg-type]


def code(*issued: Issued, **options: object) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(*issued, **options)  # type: ignore[arg-type]
    assert caught.value.layer == "test"
    return caught.value.code


def test_a_good_chain() -> None:
    verify(LEAF, MIDDLE, ROOT)
    verify(issue("leaf", MIDDLE, ca=None, key_usage=SIGNER), MIDDLE, ROOT)


def test_length() -> None:
    assert code() == "chain_length"
    assert code(ROOT) == "chain_length"
    above = [ROOT]
    for level in range(7):
        above.insert(0, issue(f"level {level}", above[0]))
    eight = [issue("deep leaf", above[1], ca=False, key_usage=SIGNER), *above[1:]]
    verify(*eight)
    nine = [issue("deep leaf", above[0], ca=False, key_usage=SIGNER), *above]
    assert code(*nine) == "chain_length"


def test_another_root_even_of_the_same_key_and_name() -> None:
    assert code(LEAF, MIDDLE, ROOT, root=issue("other")) == "root"
    assert code(LEAF, MIDDLE, ROOT, root=issue("root")) == "root"


def test_time() -> None:
    verify(LEAF, MIDDLE, ROOT, now=NOW + timedelta(days=30))
    verify(LEAF, MIDDLE, ROOT, now=NOW - timedelta(days=30))
    assert code(LEAF, MIDDLE, ROOT, now=NOW + timedelta(days=30, seconds=1)) == "certificate_time"
    assert code(LEAF, MIDDLE, ROOT, now=NOW - timedelta(days=30, seconds=1)) == "certificate_time"
    for days in ((-9, -8), (8, 9)):
        old_leaf = issue("leaf", MIDDLE, ca=False, key_usage=SIGNER, days=days)
        assert code(old_leaf, MIDDLE, ROOT) == "certificate_time"
        old_root = issue("root", days=days)
        assert code(LEAF, issue("middle", old_root), old_root, root=old_root) == "certificate_time"


def test_hash() -> None:
    weak = issue("leaf", MIDDLE, ca=False, key_usage=SIGNER, digest=hashes.SHA3_256())
    assert code(weak, MIDDLE, ROOT) == "certificate_hash"


def test_unknown_critical_extension() -> None:
    extensions = [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)]
    unknown = issue("leaf", MIDDLE, ca=False, key_usage=SIGNER, extensions=extensions)
    assert code(unknown, MIDDLE, ROOT) == "certificate_extension"
    verify(issue("leaf", MIDDLE, ca=False, key_usage=SIGNER, extensions=[(extensions[0][0], False)]), MIDDLE, ROOT)


def test_issued_by_another_key_or_name() -> None:
    forged = issue("leaf", MIDDLE, ca=False, key_usage=SIGNER, signed_by=key("attacker"))
    assert code(forged, MIDDLE, ROOT) == "certificate_signature"
    renamed = issue("leaf", MIDDLE, ca=False, key_usage=SIGNER, issuer_name="elsewhere")
    assert code(renamed, MIDDLE, ROOT) == "certificate_signature"
    forged_middle = issue("middle", ROOT, signed_by=key("attacker"))
    assert code(LEAF, forged_middle, ROOT) == "certificate_signature"
    assert code(LEAF, ROOT) == "certificate_signature"


def test_an_issuer_with_a_key_of_another_kind() -> None:
    other = rsa.generate_private_key(65537, 2048).public_key()
    middle = issue("middle", ROOT, public=other)
    assert code(LEAF, middle, ROOT) == "certificate_signature"


def test_issuers_have_to_be_authorities() -> None:
    for no_authority in (None, False):
        middle = issue("middle", ROOT, ca=no_authority)
        assert code(LEAF, middle, ROOT) == "issuer_not_ca"
    for no_usage in (None, usage(crl_sign=True)):
        assert code(LEAF, issue("middle", ROOT, key_usage=no_usage), ROOT) == "issuer_usage"


def test_path_length() -> None:
    lower = issue("lower", MIDDLE)
    leaf = issue("leaf", lower, ca=False, key_usage=SIGNER)
    assert code(leaf, lower, MIDDLE, ROOT) == "path_length"
    middle = issue("middle", ROOT, path_length=1)
    verify(leaf, issue("lower", middle), middle, ROOT)


def test_the_leaf_signs_data_only() -> None:
    assert code(issue("leaf", MIDDLE, key_usage=usage(digital_signature=True, key_cert_sign=True)), MIDDLE, ROOT) == (
        "leaf_is_ca"
    )
    assert code(issue("leaf", MIDDLE, ca=False, key_usage=AUTHORITY), MIDDLE, ROOT) == "leaf_usage"
    assert code(issue("leaf", MIDDLE, ca=False, key_usage=None), MIDDLE, ROOT) == "leaf_usage"


def listed(lists: tuple[bytes, ...], issued: tuple[Issued, ...] = (LEAF, MIDDLE, ROOT), now: object = NOW) -> None:
    chain.check_lists([item.certificate for item in issued], lists, now=now, layer="test")  # type: ignore[arg-type]


def list_code(*lists: bytes, **options: object) -> str:
    with pytest.raises(VerificationError) as caught:
        listed(lists, **options)  # type: ignore[arg-type]
    assert caught.value.layer == "test"
    return caught.value.code


def test_lists_of_every_issuer_whose_certificates_name_one() -> None:
    listed(LISTS)
    assert list_code() == "crl_missing"
    assert list_code(LISTS[0]) == "crl_missing"
    assert list_code(LISTS[1]) == "crl_missing"
    listed((LISTS[0],), (issue("leaf", MIDDLE, ca=False, key_usage=SIGNER), MIDDLE, ROOT))


def test_revoked() -> None:
    assert list_code(LISTS[0], revocation_list(MIDDLE, [LEAF])) == "revoked"
    assert list_code(revocation_list(ROOT, [MIDDLE]), LISTS[1]) == "revoked"
    listed((revocation_list(ROOT, [LEAF]), LISTS[1]))


def test_the_newest_list_counts() -> None:
    newer = revocation_list(MIDDLE, [LEAF], days=(-0.5, 1))
    assert list_code(LISTS[0], LISTS[1], newer) == "revoked"
    assert list_code(LISTS[0], newer, LISTS[1]) == "revoked"


def test_a_list_has_a_time() -> None:
    listed(LISTS, now=NOW + timedelta(days=1))
    listed(LISTS, now=NOW - timedelta(days=1))
    assert list_code(*LISTS, now=NOW + timedelta(days=1, seconds=1)) == "crl_time"
    assert list_code(*LISTS, now=NOW - timedelta(days=1, seconds=1)) == "crl_time"


def test_a_list_without_an_end_is_refused() -> None:
    crl = x509.load_der_x509_crl(LISTS[1])
    body = crl.tbs_certlist_bytes
    end = b"\x17\x0d" + crl.next_update_utc.strftime("%y%m%d%H%M%SZ").encode()  # type: ignore[union-attr]
    assert end in body
    endless = tlv(0x30, body[2:].replace(end, b""))
    signature = MIDDLE.key.sign(endless, ec.ECDSA(hashes.SHA384()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040303")
    assert list_code(LISTS[0], tlv(0x30, endless + algorithm + tlv(0x03, b"\0" + signature))) == "crl_time"


def test_a_list_is_signed_by_the_issuer() -> None:
    assert list_code(LISTS[0], revocation_list(MIDDLE, signed_by=key("attacker"))) == "crl_signature"
    assert list_code(LISTS[0], revocation_list(MIDDLE, digest=hashes.SHA3_256())) == "crl_hash"


def test_an_issuer_of_lists_says_so() -> None:
    for wrong in (None, usage(key_cert_sign=True)):
        middle = issue("middle", ROOT, key_usage=wrong, extensions=[distribution_point()])
        assert list_code(*LISTS, issued=(LEAF, middle, ROOT)) == "crl_usage"


def test_a_partial_list_is_refused() -> None:
    partial = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
    assert list_code(LISTS[0], revocation_list(MIDDLE, extensions=[(partial, True)])) == "crl_extension"
    listed((LISTS[0], revocation_list(MIDDLE, extensions=[(x509.CRLNumber(7), False)])))


def test_bytes_that_are_no_certificate_or_list() -> None:
    with pytest.raises(MalformedInput, match="certificate"):
        chain.load(b"\x30\x00")
    with pytest.raises(MalformedInput, match="revocation list"):
        listed((b"\x30\x00",))
    # A version that there is not: the library has an error of its own for it.
    with pytest.raises(MalformedInput, match="version"):
        chain.load(ROOT.der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09", 1))
    with pytest.raises(MalformedInput, match="version"):
        listed((LISTS[0].replace(b"\x02\x01\x01", b"\x02\x01\x07", 1),))


@MUTATIONS
@given(st.data())
def test_a_mutated_certificate_is_refused(random: st.DataObject) -> None:
    data = random.draw(mutated(MIDDLE.der))
    try:
        chain.verify([LEAF.certificate, chain.load(data), ROOT.certificate], [ROOT.der], now=NOW, layer="test")
    except VitrineError:
        return
    assert x509.load_der_x509_certificate(data).tbs_certificate_bytes == MIDDLE.certificate.tbs_certificate_bytes


@MUTATIONS
@given(st.data())
def test_a_mutated_list_is_refused(random: st.DataObject) -> None:
    data = random.draw(mutated(LISTS[1]))
    try:
        listed((LISTS[0], data))
    except VitrineError:
        return
    # Around the signed bytes, the count of unused bits of the signature is free where its last bits are zero.
    assert x509.load_der_x509_crl(data).tbs_certlist_bytes == x509.load_der_x509_crl(LISTS[1]).tbs_certlist_bytes
