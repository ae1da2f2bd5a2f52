"""A TPM that is a few Python functions, and a manufacturer with roots: what they sign is really signed.

Every part can be made wrong and signed again, so that a test reaches the checks behind the signature.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from attest.tpm import Endorsements, Root, Signed
from attest.tpm.layout import HASH_IDS, Hash

NOW = datetime(2026, 5, 1, tzinfo=UTC)
SIGNING, WRAPPING = 0x00050072, 0x000300B2
NULL, AES_CFB = struct.pack(">H", 0x10), struct.pack(">HHH", 6, 128, 0x43)
EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")
TPM_NAME = {"2.23.133.2.1": "id:53544D20", "2.23.133.2.2": "ST33KTPM", "2.23.133.2.3": "id:00010002"}

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def sized(data: bytes) -> bytes:
    """TPM2B."""
    return struct.pack(">H", len(data)) + data


@functools.cache
def private(kind: str, which: str = "a") -> Private:
    """A key, the same one each time: `p256`, `p384`, `rsa2048`, `rsa3072`, `rsa4096`."""
    curves = {"p256": ec.SECP256R1, "p384": ec.SECP384R1}
    return ec.generate_private_key(curves[kind]()) if kind in curves else rsa.generate_private_key(65537, int(kind[3:]))


@dataclass(frozen=True)
class Key:
    """A key of the fake TPM."""

    kind: str = "p256"
    which: str = "a"
    scheme: str | None = "ecdsa"
    hash: Hash = "sha256"
    attributes: int = SIGNING
    symmetric: bytes = NULL

    @property
    def private(self) -> Private:
        """The private key."""
        return private(self.kind, self.which)

    @property
    def public(self) -> bytes:
        """TPMT_PUBLIC."""
        key = self.private.public_key()
        numbers = {"rsassa": 0x14, "rsapss": 0x16, "ecdsa": 0x18}
        scheme = NULL if self.scheme is None else struct.pack(">HH", numbers[self.scheme], HASH_IDS[self.hash])
        head = struct.pack(">HI", 0x0B, self.attributes) + sized(b"") + self.symmetric + scheme
        if isinstance(key, rsa.RSAPublicKey):
            bits = key.key_size
            return (
                b"\0\1" + head + struct.pack(">HI", bits, 0) + sized(key.public_numbers().n.to_bytes(bits // 8, "big"))
            )
        size = key.key_size // 8
        point = key.public_numbers()
        curve = {256: 3, 384: 4}[key.key_size]
        body = (
            struct.pack(">H", curve)
            + NULL
            + sized(point.x.to_bytes(size, "big"))
            + sized(point.y.to_bytes(size, "big"))
        )
        return b"\0\x23" + head + body

    def sign(self, attested: bytes) -> Signed:
        """A signature over `attested`."""
        function = {"sha1": hashes.SHA1, "sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}[
            self.hash
        ]()
        key = self.private
        if isinstance(key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(key.sign(attested, ec.ECDSA(function)))
            size = key.key_size // 8
            value = struct.pack(">HH", 0x18, HASH_IDS[self.hash])
            return Signed(
                attested=attested, signature=value + sized(r.to_bytes(size, "big")) + sized(s.to_bytes(size, "big"))
            )
        if self.scheme == "rsapss":
            form: padding.AsymmetricPadding = padding.PSS(padding.MGF1(function), padding.PSS.DIGEST_LENGTH)
        else:
            form = padding.PKCS1v15()
        number = 0x16 if self.scheme == "rsapss" else 0x14
        head = struct.pack(">HH", number, HASH_IDS[self.hash])
        return Signed(attested=attested, signature=head + sized(key.sign(attested, form, function)))


def attested(
    kind: int, body: bytes, nonce: bytes, *, magic: int = 0xFF544347, resets: int = 3, restarts: int = 0
) -> bytes:
    """TPMS_ATTEST."""
    clock = struct.pack(">QIIBQ", 1_000_000, resets, restarts, 1, 0x2019102300163636)
    return struct.pack(">IH", magic, kind) + sized(b"\0\x0b" + bytes(32)) + sized(nonce) + clock + body


def quote_body(key: Key, values: Mapping[Hash, Mapping[int, bytes]]) -> bytes:
    """TPMS_QUOTE_INFO over `values`."""
    body, digest = struct.pack(">I", len(values)), hashlib.new(key.hash)
    for bank, items in values.items():
        bits = sum(1 << register for register in items)
        body += struct.pack(">HB", HASH_IDS[bank], 3) + bits.to_bytes(3, "little")
        for register in sorted(items):
            digest.update(items[register])
    return body + sized(digest.digest())


def quote(key: Key, values: Mapping[Hash, Mapping[int, bytes]], nonce: bytes, **fields: int) -> Signed:
    """A quote of `values`."""
    return key.sign(attested(0x8018, quote_body(key, values), nonce, **fields))


def nv_public(attributes: int = 0x2A060016 | 1 << 29, index: int = 0x01500010, size: int = 8) -> bytes:
    """TPMS_NV_PUBLIC of a counter."""
    return struct.pack(">IHI", index, 0x0B, attributes) + sized(b"") + struct.pack(">H", size)


def nv_body(public: bytes, contents: bytes, offset: int = 0) -> bytes:
    """TPMS_NV_CERTIFY_INFO."""
    return sized(b"\0\x0b" + hashlib.sha256(public).digest()) + struct.pack(">H", offset) + sized(contents)


def spec_id(banks: Sequence[Hash] = ("sha1", "sha256", "sha384")) -> bytes:
    """The header of an event log."""
    body = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2) + struct.pack("<I", len(banks))
    body += b"".join(struct.pack("<HH", HASH_IDS[bank], hashlib.new(bank).digest_size) for bank in banks) + b"\0"
    return struct.pack("<II20xI", 0, 3, len(body)) + body


def event(
    register: int, kind: int, data: bytes, *, hashed: bytes | None = None,
    banks: Sequence[Hash] = ("sha1", "sha256", "sha384"),
) -> bytes:  # fmt: skip
    """An event; its digests are of `hashed`, or of `data`."""
    measured = data if hashed is None else hashed
    digests = b"".join(struct.pack("<H", HASH_IDS[bank]) + hashlib.new(bank, measured).digest() for bank in banks)
    return struct.pack("<III", register, kind, len(banks)) + digests + struct.pack("<I", len(data)) + data


def variable(name: str, data: bytes, vendor: str = "61dfe48bca93d211aa0d00e098032b8c") -> bytes:
    """UEFI_VARIABLE_DATA; the vendor is that of global variables."""
    return bytes.fromhex(vendor) + struct.pack("<QQ", len(name), len(data)) + name.encode("utf-16-le") + data


def name(text: str) -> x509.Name:
    """A distinguished name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def key_usage(*names: str) -> x509.KeyUsage:
    """These usages and no others."""
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{usage: usage in names for usage in every})


