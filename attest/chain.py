"""Certificate chains of hardware vendors: leaf first, root last, the root one of those that the caller pins.

The library's verifiers are for web servers and clients: they want names and extended key usages that hardware
certificates lack. The checks here are those of RFC 5280 section 6.1; name constraints, policies and all else that is
critical is refused as unknown. Signatures are `cryptography`'s work.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from attest import der
from attest.errors import MalformedInput, VerificationError

MAX_CHAIN = 8
"""Certificates in a chain; the longest known has five."""
HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
"""What a certificate or list may be signed over."""
KNOWN_CRITICAL = (x509.BasicConstraints.oid, x509.KeyUsage.oid)

E = TypeVar("E", bound=x509.ExtensionType)


def load(data: bytes, what: str = "certificate") -> x509.Certificate:
    """The certificate of these DER bytes, every field readable. Raises `MalformedInput`."""
    with reading(what):
        found = x509.load_der_x509_certificate(data)
        # Fields are decoded when they are looked at: look now, where what goes wrong is caught.
        _ = (found.subject, found.issuer, found.extensions, found.public_key(), found.serial_number, found.version)
        _ = (found.not_valid_before_utc, found.not_valid_after_utc)
        _ = (found.signature_hash_algorithm, found.signature_algorithm_parameters)
    check_whole(data, found.signature, what)
    return found


def load_list(data: bytes, what: str = "revocation list") -> x509.CertificateRevocationList:
    """The revocation list of these DER bytes, every field and entry readable. Raises `MalformedInput`."""
    with reading(what):
        found = x509.load_der_x509_crl(data)
        _ = (found.issuer, found.extensions, found.last_update_utc, found.next_update_utc)
        _ = (found.signature_hash_algorithm, found.signature_algorithm_parameters)
        _ = [(entry.serial_number, entry.extensions) for entry in found]
    check_whole(data, found.signature, what)
    return found


def load_pem(pem: bytes, what: str = "certificate") -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one. Raises `MalformedInput`."""
    with reading(what):
        files = [found.public_bytes(Encoding.DER) for found in x509.load_pem_x509_certificates(pem)]
    return [load(data, what) for data in files]


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns whatever `cryptography` raises for bytes that it cannot read into `MalformedInput` of `what`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # serial number 0, names of more than 64 characters: real authorities have both
        try:
            yield
        except Exception as error:  # the parser is foreign: whatever it raises, the bytes are at fault
            raise MalformedInput(what, f"cannot be read: {type(error).__name__}: {str(error)[:200]}") from None


def check_whole(signed: bytes, signature: bytes, what: str) -> None:
    """Raise `MalformedInput` unless `signed`, DER, is a SEQUENCE whose third value is `signature`, in whole bytes.

    So certificates, lists and OCSP responses are made: what is signed, the algorithm, a BIT STRING. Nothing that is
    signed says how many bits of its last byte are unused: the same file would have several spellings.
    """
    outer = der.values(signed, what)
    parts = der.values(outer[0][1], what) if [tag for tag, _ in outer] == [der.SEQUENCE] else ()
    if len(parts) < 3 or parts[2] != (der.BIT_STRING, b"\0" + signature):
        raise MalformedInput(what, "expected a signature of whole bytes in its place, found unused bits or another")


def verify(chain: Sequence[x509.Certificate], roots: Collection[bytes], *, now: datetime, layer: str) -> None:
    """Verify `chain`, leaf first, up to one of `roots` (DER), at `now`. Raises `VerificationError` of `layer`."""
    # 1. Its length, and its root: to the byte one that the caller pins.
    if not 2 <= len(chain) <= MAX_CHAIN:
        raise VerificationError(layer, "chain_length", expected=f"2 to {MAX_CHAIN} certificates", found=len(chain))
    if chain[-1].public_bytes(Encoding.DER) not in roots:
        raise VerificationError(layer, "root", expected="a root that is pinned", found=name(chain[-1]))
    # 2. Each certificate for itself: time, a hash that holds, nothing critical that is not known here.
    for certificate in chain:
        _check_alone(certificate, now, layer)
    # 3. From the root down, so that no key is used before it is certified: each is issued by the one above, which may
    #    issue, and that many levels deep.
    for depth, (certificate, issuer) in reversed(list(enumerate(pairwise(chain)))):
        _check_issuer(issuer, depth, layer)
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise VerificationError(
                layer, "certificate_signature", expected=f"one issued by {name(issuer)}", found=name(certificate)
            ) from None
    # 4. The leaf signs data, not certificates.
    basic, usage = extension(chain[0], x509.BasicConstraints), extension(chain[0], x509.KeyUsage)
    if basic is not None and basic.ca:
        raise VerificationError(layer, "leaf_is_ca", expected="no certificate authority", found=name(chain[0]))
    if usage is None or not usage.digital_signature:
        raise VerificationError(layer, "leaf_usage", expected="a key for signatures", found=name(chain[0]))


