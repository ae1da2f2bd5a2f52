"""Certificates of TPM keys, up to a root that the caller pinned, with revocation.

Every certificate of the path is valid at `now`, signed with SHA-2 by the next one, which may sign certificates; every
critical extension is known; a current revocation list of its issuer does not name it. A list that is missing refuses
the certificate, unless the caller asks for `unsafe_without_revocation`.

Source: RFC 5280, 6.1; TCG EK Credential Profile for TPM 2.0, version 2.5, 3.2 (fields of an EK certificate).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID

from attest import chain as chains
from attest.digest import digest_of
from attest.errors import Unsupported, VerificationError

MAX_PATH: Final = 6
MIN_RSA_BITS: Final = 2048
STRONG: Final = ("sha256", "sha384", "sha512")
KNOWN_CRITICAL: Final = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
MANUFACTURER: Final = x509.ObjectIdentifier("2.23.133.2.1")
MODEL: Final = x509.ObjectIdentifier("2.23.133.2.2")
VERSION: Final = x509.ObjectIdentifier("2.23.133.2.3")
"""Attributes of the directory name in an EK certificate's subject alternative name."""
Made = Literal["hardware", "software"]


@dataclass(frozen=True)
class Root:
    """A certificate that the caller trusts, and for what."""

    certificate: bytes
    """DER."""
    vouches_for: Made
    """`hardware`: a manufacturer's, for chips; `software`: for TPMs that are programs (swtpm, those of clouds)."""


@dataclass(frozen=True)
class Endorsements:
    """What the caller has of manufacturers."""

    roots: tuple[Root, ...]
    """Roots, pinned by the caller."""
    intermediates: tuple[bytes, ...] = ()
    """Certificates between roots and those of TPMs, DER; untrusted until the path holds."""
    revocation_lists: tuple[bytes, ...] = ()
    """Revocation lists, DER."""


@dataclass(frozen=True)
class Identity:
    """Which TPM a certificate is of, by its subject alternative name."""

    manufacturer: str
    """The manufacturer's number in the TCG's registry, 8 hexadecimal digits."""
    model: str
    """The manufacturer's name of the model."""
    version: str
    """The version of its firmware when it was made."""


@dataclass(frozen=True)
class Verified:
    """A certificate whose path holds."""

    certificate: x509.Certificate
    """The certificate."""
    root: Root
    """The root that its path ends at."""
    skipped: tuple[str, ...]
    """What was not checked, one sentence each."""


def verify(
    data: bytes,
    above: Iterable[bytes],
    endorsements: Endorsements,
    *,
    now: datetime,
    unsafe_without_revocation: bool = False,
) -> Verified:
    """The certificate `data`, when a path through `above` and the endorsements leads to a root.

    Raises `VerificationError` (layer `tpm`; codes `chain`, `validity`, `certificate`, `authority`, `revoked`,
    `revocation`), `MalformedInput`.
    """
    leaf = chains.load(data, "TPM certificate")
    roots = [(root, chains.load(root.certificate, "root certificate")) for root in endorsements.roots]
    between = [chains.load(item, "intermediate certificate") for item in (*above, *endorsements.intermediates)]
    lists = [_read_list(item) for item in endorsements.revocation_lists]
    # 1. A path of signatures to a root.
    path = _path(leaf, between, [item for _, item in roots])
    # 2. Each certificate holds now; each issuer may issue; nothing was taken back.
    skipped: tuple[str, ...] = ()
    for certificate in path:
        _check(certificate, now)
    for below, (certificate, issuer) in enumerate(pairwise(path)):
        _check_authority(issuer, below)
        skipped += _check_revocation(certificate, issuer, lists, now, unsafe_without_revocation)
    root = next(root for root, item in roots if item == path[-1])
    return Verified(leaf, root, skipped)


