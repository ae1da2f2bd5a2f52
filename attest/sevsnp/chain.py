"""AMD's chain of trust: a pinned ARK signs ASK, ASVK and the revocation list; an ASK or ASVK signs the chip's key.

AMD's certificates carry no names that general path builders look for, so the path, always of three, is checked here:
names, signatures (RSA-PSS with SHA-384), validity, right to sign, and revocation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from attest.digest import digest_of
from attest.errors import VerificationError
from attest.sevsnp import certificates
from attest.sevsnp.evidence import Endorsements

LAYER: Final = "sev-snp"
NOT_REVOKED_UNKNOWN: Final = "no revocation list was looked at: AMD may have revoked the keys that vouch for this chip"
_UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage)


@dataclass(frozen=True)
class Chain:
    """A chain that was verified."""

    issuer: x509.Certificate
    """The ASK or ASVK that signed the chip's key."""
    root: str
    """The fingerprint of the ARK, one of those that were pinned."""
    valid_until: datetime
    """When the first ends of all that was looked at, certificates and lists."""
    skipped: tuple[str, ...]
    """What was not looked at, a sentence each."""


def verify(
    leaf: x509.Certificate,
    endorsements: Endorsements,
    *,
    roots: Collection[str],
    now: datetime,
    unsafe_without_revocation: bool,
) -> Chain:
    """Verify the chain of `leaf`, a VCEK's or VLEK's certificate, at the time `now`.

    Raises `VerificationError` (layer `sev-snp`), `MalformedInput`.
    """
    known = [certificates.load(data) for data in endorsements.certificates]
    # 1. The path, by names: the chip's key, ASK or ASVK, ARK.
    intermediate = _only(known, leaf.issuer)
    root = _only(known, intermediate.issuer)
    # 2. The root is one that the relying party pinned.
    fingerprint = digest_of(root.public_bytes(Encoding.DER))
    if fingerprint not in roots:
        raise VerificationError(
            LAYER, "root", expected=f"one of {sorted(roots)}", found=fingerprint,
            advice="pin AMD's root of this product only after comparing its fingerprint with AMD's own publication",
        )  # fmt: skip
    # 3. Each is valid now, and the one above it may sign, and signed it. The root's own signature would prove nothing.
    for certificate in (leaf, intermediate, root):
        _check_time(certificate, now)
        _check_extensions(certificate)
    for certificate, issuer in ((leaf, intermediate), (intermediate, root)):
        _check_authority(issuer)
        _check_signature(certificate, issuer)
    ends = [certificate.not_valid_after_utc for certificate in (leaf, intermediate, root)]
    # 4. Neither ASK or ASVK nor ARK is revoked. AMD does not revoke chips: it raises the TCB that is to be required.
    lists = [crl for crl in map(certificates.load_crl, endorsements.crls) if crl.issuer == root.subject]
    if not lists:
        if unsafe_without_revocation:
            return Chain(intermediate, fingerprint, min(ends), (NOT_REVOKED_UNKNOWN,))
        raise VerificationError(
            LAYER, "crl-missing", expected=f"a list of {certificates.common_name(root.subject)}", found="none",
            advice="add the list of AMD's key service to the collateral",
        )  # fmt: skip
    for crl in lists:
        last = _check_list(crl, root, now)
        for certificate in (intermediate, root):
            if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                name = certificates.common_name(certificate.subject)
                raise VerificationError(
                    LAYER, "revoked", expected="keys that are not revoked", found=f"{name}, revoked"
                )
        ends.append(last)
    return Chain(intermediate, fingerprint, min(ends), ())


def _only(known: Iterable[x509.Certificate], name: x509.Name) -> x509.Certificate:
    found = {certificate for certificate in known if certificate.subject == name}
    if len(found) != 1:
        raise VerificationError(
            LAYER, "issuer", expected=f"one certificate of {name.rfc4514_string()}", found=len(found),
            advice="the collateral has to hold ARK and ASK (for a VLEK: ASVK) of this product, each once",
        )  # fmt: skip
    return found.pop()


def _check_time(certificate: x509.Certificate, now: datetime) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now <= last:
        name = certificates.common_name(certificate.subject)
        raise VerificationError(
            LAYER, "certificate-validity", expected=f"{name} at {now.isoformat()}",
            found=f"valid from {first.isoformat()} to {last.isoformat()}",
        )  # fmt: skip


def _check_extensions(certificate: x509.Certificate) -> None:
    for extension in certificate.extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            raise VerificationError(
                LAYER, "certificate-extension", expected="critical extensions that are understood here",
                found=extension.oid.dotted_string,
            )  # fmt: skip


def _check_authority(certificate: x509.Certificate) -> None:
    found = certificate.extensions
    try:
        may_sign = (
            found.get_extension_for_class(x509.BasicConstraints).value.ca
            and found.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        )
    except x509.ExtensionNotFound:
        may_sign = False
    if not may_sign:
        name = certificates.common_name(certificate.subject)
        raise VerificationError(LAYER, "certificate-authority", expected=f"{name} to be an authority", found="no right")


def _check_signature(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    _check_algorithm(certificate)
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        raise VerificationError(
            LAYER, "certificate-signature", expected=f"{certificates.common_name(issuer.subject)}'s signature",
            found=f"another on {certificates.common_name(certificate.subject)}",
        ) from None  # fmt: skip


def _check_algorithm(signed: x509.Certificate | x509.CertificateRevocationList) -> None:
    by_pss = isinstance(signed.signature_algorithm_parameters, padding.PSS)
    if not by_pss or not isinstance(signed.signature_hash_algorithm, hashes.SHA384):
        hashed = type(signed.signature_hash_algorithm).__name__
        found = f"{signed.signature_algorithm_oid.dotted_string} with {hashed}"
        raise VerificationError(LAYER, "certificate-algorithm", expected="RSA-PSS with SHA-384", found=found)


def _check_list(crl: x509.CertificateRevocationList, root: x509.Certificate, now: datetime) -> datetime:
    _check_algorithm(crl)
    # Its key signed the intermediate certificate with RSA.
    if not crl.is_signature_valid(cast("rsa.RSAPublicKey", root.public_key())):
        name = certificates.common_name(root.subject)
        raise VerificationError(LAYER, "crl-signature", expected=f"{name}'s signature", found="another")
    for extension in crl.extensions:
        if extension.critical:
            raise VerificationError(
                LAYER, "crl-extension", expected="a whole list of one issuer", found=extension.oid.dotted_string
            )
    first, last = crl.last_update_utc, crl.next_update_utc
    if last is None or not first <= now <= last:
        raise VerificationError(
            LAYER, "crl-validity", expected=f"a revocation list for {now.isoformat()}",
            found=f"one from {first.isoformat()} to {last.isoformat() if last else 'an open end'}",
            advice="fetch the list anew, or appraise as of a time within it",
        )  # fmt: skip
    return last
