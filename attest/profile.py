"""What a lab's signing certificate must look like, and what its timestamps must say. Stricter than stock clients are.

The certificate profile is Fulcio's, cut down to what the lab's authority issues (docs/formats/lab-directory.md); the
timestamp is an RFC 3161 response that carries its signer's certificate and no other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from attest.digest import sha256
from attest.errors import MalformedInput, VerificationError

LAYER = "signature"
LAB_NAME = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
MAX_LAB_NAME = 100
ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
"""Fulcio's issuer extension: the URI's bytes as they are."""
ISSUER_V2_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
"""The same as a DER UTF8String."""
EXTENSIONS = frozenset(
    {
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ISSUER_OID,
        ISSUER_V2_OID,
        ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS,
    }
)
"""The extensions of a signing certificate: all of these, each once, and no others."""
SHA256_OID = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")
ECDSA_SHA256_DER = bytes.fromhex("300a06082a8648ce3d040302")
"""The AlgorithmIdentifier ecdsa-with-SHA256 (RFC 5758)."""
OCTET_STRING = 0x04


@dataclass(frozen=True)
class Timestamper:
    """One timestamp authority that a trust root names."""

    chain: tuple[x509.Certificate, ...]
    """The signer, intermediates, the root: at least two."""
    valid_from: datetime
    """It stamped nothing before this."""
    valid_until: datetime | None
    """It stamped nothing after this; None while it is in use."""


def is_lab_name(name: str) -> bool:
    """Whether `name` can be a lab's: a DNS name of two labels or more, in lower case, of at most 100 characters."""
    return len(name) <= MAX_LAB_NAME and LAB_NAME.fullmatch(name) is not None


def identity_uri(lab: str, measurement: str, image: str | None = None) -> str:
    """The identity of an appliance: its lab, and the measurement of what it booted, in hexadecimal.

    `image`: of a machine whose hardware speaks for it, the measurement of its image (`attest.evidence.image`).
    """
    return f"https://{lab}{f'/machine/{image}' if image else ''}/appliance/{measurement}"


def issuer_uri(lab: str) -> str:
    """The identity of a lab's certificate authority."""
    return f"https://{lab}/ca"


def issuer_of(identity: str) -> str:
    """The issuer that goes with an appliance's identity. Raises `VerificationError` (`identity-form`) for others."""
    match = re.fullmatch(r"https://([^/]+)(?:/machine/[0-9a-f]{64})?/appliance/[0-9a-f]{64,128}", identity)
    if not match or not is_lab_name(match[1]):
        raise _refuse("identity-form", "https://LAB[/machine/IMAGE]/appliance/MEASUREMENT", identity)
    return issuer_uri(match[1])


def public_key_der(certificate: x509.Certificate) -> bytes:
    """The certificate's public key, SPKI in DER."""
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    return certificate.public_key().public_bytes(serialization.Encoding.DER, info)


def issuer_v2_value(issuer: str) -> bytes:
    """The DER UTF8String of an issuer URI of at most 127 bytes."""
    raw = issuer.encode()
    if len(raw) > 127:
        raise ValueError(f"expected an issuer of at most 127 bytes, found {len(raw)}")
    return bytes([0x0C, len(raw)]) + raw


