"""The lab's certificate authority: a root, an issuing authority under it, and short-lived signing certificates.

A signing certificate has the profile that `attest.profile` checks: no subject, one critical URI, code signing, the
lab as its issuer, one SCT. The root's key is needed to make the lab, and not afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from appliance.notary.ctlog import SCT_LIST_OID
from attest.digest import sha256
from attest.profile import ISSUER_OID, ISSUER_V2_OID, issuer_v2_value

AUTHORITY_DAYS = 3650
BACKDATE_S = 5
"""How long before its making a certificate begins to be valid, for clocks that are not quite together."""
MAX_MINUTES = 24 * 60

Promise = Callable[[bytes, bytes, datetime], bytes]
"""From TBS, issuer key hash and time to an SCT list: `CertificateLog.promise`."""


class CertificateAuthority:
    """The issuing authority: its chain (itself first, the root last) and its key."""

    def __init__(self, chain: Sequence[x509.Certificate], key: ec.EllipticCurvePrivateKey, issuer: str) -> None:
        self.chain = tuple(chain)
        self.issuer = issuer
        self._key = key

    def issue(
        self, public_key: ec.EllipticCurvePublicKey, identity: str, *, minutes: int, moment: datetime, promise: Promise
    ) -> x509.Certificate:
        """A signing certificate for `identity`, valid for `minutes` from `moment`. Raises `TypeError`, `ValueError`."""
        if not isinstance(public_key.curve, ec.SECP256R1):
            raise TypeError(f"expected a P-256 key, found {public_key.curve.name}")
        if not 1 <= minutes <= MAX_MINUTES:
            raise ValueError(f"expected 1 to {MAX_MINUTES} minutes, found {minutes}")
        moment = moment.replace(microsecond=0)
        builder = (
            _builder(x509.Name([]), self.chain[0].subject, public_key)
            .not_valid_before(moment - timedelta(seconds=BACKDATE_S))
            .not_valid_after(moment + timedelta(minutes=minutes))
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(_authority(self._key), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(ISSUER_OID, self.issuer.encode()), critical=False)
            .add_extension(x509.UnrecognizedExtension(ISSUER_V2_OID, issuer_v2_value(self.issuer)), critical=False)
        )
        # The certificate without its SCT is what the SCT covers.
        tbs = builder.sign(self._key, hashes.SHA256()).tbs_certificate_bytes
        scts = asn1.encode_der(promise(tbs, sha256(spki(self._key.public_key())), moment))
        extension = x509.UnrecognizedExtension(ObjectIdentifier(SCT_LIST_OID), scts)
        return builder.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key as SPKI in DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Authority:
    """A certificate that may sign others, and its key."""

    certificate: x509.Certificate
    """The certificate."""
    key: ec.EllipticCurvePrivateKey
    """Its key."""


def make_authority(
    lab: str,
    title: str,
    key: ec.EllipticCurvePrivateKey,
    moment: datetime,
    *,
    path: int,
    parent: Authority | None = None,
    purpose: ObjectIdentifier | None = None,
) -> Authority:
    """An authority under `parent`, or a root; `path` further authorities may stand under it, all for one `purpose`."""
    name, moment = _name(lab, title), moment.replace(microsecond=0)
    issuer, signer = (parent.certificate.subject, parent.key) if parent else (name, key)
    builder = (
        _builder(name, issuer, key.public_key())
        .not_valid_before(moment)
        .not_valid_after(moment + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority(signer), critical=False)
    )
    if purpose:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return Authority(builder.sign(signer, hashes.SHA256()), key)


def make_timestamper(lab: str, key: ec.EllipticCurvePrivateKey, root: Authority) -> x509.Certificate:
    """The certificate of a timestamp authority, as RFC 3161 wants it: one critical purpose."""
    return (
        _builder(_name(lab, "Timestamp Authority"), root.certificate.subject, key.public_key())
        .not_valid_before(root.certificate.not_valid_before_utc)
        .not_valid_after(root.certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority(root.key), critical=False)
        .sign(root.key, hashes.SHA256())
    )


def _builder(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
    )


def _name(lab: str, title: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, lab),
            x509.NameAttribute(NameOID.COMMON_NAME, title),
        ]
    )


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    """The extension that allows these and nothing else."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
