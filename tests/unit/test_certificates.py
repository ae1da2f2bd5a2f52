"""Certificates and revocation lists that are hostile: every reader raises our error, and none has a second spelling."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attest import bundle, chain, trust, validity
from attest.appraise import items
from attest.errors import MalformedInput, VitrineError
from attest.nvgpu import ocsp
from attest.sevsnp import certificates as sevsnp
from attest.tdx import certificates as tdx
from attest.tpm import chain as tpm
from tests.fakes.mutate import MUTATIONS, mutated

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")])


@functools.cache
def certificate() -> bytes:
    """A root, DER."""
    builder = x509.CertificateBuilder(NAME, NAME, KEY.public_key(), 1, NOW - DAY, NOW + DAY)
    builder = builder.add_extension(x509.BasicConstraints(True, None), True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a.test")]), False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


@functools.cache
def revocations() -> bytes:
    """Its list, DER."""
    entry = x509.RevokedCertificateBuilder(7, NOW - DAY).build()
    builder = x509.CertificateRevocationListBuilder(NAME, NOW - DAY, NOW + DAY, revoked_certificates=[entry])
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def pem(der: bytes) -> bytes:
    """The same in PEM."""
    from base64 import encodebytes

    return b"-----BEGIN CERTIFICATE-----\n" + encodebytes(der) + b"-----END CERTIFICATE-----\n"


def manifest(der: bytes) -> bytes:
    """What a capsule reads of a reference manifest."""
    return b"<X509Certificate>" + b"".join(pem(der).splitlines()[1:-1]) + b"</X509Certificate>"


READERS: dict[str, Callable[[bytes], object]] = {
    "chain": chain.load,
    "PEM": lambda der: chain.load_pem(pem(der)),
    "capsule": lambda der: validity.of("certificate", der, "it"),
    "manifest in a capsule": lambda der: validity.of("driver-rim", manifest(der), "it"),
    "TPM": lambda der: tpm.verify(der, (), tpm.Endorsements((tpm.Root(certificate(), "hardware"),)), now=NOW),
    "SEV-SNP": sevsnp.load,
    "SEV-SNP in PEM": lambda der: sevsnp.split(pem(der)),
    "TDX": lambda der: tdx.load_chain(pem(der), "it"),
    "GPU": lambda der: import_module("attest.nvgpu.authenticate")._certificates(pem(der)),
    "log leaf": lambda der: chain.load_pem(pem(der), "log leaf"),
    "evidence": lambda der: chain.load(items.der(pem(der))),
}
LISTS: dict[str, Callable[[bytes], object]] = {
    "chain": chain.load_list,
    "capsule": lambda der: validity.of("revocation-list", der, "it"),
    "TPM": tpm._read_list,
    "SEV-SNP": sevsnp.load_crl,
    "TDX": lambda der: tdx.load_crl(der, "it"),
}


def version(der: bytes, number: int) -> bytes:
    """The certificate with another version number."""
    assert der.count(b"\xa0\x03\x02\x01\x02") == 1
    return der.replace(b"\xa0\x03\x02\x01\x02", bytes([0xA0, 3, 2, 1, number]))


def unused_bit(der: bytes, signature: bytes) -> bytes:
    """The file with a signature that ends in a zero bit, which is declared unused."""
    return der.removesuffix(b"\0" + signature) + b"\1" + signature


def even(make: Callable[[], bytes], load: Callable[[bytes], x509.Certificate]) -> bytes:
    """One whose signature ends in a zero bit: ECDSA signs anew each time."""
    return next(der for der in iter(make, None) if load(der).signature[-1] % 2 == 0)


@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_a_version_that_there_is_not(name: str) -> None:
    if name != "TPM":  # where it is a certificate of no TPM
        READERS[name](certificate())
    for number in (3, 0x7F):
        with pytest.raises(x509.InvalidVersion):
            x509.load_der_x509_certificate(version(certificate(), number))
        with pytest.raises(MalformedInput):
            READERS[name](version(certificate(), number))


@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_a_second_spelling_of_a_signature(name: str) -> None:
    der = even(certificate.__wrapped__, x509.load_der_x509_certificate)
    other = unused_bit(der, x509.load_der_x509_certificate(der).signature)
    assert (
        x509.load_der_x509_certificate(other).verify_directly_issued_by(x509.load_der_x509_certificate(other)) is None
    )
    with pytest.raises(MalformedInput, match="unused bits"):
        READERS[name](other)


@pytest.mark.parametrize("name", LISTS)
def test_every_reader_of_lists_refuses_a_second_spelling(name: str) -> None:
    LISTS[name](revocations())
    der = even(revocations.__wrapped__, x509.load_der_x509_crl)  # type: ignore[arg-type]
    other = unused_bit(der, x509.load_der_x509_crl(der).signature)
    assert x509.load_der_x509_crl(other).is_signature_valid(KEY.public_key())
    with pytest.raises(MalformedInput, match="unused bits"):
        LISTS[name](other)


@MUTATIONS
@given(name=st.sampled_from(sorted(READERS)), data=st.data())
def test_mutated_certificates_give_only_our_errors(name: str, data: st.DataObject) -> None:
    der = data.draw(mutated(certificate()))
    try:
        READERS[name](der)
    except VitrineError:
        return
    if name == "TPM":
        assert der == certificate()


@MUTATIONS
@given(name=st.sampled_from(sorted(LISTS)), data=st.data())
def test_mutated_lists_are_never_of_the_authority(name: str, data: st.DataObject) -> None:
    der = data.draw(mutated(revocations()))
    try:
        LISTS[name](der)
    except VitrineError:
        return
    found = chain.load_list(der)
    assert der == revocations() or not found.is_signature_valid(KEY.public_key())


@MUTATIONS
@given(data=st.binary(max_size=200) | mutated(certificate()))
def test_what_is_no_answer_of_a_responder_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        ocsp._load(data)


def test_a_bundle_and_a_trust_root_read_certificates_the_same_way() -> None:
    assert bundle.chain is trust.chain is chain
