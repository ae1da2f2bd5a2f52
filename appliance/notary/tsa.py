"""The lab's timestamp authority: RFC 3161 responses, written with `cryptography.hazmat.asn1`.

A response holds the time, the digest that was stamped, a random serial number and the signer's certificate, signed as
CMS (RFC 5652) by a P-256 key. No request format and no server: the notary stamps what it has just logged.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ObjectIdentifier

from attest.digest import sha256

POLICY = ObjectIdentifier("2.5.29.32.0")
"""anyPolicy: the authority promises what its certificate says, and no more."""
ACCURACY_S = 1
SERIAL_BITS = 127

_SIGNED_DATA = ObjectIdentifier("1.2.840.113549.1.7.2")
_TST_INFO = ObjectIdentifier("1.2.840.113549.1.9.16.1.4")
_CONTENT_TYPE = ObjectIdentifier("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = ObjectIdentifier("1.2.840.113549.1.9.4")
_SIGNING_CERTIFICATE_V2 = ObjectIdentifier("1.2.840.113549.1.9.16.2.47")
_SHA256 = ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_ECDSA_SHA256 = ObjectIdentifier("1.2.840.10045.4.3.2")
_GRANTED = 0


@asn1.sequence
class _Algorithm:
    algorithm: ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class _MessageImprint:
    hash_algorithm: _Algorithm
    hashed_message: bytes


@asn1.sequence
class _Accuracy:
    seconds: int


@asn1.sequence
class _TstInfo:
    version: int
    policy: ObjectIdentifier
    message_imprint: _MessageImprint
    serial_number: int
    gen_time: asn1.GeneralizedTime
    accuracy: _Accuracy


@asn1.sequence
class _Attribute:
    kind: ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _EssCertId:
    # hashAlgorithm is left out: its default is SHA-256.
    cert_hash: bytes


@asn1.sequence
class _SigningCertificate:
    certs: list[_EssCertId]


@asn1.sequence
class _IssuerAndSerial:
    issuer: asn1.TLV
    serial_number: int


@asn1.sequence
class _Content:
    content_type: ObjectIdentifier
    content: Annotated[bytes, asn1.Explicit(0)]


@asn1.sequence
class _SignerInfo:
    version: int
    sid: _IssuerAndSerial
    digest_algorithm: _Algorithm
    signed_attributes: Annotated[asn1.SetOf[_Attribute], asn1.Implicit(0)]
    signature_algorithm: _Algorithm
    signature: bytes


@asn1.sequence
class _SignedData:
    version: int
    digest_algorithms: asn1.SetOf[_Algorithm]
    content: _Content
    certificates: Annotated[asn1.SetOf[asn1.TLV], asn1.Implicit(0)]
    signer_infos: asn1.SetOf[_SignerInfo]


@asn1.sequence
class _ContentInfo:
    content_type: ObjectIdentifier
    content: Annotated[_SignedData, asn1.Explicit(0)]


@asn1.sequence
class _Status:
    status: int


@asn1.sequence
class _Response:
    status: _Status
    token: _ContentInfo


class TimestampAuthority:
    """The authority: its chain (itself first, the root last) and its key."""

    def __init__(self, chain: Sequence[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> None:
        self.chain = tuple(chain)
        self._key = key

    def stamp(self, data: bytes, moment: datetime) -> bytes:
        """A TimeStampResp in DER: the SHA-256 of `data` existed at `moment`, given in whole seconds."""
        certificate = self.chain[0]
        sha256_algorithm = _Algorithm(algorithm=_SHA256, parameters=None)
        info = asn1.encode_der(
            _TstInfo(
                version=1,
                policy=POLICY,
                message_imprint=_MessageImprint(hash_algorithm=sha256_algorithm, hashed_message=sha256(data)),
                serial_number=secrets.randbits(SERIAL_BITS),
                gen_time=asn1.GeneralizedTime(moment.astimezone(UTC).replace(microsecond=0)),
                accuracy=_Accuracy(seconds=ACCURACY_S),
            )
        )
        der = certificate.public_bytes(serialization.Encoding.DER)
        signing_certificate = _SigningCertificate(certs=[_EssCertId(cert_hash=sha256(der))])
        attributes = asn1.SetOf(
            [
                _attribute(_CONTENT_TYPE, asn1.encode_der(_TST_INFO)),
                _attribute(_MESSAGE_DIGEST, asn1.encode_der(sha256(info))),
                _attribute(_SIGNING_CERTIFICATE_V2, asn1.encode_der(signing_certificate)),
            ]
        )
        # RFC 5652, 5.4: what is signed is the attributes as a SET OF, not under their implicit tag.
        signature = self._key.sign(asn1.encode_der(attributes), ec.ECDSA(hashes.SHA256()))
        signer = _SignerInfo(
            version=1,
            sid=_IssuerAndSerial(
                issuer=asn1.decode_der(asn1.TLV, certificate.issuer.public_bytes()),
                serial_number=certificate.serial_number,
            ),
            digest_algorithm=sha256_algorithm,
            signed_attributes=attributes,
            signature_algorithm=_Algorithm(algorithm=_ECDSA_SHA256, parameters=None),
            signature=signature,
        )
        signed = _SignedData(
            version=3,
            digest_algorithms=asn1.SetOf([sha256_algorithm]),
            content=_Content(content_type=_TST_INFO, content=info),
            certificates=asn1.SetOf([asn1.decode_der(asn1.TLV, der)]),
            signer_infos=asn1.SetOf([signer]),
        )
        token = _ContentInfo(content_type=_SIGNED_DATA, content=signed)
        return asn1.encode_der(_Response(status=_Status(status=_GRANTED), token=token))


def _attribute(kind: ObjectIdentifier, value: bytes) -> _Attribute:
    return _Attribute(kind=kind, values=asn1.SetOf([asn1.decode_der(asn1.TLV, value)]))