def check_lists(chain: Sequence[x509.Certificate], lists: Sequence[bytes], *, now: datetime, layer: str) -> None:
    """Check each certificate of a verified `chain` that names a place for revocation lists against its issuer's list.

    `lists`: CRLs, DER. A certificate that names no such place (Nitro's short-lived ones) has no list to be on. Raises
    `VerificationError` of `layer`: `crl_missing`, `crl_signature`, `crl_time`, `crl_extension`, `revoked`.
    """
    loaded = [load_list(data) for data in lists]
    for certificate, issuer in pairwise(chain):
        if extension(certificate, x509.CRLDistributionPoints) is None:
            continue
        of_issuer = [crl for crl in loaded if crl.issuer == issuer.subject]
        if not of_issuer:
            raise VerificationError(
                layer, "crl_missing", expected=f"a revocation list of {name(issuer)}", found="none",
                advice="add the list to the endorsements",
            )  # fmt: skip
        newest = max(of_issuer, key=lambda crl: crl.last_update_utc)
        _check_list(newest, issuer, now, layer)
        if newest.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise VerificationError(layer, "revoked", expected="a certificate in force", found=name(certificate))


def extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    """The certificate's extension of that kind, None where it has none."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def name(certificate: x509.Certificate) -> str:
    """The subject of a certificate, as text."""
    return certificate.subject.rfc4514_string()


def _check_alone(certificate: x509.Certificate, now: datetime, layer: str) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= now <= end:
        raise VerificationError(
            layer, "certificate_time", expected=f"a time from {start} to {end}", found=now, advice=name(certificate)
        )
    if not isinstance(certificate.signature_hash_algorithm, HASHES):
        raise VerificationError(layer, "certificate_hash", expected="SHA-2", found=name(certificate))
    for item in certificate.extensions:
        if item.critical and item.oid not in KNOWN_CRITICAL:
            raise VerificationError(
                layer, "certificate_extension", expected="known critical extensions", found=item.oid.dotted_string
            )


def _check_issuer(issuer: x509.Certificate, depth: int, layer: str) -> None:
    basic, usage = extension(issuer, x509.BasicConstraints), extension(issuer, x509.KeyUsage)
    if basic is None or not basic.ca:
        raise VerificationError(layer, "issuer_not_ca", expected="a certificate authority", found=name(issuer))
    if basic.path_length is not None and depth > basic.path_length:
        raise VerificationError(layer, "path_length", expected=basic.path_length, found=depth)
    if usage is None or not usage.key_cert_sign:
        raise VerificationError(layer, "issuer_usage", expected="a key for certificates", found=name(issuer))


def _check_list(crl: x509.CertificateRevocationList, issuer: x509.Certificate, now: datetime, layer: str) -> None:
    usage = extension(issuer, x509.KeyUsage)
    if usage is None or not usage.crl_sign:
        raise VerificationError(layer, "crl_usage", expected="a key for revocation lists", found=name(issuer))
    if not isinstance(crl.signature_hash_algorithm, HASHES):
        raise VerificationError(layer, "crl_hash", expected="SHA-2", found=name(issuer))
    if not crl.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]
        raise VerificationError(layer, "crl_signature", expected=f"one of {name(issuer)}", found="another")
    if crl.next_update_utc is None or not crl.last_update_utc <= now <= crl.next_update_utc:
        raise VerificationError(
            layer, "crl_time", expected=f"a time from {crl.last_update_utc} to {crl.next_update_utc}", found=now,
            advice="add a list that was in force at that time",
        )  # fmt: skip
    for item in crl.extensions:
        if item.critical:
            raise VerificationError(
                layer, "crl_extension", expected="no critical extension", found=item.oid.dotted_string
            )
