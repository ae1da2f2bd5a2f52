"""Certificates and revocation lists of Intel's hierarchy: how they are read, and what is required of them.

The hierarchy is three fixed shapes, so no general path building is done: the chain is exactly as long as expected, each
certificate is issued by the next, and the last one is, byte for byte, the root that the caller trusts.

Source: "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import (
    BasicConstraints,
    Certificate,
    CertificateRevocationList,
    Extensions,
    ExtensionType,
    KeyUsage,
)
from cryptography.x509.oid import NameOID

from attest import chain as chains
from attest.errors import MalformedInput, VerificationError

LAYER = "tdx"
PCK = ("Intel SGX PCK Certificate",)
PCK_AUTHORITIES = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")
TCB_SIGNER = ("Intel SGX TCB Signing",)
ROOT = ("Intel SGX Root CA",)
PCK_NAMES = (PCK, PCK_AUTHORITIES, ROOT)
"""Common names in a platform's chain, leaf first."""
SIGNER_NAMES = (TCB_SIGNER, ROOT)
"""Common names in the chain of who signs TCB info and identities."""
MAX_BYTES = 1 << 16
MAX_CRL_BYTES = 1 << 20
UNDERSTOOD = (BasicConstraints, KeyUsage)
"""Extensions that may be critical."""

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\r\n]{1,8192})-----END CERTIFICATE-----[\r\n]*")


def load_chain(pem: bytes, what: str) -> tuple[Certificate, ...]:
    """The certificates in `pem`, and nothing besides but one zero byte at its end. Raises `MalformedInput`."""
    pem = pem.removesuffix(b"\0")
    if len(pem) > MAX_BYTES:
        raise MalformedInput(what, f"expected at most {MAX_BYTES} bytes of PEM, found {len(pem)}")
    certificates, at = [], 0
    while at < len(pem):
        block = _PEM.match(pem, at)
        if block is None:
            raise MalformedInput(what, f"expected a PEM certificate at offset {at}, found other bytes")
        at = block.end()
        try:
            der = base64.b64decode(re.sub(rb"[\r\n]", b"", block[1]), validate=True)
        except binascii.Error:
            raise MalformedInput(what, "expected base64 in PEM, found other characters") from None
        certificates.append(chains.load(der, what))
    return tuple(certificates)


def check_chain(
    chain: Sequence[Certificate], names: Sequence[Sequence[str]], root: Certificate, *, now: datetime
) -> None:
    """Raise `VerificationError` unless `chain`, leaf first, has these common names and leads to `root` at `now`."""
    if len(chain) != len(names):
        raise VerificationError(LAYER, "chain-length", expected=len(names), found=len(chain))
    if chain[-1] != root:
        raise VerificationError(LAYER, "root", expected=subject(root), found=f"another: {subject(chain[-1])}")
    for position, (certificate, issuer) in enumerate(zip(chain, [*chain[1:], root], strict=True)):
        name = subject(certificate)
        if common_name(certificate) not in names[position]:
            raise VerificationError(LAYER, "certificate-name", expected=" or ".join(names[position]), found=name)
        public_key(certificate)
        _check_extensions(certificate, authority=position > 0)
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError):
            expected = f"a signature by {subject(issuer)}"
            raise VerificationError(LAYER, "certificate-signature", expected=expected, found=name) from None
        check_time(f"certificate {name}", certificate.not_valid_before_utc, certificate.not_valid_after_utc, now)


def load_crl(der: bytes, what: str) -> CertificateRevocationList:
    """The revocation list in `der`. Raises `MalformedInput`, also where only a part of it is unreadable."""
    if len(der) > MAX_CRL_BYTES:
        raise MalformedInput(what, f"expected at most {MAX_CRL_BYTES} bytes, found {len(der)}")
    return chains.load_list(der, what)


def check_crl(crl: CertificateRevocationList, issuer: Certificate, *, now: datetime) -> datetime:
    """When the list ends. Raises `VerificationError` unless it is of `issuer`, complete, and in time at `now`."""
    name = f"revocation list of {subject(issuer)}"
    if crl.issuer != issuer.subject:
        raise VerificationError(LAYER, "crl-issuer", expected=subject(issuer), found=crl.issuer.rfc4514_string())
    try:
        valid = crl.is_signature_valid(public_key(issuer))
    except (ValueError, TypeError):
        valid = False
    if not valid:
        raise VerificationError(LAYER, "crl-signature", expected=f"a signature by {subject(issuer)}", found=name)
    # A list of only some certificates, or one that only adds to another, says so by a critical extension.
    _check_critical(crl.extensions, (), name)
    if crl.next_update_utc is None:
        raise VerificationError(LAYER, "crl-time", expected="a time of the next list", found=f"none in the {name}")
    check_time(name, crl.last_update_utc, crl.next_update_utc, now)
    return crl.next_update_utc


def check_not_revoked(certificate: Certificate, crl: CertificateRevocationList) -> None:
    """Raise `VerificationError` if `crl` names `certificate`."""
    if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
        found = f"{subject(certificate)}, serial number {certificate.serial_number:x}"
        raise VerificationError(LAYER, "revoked", expected="a certificate that is not revoked", found=found)


def check_time(what: str, start: datetime, end: datetime, now: datetime) -> None:
    """Raise `VerificationError` unless `start` <= `now` <= `end`."""
    if now < start:
        raise VerificationError(LAYER, "not-yet-valid", expected=f"{what} from {start}", found=f"now is {now}")
    if now > end:
        advice = "appraise as of the time of the evidence, or get newer collateral"
        raise VerificationError(LAYER, "expired", expected=f"{what} until {end}", found=f"now is {now}", advice=advice)


def public_key(certificate: Certificate) -> ec.EllipticCurvePublicKey:
    """The certificate's key, which has to be on P-256. Raises `VerificationError`."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise VerificationError(LAYER, "certificate-key", expected="a key on P-256", found=subject(certificate))
    return key


def common_name(certificate: Certificate) -> str:
    """The one common name of its subject, or an empty text."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def subject(certificate: Certificate) -> str:
    """Its subject, for people."""
    return certificate.subject.rfc4514_string()


def _check_extensions(certificate: Certificate, *, authority: bool) -> None:
    name = subject(certificate)
    _check_critical(certificate.extensions, UNDERSTOOD, name)
    found = {type(item.value): item.value for item in certificate.extensions}
    constraints, usage = found.get(BasicConstraints), found.get(KeyUsage)
    if not isinstance(constraints, BasicConstraints) or constraints.ca != authority:
        expected = f"basic constraints with CA {authority}"
        raise VerificationError(LAYER, "certificate-constraints", expected=expected, found=name)
    if not isinstance(usage, KeyUsage) or not (usage.key_cert_sign if authority else usage.digital_signature):
        expected = f"key usage to sign {'certificates' if authority else 'data'}"
        raise VerificationError(LAYER, "certificate-usage", expected=expected, found=name)


def _check_critical(extensions: Extensions, known: tuple[type[ExtensionType], ...], name: str) -> None:
    for item in extensions:
        if item.critical and not isinstance(item.value, known):
            expected = "no critical extension that is not known here"
            found = f"{item.oid.dotted_string} in {name}"
            raise VerificationError(LAYER, "critical-extension", expected=expected, found=found)