def identity(certificate: x509.Certificate) -> Identity | None:
    """Manufacturer, model and version in the subject alternative name; None without all three."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return None
    found: dict[x509.ObjectIdentifier, str] = {}
    for name in extension.value.get_values_for_type(x509.DirectoryName):
        found |= {attribute.oid: str(attribute.value) for attribute in name}
    manufacturer, model, version = (found.get(oid, "") for oid in (MANUFACTURER, MODEL, VERSION))
    number = re.fullmatch(r"id:([0-9A-Fa-f]{8})", manufacturer)
    if number is None or not model or not version:
        return None
    return Identity(number[1].upper(), model, version)


def usages(certificate: x509.Certificate) -> tuple[x509.KeyUsage | None, set[str]]:
    """Key usage, and the extended key usages as dotted numbers; None and empty where there are none."""
    usage, extended = None, set()
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.KeyUsage):
            usage = extension.value
        if isinstance(extension.value, x509.ExtendedKeyUsage):
            extended = {oid.dotted_string for oid in extension.value}
    return usage, extended


def _path(
    leaf: x509.Certificate, between: list[x509.Certificate], roots: list[x509.Certificate]
) -> list[x509.Certificate]:
    """`leaf`, the issuers above it, and a root."""
    path = [leaf]
    while len(path) <= MAX_PATH:
        if (root := _issued_by(path[-1], roots)) is not None:
            return [*path, root]
        if (issuer := _issued_by(path[-1], between)) is None:
            break
        path.append(issuer)
    raise VerificationError(
        "tpm", "chain", expected="a path to a pinned root", found=f"none beyond {_issuer(path[-1])}",
        advice="pin the manufacturer's root, or add the certificate between",
    )  # fmt: skip


def _issued_by(certificate: x509.Certificate, candidates: list[x509.Certificate]) -> x509.Certificate | None:
    for candidate in candidates:
        try:
            certificate.verify_directly_issued_by(candidate)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return candidate
    return None


def _check(certificate: x509.Certificate, now: datetime) -> None:
    """Dates, algorithms and critical extensions of one certificate."""
    name = certificate.subject.rfc4514_string()
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= now <= end:
        raise VerificationError("tpm", "validity", expected=f"{now} in {start} to {end}", found=f"{name} outside")
    hash_ = certificate.signature_hash_algorithm
    if hash_ is None or hash_.name not in STRONG:
        raise Unsupported("TPM certificate", f"expected a signature with SHA-2, found {hash_ and hash_.name}")
    key = certificate.public_key()
    if not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
        raise Unsupported("TPM certificate", "expected a key of RSA or ECC")
    if key.key_size < (MIN_RSA_BITS if isinstance(key, rsa.RSAPublicKey) else 256):
        raise VerificationError("tpm", "certificate", expected="a key of today's size", found=f"{key.key_size} bits")
    unknown = [item.oid.dotted_string for item in certificate.extensions if item.critical]
    unknown = [oid for oid in unknown if oid not in {known.dotted_string for known in KNOWN_CRITICAL}]
    if unknown:
        raise VerificationError("tpm", "certificate", expected="known critical extensions", found=unknown)


def _check_authority(issuer: x509.Certificate, below: int) -> None:
    """`issuer` may sign certificates, with `below` authorities between it and the last one."""
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = x509.BasicConstraints(ca=False, path_length=None)
    usage, _ = usages(issuer)
    if not constraints.ca or usage is None or not usage.key_cert_sign:
        raise VerificationError(
            "tpm", "authority", expected="an authority's certificate", found=issuer.subject.rfc4514_string()
        )
    if constraints.path_length is not None and below > constraints.path_length:
        raise VerificationError(
            "tpm", "authority", expected=f"at most {constraints.path_length} authorities below", found=below
        )


def _check_revocation(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    lists: list[x509.CertificateRevocationList],
    now: datetime,
    unsafe_without_revocation: bool,
) -> tuple[str, ...]:
    """A current list of `issuer` does not name `certificate`; what was skipped."""
    usage, _ = usages(issuer)
    for item in lists:
        if item.issuer != issuer.subject or not _signed_by(item, issuer) or usage is None or not usage.crl_sign:
            continue
        if item.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise VerificationError(
                "tpm", "revoked", expected="a certificate that holds",
                found=f"serial number {certificate.serial_number:x} in the list of {item.issuer.rfc4514_string()}",
                advice="its issuer took the certificate back: do not trust this TPM",
            )  # fmt: skip
        if item.next_update_utc is not None and item.last_update_utc <= now <= item.next_update_utc:
            return ()
    if unsafe_without_revocation:
        return (f"Revocation by {issuer.subject.rfc4514_string()} was not checked: no current list was given.",)
    raise VerificationError(
        "tpm", "revocation", expected="a current revocation list", found=f"none of {_issuer(certificate)}",
        advice="add it to the capsule",
    )  # fmt: skip


def _read_list(data: bytes) -> x509.CertificateRevocationList:
    item = chains.load_list(data)
    if critical := [extension.oid.dotted_string for extension in item.extensions if extension.critical]:
        raise Unsupported("revocation list", f"expected a whole list, found one with {critical}")
    return item


def _signed_by(item: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    if not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
        return False
    hash_ = item.signature_hash_algorithm
    return hash_ is not None and hash_.name in STRONG and item.is_signature_valid(key)


def _issuer(certificate: x509.Certificate) -> str:
    return certificate.issuer.rfc4514_string()


def fingerprint(root: Root) -> str:
    """SHA-256 over the root's certificate, `sha256:hex`."""
    return digest_of(root.certificate)