def identity_of(certificate: x509.Certificate) -> str:
    """The one URI that the certificate is issued to. Raises `VerificationError` (`identity-form`)."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        raise _refuse("identity-form", "a subject alternative name", "none") from None
    names = list(extension.value)
    if not extension.critical or len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise _refuse("identity-form", "one critical URI", f"{len(names)} names, critical {extension.critical}")
    return names[0].value


def check_certificate(certificate: x509.Certificate, issuer: str) -> None:
    """Raise `VerificationError` unless the certificate has the profile; its chain and SCT are verified elsewhere."""
    extensions = certificate.extensions

    # 1. No subject, and a P-256 key: the algorithm that every client checks alike.
    _equal("certificate-subject", 0, len(list(certificate.subject)))
    key = certificate.public_key()
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)):
        raise _refuse("certificate-key", "a P-256 key", type(key).__name__)

    # 2. The extensions of the profile, and no others; so it is no authority of its own.
    found = {extension.oid for extension in extensions}
    if found != EXTENSIONS:
        names = sorted(oid.dotted_string for oid in found ^ EXTENSIONS)
        raise _refuse("certificate-extensions", "those of the profile", f"a difference in {', '.join(names)}")

    # 3. It signs code, and does nothing else.
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    wanted = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    if usage.value != wanted or not usage.critical:
        raise _refuse("certificate-usage", "digital signature alone, critical", usage.value)
    purposes = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    if purposes != [ExtendedKeyUsageOID.CODE_SIGNING]:
        raise _refuse("certificate-purpose", "code signing alone", [oid.dotted_string for oid in purposes])

    # 4. Both issuer extensions name the expected issuer.
    for oid, value in ((ISSUER_OID, issuer.encode()), (ISSUER_V2_OID, issuer_v2_value(issuer))):
        extension = extensions.get_extension_for_oid(oid).value
        raw = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
        if raw != value:
            raise _refuse("certificate-issuer", issuer, raw[:200])

    # 5. Exactly one SCT.
    scts = list(extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value)
    _equal("certificate-sct", 1, len(scts))


def check_timestamp(
    response_der: bytes, timestampers: Sequence[Timestamper], *, signature: bytes, certificate: x509.Certificate
) -> datetime:
    """The time in an RFC 3161 response over `signature`, by a trusted authority, while `certificate` was valid.

    Raises `VerificationError` (layer `signature`, `timestamp*`) and `MalformedInput`.
    """
    from rfc3161_client import VerifierBuilder, decode_timestamp_response

    # 1. It can be read, and carries one certificate: its signer's.
    try:
        response = decode_timestamp_response(response_der)
        moment: datetime = response.tst_info.gen_time
        imprint = response.tst_info.message_imprint
        algorithm, message = imprint.hash_algorithm, imprint.message
        embedded = {bytes(item) for item in response.signed_data.certificates}
        versions = response.signed_data.version, [signer.version for signer in response.signed_data.signer_infos]
    except Exception as error:  # the parser is foreign: whatever it raises, the bytes are at fault
        raise MalformedInput("timestamp", f"expected a TimeStampResp: {type(error).__name__}: {error}") from None

    # 2. It is over the signature.
    if algorithm != SHA256_OID or message != sha256(signature):
        raise _refuse("timestamp-imprint", "SHA-256 over the signature", f"{algorithm.dotted_string} {message.hex()}")

    # 3. A trusted authority signed it, while it was one.
    reasons = []
    for timestamper in timestampers:
        signer, *intermediates = timestamper.chain[:-1]
        if embedded != {signer.public_bytes(serialization.Encoding.DER)}:
            reasons.append("embedded certificates other than the signer's own")
            continue
        try:
            builder = VerifierBuilder().tsa_certificate(signer).add_root_certificate(timestamper.chain[-1])
            for intermediate in intermediates:
                builder = builder.add_intermediate_certificate(intermediate)
            builder.build().verify(response, sha256(signature))
        except Exception as error:  # as above, and its own VerificationError
            reasons.append(str(error))
            continue
        if moment < timestamper.valid_from or (timestamper.valid_until and moment > timestamper.valid_until):
            reasons.append(f"the time {moment.isoformat()}, at which the authority was not trusted")
            continue
        break
    else:
        raise _refuse("timestamp", "a response by a trusted authority", "; ".join(reasons)[:400] or "none is trusted")

    # 4. What the signature does not cover and verifiers pass over: two versions, and the name of the algorithm.
    if versions != (3, [1]):
        raise _refuse("timestamp-form", "signed data of version 3, and one signer of version 1", versions)
    at = response_der.rfind(ECDSA_SHA256_DER)
    tail = response_der[at + len(ECDSA_SHA256_DER) :]
    if at < 0 or len(tail) < 2 or tail[0] != OCTET_STRING or tail[1] != len(tail) - 2:
        raise _refuse("timestamp-algorithm", "ecdsa-with-SHA256 and the signature at the end", tail[:16].hex())

    # 5. The certificate was valid then.
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= moment <= end:
        raise _refuse("timestamp-time", f"a time from {start.isoformat()} to {end.isoformat()}", moment.isoformat())
    return moment


def _equal(code: str, expected: object, found: object) -> None:
    if expected != found:
        raise _refuse(code, expected, found)


def _refuse(code: str, expected: object, found: object) -> VerificationError:
    return VerificationError(LAYER, code, expected=expected, found=found)
