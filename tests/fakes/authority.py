"""A certificate authority for tests: P-384 keys, any certificate, revocation lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
"""The clock of all that is made here."""


@cache
def key(name: str, curve: type[ec.EllipticCurve] = ec.SECP384R1) -> ec.EllipticCurvePrivateKey:
    """One key a name, for the whole test session."""
    return ec.generate_private_key(curve())


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def usage(**true: bool) -> x509.KeyUsage:
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**(dict.fromkeys(names, False) | true))


AUTHORITY = usage(key_cert_sign=True, crl_sign=True)
SIGNER = usage(digital_signature=True)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def issue(
    common: str,
    issuer: Issued | None = None,
    *,
    ca: bool | None = True,
    path_length: int | None = None,
    key_usage: x509.KeyUsage | None = AUTHORITY,
    days: tuple[float, float] = (-30, 30),
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    digest: hashes.HashAlgorithm | None = None,
    signed_by: ec.EllipticCurvePrivateKey | None = None,
    public: object = None,
    issuer_name: str | None = None,
    serial: int | None = None,
    subject: x509.Name | None = None,
) -> Issued:
    """A certificate; without an issuer, self-signed. `signed_by`, `public` and `issuer_name` make wrong ones, and
    `subject` one without a common name."""
    own = key(common)
    above = name(issuer_name) if issuer_name else issuer.certificate.subject if issuer else name(common)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common) if subject is None else subject)
        .issuer_name(above)
        .public_key(public or own.public_key())  # type: ignore[arg-type]
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    signing = signed_by or (issuer.key if issuer else own)
    return Issued(builder.sign(signing, digest or hashes.SHA384()), own)


def revocation_list(
    issuer: Issued,
    revoked: Sequence[Issued] = (),
    *,
    days: tuple[float, float] = (-1, 1),
    signed_by: ec.EllipticCurvePrivateKey | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    digest: hashes.HashAlgorithm | None = None,
) -> bytes:
    """The issuer's list, DER."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(NOW + timedelta(days=days[0]))
        .next_update(NOW + timedelta(days=days[1]))
    )
    for item in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(item.certificate.serial_number).revocation_date(NOW)
        builder = builder.add_revoked_certificate(entry.build())
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(signed_by or issuer.key, digest or hashes.SHA384()).public_bytes(Encoding.DER)


def distribution_point() -> tuple[x509.ExtensionType, bool]:
    """The extension by which a certificate says that there is a list."""
    uri = x509.UniformResourceIdentifier("http://crl.test/list.crl")
    return x509.CRLDistributionPoints([x509.DistributionPoint([uri], None, None, None)]), False


def raw_signature(own: ec.EllipticCurvePrivateKey, data: bytes, digest: hashes.HashAlgorithm, size: int) -> bytes:
    """r || s, big-endian."""
    r, s = decode_dss_signature(own.sign(data, ec.ECDSA(digest)))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")