def tpm_name(values: Mapping[str, str]) -> x509.SubjectAlternativeName:
    """The subject alternative name that says which TPM it is."""
    attributes = [x509.NameAttribute(x509.ObjectIdentifier(oid), value) for oid, value in values.items()]
    return x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(attributes))])


def der(item: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """DER."""
    return item.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True)
class Authority:
    """A certificate authority."""

    label: str = "root"
    issuer: Authority | None = None
    start: datetime = NOW - timedelta(days=365)
    end: datetime = NOW + timedelta(days=365)
    constraints: x509.BasicConstraints | None = field(default_factory=lambda: x509.BasicConstraints(True, None))
    usage: x509.KeyUsage | None = field(default_factory=lambda: key_usage("key_cert_sign", "crl_sign"))
    kind: str = "p256"

    @property
    def private(self) -> Private:
        """Its key."""
        return private(self.kind, self.label)

    @functools.cached_property
    def certificate(self) -> bytes:
        """Its certificate."""
        extensions: list[tuple[x509.ExtensionType, bool]] = []
        if self.constraints is not None:
            extensions.append((self.constraints, True))
        if self.usage is not None:
            extensions.append((self.usage, True))
        signer = self.issuer or self
        return signer.issue(self.label, self.private.public_key(), extensions, start=self.start, end=self.end)

    def issue(
        self,
        subject: str,
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
        *,
        serial: int | None = None,
        start: datetime = NOW - timedelta(days=30),
        end: datetime = NOW + timedelta(days=30),
        function: hashes.HashAlgorithm | None = None,
    ) -> bytes:
        """A certificate by this authority."""
        builder = x509.CertificateBuilder(name(self.label), name(subject), key, serial or x509.random_serial_number())
        builder = builder.not_valid_before(start).not_valid_after(end)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return der(builder.sign(self.private, function or hashes.SHA256()))

    def revocations(
        self, *serials: int, start: datetime = NOW - timedelta(days=1), end: datetime | None = NOW + timedelta(days=1),
        signer: Private | None = None, function: hashes.HashAlgorithm | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> bytes:  # fmt: skip
        """A revocation list."""
        builder = x509.CertificateRevocationListBuilder(name(self.label), start, end)
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=start).build()
            )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return der(builder.sign(signer or self.private, function or hashes.SHA256()))


ROOT = Authority()
MIDDLE = Authority("middle", ROOT)


def ek_extensions(
    *, usage: x509.KeyUsage | None = None, extended: Sequence[x509.ObjectIdentifier] = (EK_USAGE,),
    tpm: Mapping[str, str] = TPM_NAME,
) -> list[tuple[x509.ExtensionType, bool]]:  # fmt: skip
    """What an endorsement certificate has."""
    extensions: list[tuple[x509.ExtensionType, bool]] = [(x509.BasicConstraints(False, None), True)]
    extensions.append((usage or key_usage("key_agreement"), True))
    if extended:
        extensions.append((x509.ExtendedKeyUsage(extended), False))
    if tpm:
        extensions.append((tpm_name(tpm), True))
    return extensions


def endorsements(**changes: object) -> Endorsements:
    """A manufacturer's root, its intermediate, and current lists of both."""
    values = {
        "roots": (Root(ROOT.certificate, "hardware"),),
        "intermediates": (MIDDLE.certificate,),
        "revocation_lists": (ROOT.revocations(), MIDDLE.revocations()),
    }
    return Endorsements(**(values | changes))  # type: ignore[arg-type]
