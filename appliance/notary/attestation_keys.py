"""Certifies attestation keys of TPMs, for relying parties that were not there when a TPM proved where its key lies.

An answered challenge convinces the one who made it, and nobody else. So the lab challenges a TPM once, and issues a
certificate of the key: `attest.tpm` takes it in place of the proof. The certificate names the TPM as its manufacturer's
does, so that a program stays one, whoever vouches for it.

Refused: a key that nobody vouched for, or only another certificate of the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.notary.ca import BACKDATE_S, Authority, key_usage, make_authority
from attest import tpm
from attest.errors import VerificationError
from attest.tpm import chain

TITLE: Final = "TPM Key Authority"
PURPOSE: Final = x509.ObjectIdentifier("2.23.133.8.3")
"""tcg-kp-AIKCertificate (TCG EK Credential Profile)."""


@dataclass(frozen=True)
class TpmKeys:
    """A lab's authority over attestation keys: a root, whose digest a relying party pins."""

    authority: Authority
    """Certificate and key."""

    @classmethod
    def create(cls, lab: str, key: ec.EllipticCurvePrivateKey, moment: datetime) -> TpmKeys:
        """The authority of `lab` with this P-256 key."""
        return cls(make_authority(lab, TITLE, key, moment, path=0))

    @property
    def root(self) -> bytes:
        """Its certificate, DER."""
        return self.authority.certificate.public_bytes(Encoding.DER)

    def certify(self, found: tpm.Authenticated, moment: datetime, *, days: int) -> tpm.KeyCertificate:
        """The certificate of a key, for `days`. Raises `VerificationError` unless its TPM answered a challenge.

        `found` is what `attest.tpm.authenticate` returned for evidence and that answer.
        """
        vouched = found.vouched
        if vouched is None or vouched.by != "endorsement-key" or vouched.identity is None:
            raise VerificationError(
                "tpm", "activation", expected="an endorsement key that was challenged",
                found="nobody" if vouched is None else vouched.by,
                advice="certify a key only once its TPM has shown that the key lies in it",
            )  # fmt: skip
        moment = moment.replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.authority.certificate.subject)
            .public_key(found.key.key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment - timedelta(seconds=BACKDATE_S))
            .not_valid_after(moment + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([PURPOSE]), critical=False)
            .add_extension(_name_of(vouched.identity), critical=True)
        )
        return tpm.KeyCertificate(
            certificate=builder.sign(self.authority.key, hashes.SHA256()).public_bytes(Encoding.DER)
        )

    def revocations(self, moment: datetime, *, days: int, revoked: Mapping[int, datetime] | None = None) -> bytes:
        """The list of certificates that were taken back (serial number to when), DER, for `days`."""
        moment = moment.replace(microsecond=0)
        builder = x509.CertificateRevocationListBuilder(
            self.authority.certificate.subject, moment, moment + timedelta(days=days)
        )
        for serial, since in sorted((revoked or {}).items()):
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=since).build()
            )
        return builder.sign(self.authority.key, hashes.SHA256()).public_bytes(Encoding.DER)


def _name_of(identity: tpm.Identity) -> x509.SubjectAlternativeName:
    """The TPM, as its manufacturer's certificate names it."""
    values = {
        chain.MANUFACTURER: f"id:{identity.manufacturer}",
        chain.MODEL: identity.model,
        chain.VERSION: identity.version,
    }
    attributes = [x509.NameAttribute(oid, value) for oid, value in values.items()]
    return x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(attributes))])
