"""The firmware identity in a GPU's certificate: TCG DICE's composite device identity.

    CompositeDeviceID ::= SEQUENCE { version INTEGER, deviceID SubjectPublicKeyInfo, fwid FWID }
    FWID              ::= SEQUENCE { hashAlg OBJECT IDENTIFIER, fwid OCTET STRING }

Source: "Implicit Identity Based Device Attestation", TCG 2018, section 5; extension 2.23.133.5.4.1. The boot ROM puts
the digest of the firmware that it started into the certificate of that firmware's key.
"""

from __future__ import annotations

from cryptography import x509

from attest.errors import MalformedInput, Unsupported

WHAT = "firmware identity of a GPU certificate"
COMPOSITE_DEVICE_ID = x509.ObjectIdentifier("2.23.133.5.4.1")
INTEGER, OCTETS, OID, SEQUENCE = 0x02, 0x04, 0x06, 0x30
SHA384 = bytes.fromhex("608648016503040202")


def of_certificate(certificate: x509.Certificate) -> bytes:
    """The 48 bytes of the certificate's firmware identity; none where it has no such extension.

    Raises `MalformedInput`, or `Unsupported` for another version or digest.
    """
    try:
        value = certificate.extensions.get_extension_for_oid(COMPOSITE_DEVICE_ID).value
    except x509.ExtensionNotFound:
        return b""
    return read(value.public_bytes())


def read(der: bytes) -> bytes:
    """The firmware identity in the extension's DER bytes."""
    version, key, identity = _sequence(der, (INTEGER, SEQUENCE, SEQUENCE))
    if version != b"\x01":
        raise Unsupported(WHAT, f"version {version.hex()[:16]}: only 1 is known")
    algorithm, digest = _items(identity, (OID, OCTETS))
    if algorithm != SHA384:
        raise Unsupported(WHAT, f"digest {algorithm.hex()[:40]}: only SHA-384 is known")
    if not key or len(digest) != 48:
        raise MalformedInput(WHAT, f"expected a key and 48 bytes of digest, found {len(key)} and {len(digest)}")
    return digest


def _sequence(der: bytes, tags: tuple[int, ...]) -> list[bytes]:
    (content,) = _items(der, (SEQUENCE,))
    return _items(content, tags)


def _items(der: bytes, tags: tuple[int, ...]) -> list[bytes]:
    """The contents of the items that `der` is, which have these tags, and no more."""
    items, offset = [], 0
    for tag in tags:
        if der[offset : offset + 1] != bytes([tag]):
            raise MalformedInput(WHAT, f"offset {offset}: expected tag {tag:#04x}")
        start, length = _length(der, offset + 1)
        offset = start + length
        if offset > len(der):
            raise MalformedInput(WHAT, f"expected {offset} bytes, found {len(der)}")
        items.append(der[start:offset])
    if offset != len(der):
        raise MalformedInput(WHAT, f"expected {offset} bytes, found {len(der)}")
    return items


def _length(der: bytes, offset: int) -> tuple[int, int]:
    """Where the content starts, and its length: below 256, in the shortest form."""
    head = der[offset : offset + 2]
    if head and head[0] < 0x80:
        return offset + 1, head[0]
    if len(head) == 2 and head[0] == 0x81 and head[1] >= 0x80:
        return offset + 2, head[1]
    raise MalformedInput(WHAT, f"offset {offset}: expected a length below 256 in its shortest form")
