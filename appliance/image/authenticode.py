"""Signatures over executables, as UEFI checks them for Secure Boot: Authenticode, one PKCS #7 message in the file.

A signature covers the Authenticode digest (`pe.authenticode`). It has no time in it, and RSA with PKCS #1 v1.5 has no
chance in it, so the same file, key and certificate give the same bytes. Checking uses that: nothing is parsed, the
message is made again around the signature and has to be the one in the file. Refused is therefore whatever another
tool has written, `sbsign` for example, even where firmware takes it.

Sources: Microsoft, "Windows Authenticode Portable Executable Signature Format"; UEFI 2.10, section 32.2; RFC 2315.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from appliance.image import pe
from attest.digest import sha256
from attest.errors import MalformedInput, Unsupported, VerificationError

KEY_BITS = 2048
"""What all firmware takes."""
SIGNATURE_BYTES = KEY_BITS // 8
MARK = b"\xff" * SIGNATURE_BYTES
"""Stands where the signature will be."""
HEAD = struct.Struct("<IHH")
"""WIN_CERTIFICATE: length with this head, revision, type."""
REVISION, PKCS7 = 0x0200, 0x0002
ALIGNMENT = 8
SIGNED_DATA = x509.ObjectIdentifier("1.2.840.113549.1.7.2")
CONTENT_TYPE = x509.ObjectIdentifier("1.2.840.113549.1.9.3")
MESSAGE_DIGEST = x509.ObjectIdentifier("1.2.840.113549.1.9.4")
INDIRECT_DATA = x509.ObjectIdentifier("1.3.6.1.4.1.311.2.1.4")
IMAGE_DATA = x509.ObjectIdentifier("1.3.6.1.4.1.311.2.1.15")
SHA_256 = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")
RSA = x509.ObjectIdentifier("1.2.840.113549.1.1.1")
IMAGE_FIELDS = bytes.fromhex("3009 030100 a004 a202 8000")
"""SpcPeImageData, which says nothing: no flags, and a link to a file without a name."""


@asn1.sequence
class _Algorithm:
    """AlgorithmIdentifier."""

    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null


@asn1.sequence
class _ImageData:
    """SpcAttributeTypeAndOptionalValue."""

    type: x509.ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class _DigestInfo:
    """DigestInfo."""

    algorithm: _Algorithm
    digest: bytes


@asn1.sequence
class _IndirectData:
    """SpcIndirectDataContent: what is signed."""

    data: _ImageData
    digest: _DigestInfo


@asn1.sequence
class _Content:
    """ContentInfo."""

    type: x509.ObjectIdentifier
    content: Annotated[asn1.TLV, asn1.Explicit(0)]


@asn1.sequence
class _Attribute:
    """Attribute."""

    type: x509.ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _Issuer:
    """IssuerAndSerialNumber."""

    name: asn1.TLV
    serial: int


@asn1.sequence
class _Signer:
    """SignerInfo."""

    version: int
    issuer: _Issuer
    digest_algorithm: _Algorithm
    attributes: Annotated[asn1.SetOf[_Attribute], asn1.Implicit(0)]
    signature_algorithm: _Algorithm
    signature: bytes


@asn1.sequence
class _SignedData:
    """SignedData."""

    version: int
    algorithms: asn1.SetOf[_Algorithm]
    content: _Content
    certificates: Annotated[asn1.SetOf[x509.Certificate], asn1.Implicit(0)]
    signers: asn1.SetOf[_Signer]


@dataclass(frozen=True)
class SigningKey:
    """What an executable is signed with."""

    key: RSAPrivateKey
    """RSA, 2,048 bits."""
    certificate: x509.Certificate
    """Of that key."""


def load_signing_key(key: bytes, certificate: bytes) -> SigningKey:
    """Both from PEM. Raises `MalformedInput`, and `Unsupported` for a kind of key that firmware may not take."""
    try:
        private = load_pem_private_key(key, None)
        found = x509.load_pem_x509_certificate(certificate)
        public = found.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        expected = "a key in PEM without a password, and a certificate in PEM"
        raise MalformedInput("signing key", f"expected {expected}: {error}") from None
    if not isinstance(private, RSAPrivateKey) or private.key_size != KEY_BITS:
        raise Unsupported("signing key", f"expected RSA with {KEY_BITS} bits, which all firmware takes, found another")
    if public != private.public_key():
        raise MalformedInput("signing key", "expected a key and its certificate, found the certificate of another key")
    return SigningKey(private, found)


def sign(image: bytes, signer: SigningKey) -> bytes:
    """The executable `image`, signed. Raises `MalformedInput` for one that is signed already, or is none."""
    content, attributes = _to_sign(image)
    signature = signer.key.sign(_as_set(attributes), PKCS1v15(), SHA256())
    return pe.attach(image, _table(content, attributes, signer.certificate, signature))


def verify(image: bytes, trusted: Sequence[x509.Certificate]) -> x509.Certificate:
    """The one of the `trusted` certificates whose key signed the executable `image`, as `sign` does.

    Raises `VerificationError` (`image/signature`) where none did, `MalformedInput` for something else than an
    executable.
    """
    offset, size = pe.parse(image).certificates
    table = image[offset : offset + size]
    content, attributes = _to_sign(image)
    for certificate in trusted:
        key = certificate.public_key()
        start = _table(content, attributes, certificate, MARK).index(MARK)
        signature = table[start : start + SIGNATURE_BYTES]
        if not isinstance(key, RSAPublicKey) or table != _table(content, attributes, certificate, signature):
            continue
        try:
            key.verify(signature, _as_set(attributes), PKCS1v15(), SHA256())
        except InvalidSignature:
            continue
        return certificate
    names = ", ".join(one.subject.rfc4514_string() for one in trusted) or "nobody"
    found = "a signature by another key, of another file or in another form" if size else "no signature"
    raise VerificationError("image", "signature", expected=f"a signature by one of: {names}", found=found)


def _to_sign(image: bytes) -> tuple[bytes, list[_Attribute]]:
    """The content of the message on the executable `image`, DER, and the attributes that the signature covers."""
    content = asn1.encode_der(
        _IndirectData(
            data=_ImageData(type=IMAGE_DATA, value=_tlv(IMAGE_FIELDS)),
            digest=_DigestInfo(algorithm=_algorithm(SHA_256), digest=pe.authenticode(image)),
        )
    )
    digest = sha256(bytes(_tlv(content).data))  # of the content without its tag and length
    return content, [_attribute(CONTENT_TYPE, INDIRECT_DATA), _attribute(MESSAGE_DIGEST, digest)]


def _table(content: bytes, attributes: list[_Attribute], certificate: x509.Certificate, signature: bytes) -> bytes:
    """The file's certificate table: the message in its head, padded."""
    signer = _Signer(
        version=1,
        issuer=_Issuer(name=_tlv(certificate.issuer.public_bytes()), serial=certificate.serial_number),
        digest_algorithm=_algorithm(SHA_256),
        attributes=asn1.SetOf(attributes),
        signature_algorithm=_algorithm(RSA),
        signature=signature,
    )
    signed = _SignedData(
        version=1,
        algorithms=asn1.SetOf([_algorithm(SHA_256)]),
        content=_Content(type=INDIRECT_DATA, content=_tlv(content)),
        certificates=asn1.SetOf([certificate]),
        signers=asn1.SetOf([signer]),
    )
    message = asn1.encode_der(_Content(type=SIGNED_DATA, content=_tlv(asn1.encode_der(signed))))
    padded = message + bytes(-len(message) % ALIGNMENT)
    return HEAD.pack(HEAD.size + len(padded), REVISION, PKCS7) + padded


def _as_set(attributes: list[_Attribute]) -> bytes:
    """The attributes as the signature covers them: with the tag of a SET, not the one that they have in the message."""
    return asn1.encode_der(asn1.SetOf(attributes))


def _algorithm(which: x509.ObjectIdentifier) -> _Algorithm:
    return _Algorithm(algorithm=which, parameters=asn1.Null())


def _attribute(kind: x509.ObjectIdentifier, value: x509.ObjectIdentifier | bytes) -> _Attribute:
    return _Attribute(type=kind, values=asn1.SetOf([_tlv(asn1.encode_der(value))]))


def _tlv(der: bytes) -> asn1.TLV:
    return asn1.decode_der(asn1.TLV, der)
