"""A synthetic AMD: root, signing and chip keys, certificates with AMD's extensions, revocation lists, and chips that
sign reports. Nothing here shares code with `attest.sevsnp`: offsets and formats are written down a second time.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fakes.der import without_end

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SHA384 = hashes.SHA384()
PSS = padding.PSS(padding.MGF1(SHA384), 48)
AMD = "1.3.6.1.4.1.3704.1."

FIELDS = {
    "version": (0x000, "I"), "guest_svn": (0x004, "I"), "policy": (0x008, "Q"), "family_id": (0x010, "16s"),
    "image_id": (0x020, "16s"), "vmpl": (0x030, "I"), "algorithm": (0x034, "I"), "current_tcb": (0x038, "8s"),
    "platform_info": (0x040, "Q"), "keys": (0x048, "I"), "reserved_4c": (0x04C, "I"), "report_data": (0x050, "64s"),
    "measurement": (0x090, "48s"), "host_data": (0x0C0, "32s"), "id_key_digest": (0x0E0, "48s"),
    "author_key_digest": (0x110, "48s"), "report_id": (0x140, "32s"), "report_id_ma": (0x160, "32s"),
    "reported_tcb": (0x180, "8s"), "cpuid": (0x188, "3s"), "reserved_18b": (0x18B, "21s"), "chip_id": (0x1A0, "64s"),
    "committed_tcb": (0x1E0, "8s"), "current_firmware": (0x1E8, "3s"), "reserved_1eb": (0x1EB, "B"),
    "committed_firmware": (0x1EC, "3s"), "reserved_1ef": (0x1EF, "B"), "launch_tcb": (0x1F0, "8s"),
    "launch_mitigations": (0x1F8, "Q"), "current_mitigations": (0x200, "Q"), "reserved_208": (0x208, "152s"),
}  # fmt: skip

CPUID = {"Milan": b"\x19\x01\x01", "Genoa": b"\x19\x11\x01", "Turin": b"\x1a\x02\x01"}
# `TCB_VERSION`, and the arcs of the extensions that hold each of its bytes.
TCB = {"Milan": "04000000000018db", "Genoa": "0a00000000001954", "Turin": "0102030400000048"}
ARCS = {"Milan": (1, 2, 4, 5, 6, 7, 3, 8), "Genoa": (1, 2, 4, 5, 6, 7, 3, 8), "Turin": (9, 1, 2, 3, 5, 6, 7, 8)}
STEPPED = {"Milan": "Milan-B0", "Genoa": "Genoa", "Turin": "Turin-C1"}
TRUE_POLICY = 1 << 17


def integer(value: int) -> bytes:
    """A DER INTEGER below 256."""
    return bytes([2, 1, value]) if value < 128 else bytes([2, 2, 0, value])


def name(common_name: str) -> x509.Name:
    """A name as AMD writes it."""
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Synthetic Micro Devices"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name),
        ]
    )


@cache
def rsa_key(purpose: str) -> rsa.RSAPrivateKey:
    """A key, one for each purpose."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key(purpose: str, curve: type[ec.EllipticCurve] = ec.SECP384R1) -> ec.EllipticCurvePrivateKey:
    """A key, one for each purpose."""
    return ec.generate_private_key(curve())


def certificate(
    subject: str,
    key: Any,
    issuer: str,
    issuer_key: Any,
    *,
    serial: int = 1,
    begins: datetime = NOW - 300 * DAY,
    ends: datetime = NOW + 300 * DAY,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    algorithm: hashes.HashAlgorithm = SHA384,
    rsa_padding: Any = PSS,
) -> bytes:
    """A certificate (DER)."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject)).issuer_name(name(issuer))
        .public_key(key.public_key()).serial_number(serial)
        .not_valid_before(begins).not_valid_after(ends)
    )  # fmt: skip
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    if not isinstance(issuer_key, rsa.RSAPrivateKey):
        rsa_padding = None
    return builder.sign(issuer_key, algorithm, rsa_padding=rsa_padding).public_bytes(Encoding.DER)


def key_usage(signs: bool = True) -> x509.KeyUsage:
    """The key usage of an authority, or of a key that may not sign certificates."""
    return x509.KeyUsage(not signs, False, False, False, False, signs, signs, False, False)


AUTHORITY = ((x509.BasicConstraints(ca=True, path_length=None), True), (key_usage(), True))


def amd_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """512 bytes, r and s little-endian."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA384)))
    return r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)


def amd_key(key: ec.EllipticCurvePrivateKey, curve: int = 2) -> bytes:
    """1028 bytes: curve, x and y little-endian."""
    point = key.public_key().public_numbers()
    return struct.pack("<I", curve) + point.x.to_bytes(72, "little") + point.y.to_bytes(72, "little") + bytes(880)


@dataclass
class Chip:
    """A chip, the key AMD derived for it, and what its firmware reports unless told otherwise."""

    product: str = "Milan"
    kind: str = "vcek"
    version: int = 3
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec_key("chip"))

    @property
    def chip_id(self) -> bytes:
        """Its id as reports show it."""
        return hashlib.sha512(b"a chip").digest()[: 8 if self.product == "Turin" else 64].ljust(64, b"\0")

    @property
    def tcb(self) -> bytes:
        """Its versions."""
        return bytes.fromhex(TCB[self.product])

    def body(self, **changes: Any) -> bytes:
        """The signed part of a report, with `changes`."""
        values = {
            "version": self.version, "policy": TRUE_POLICY, "algorithm": 1, "keys": 4 if self.kind == "vlek" else 0,
            "report_data": b"\x11" * 64, "measurement": b"\x22" * 48, "host_data": b"\x33" * 32,
            "report_id": b"\x44" * 32, "report_id_ma": b"\xff" * 32, "chip_id": self.chip_id,
            "current_tcb": self.tcb, "reported_tcb": self.tcb, "committed_tcb": self.tcb, "launch_tcb": self.tcb,
            "current_firmware": b"\x1d\x37\x01", "committed_firmware": b"\x1d\x37\x01",
        } | ({"cpuid": CPUID[self.product]} if self.version >= 3 else {}) | changes  # fmt: skip
        body = bytearray(0x2A0)
        for field_name, value in values.items():
            offset, form = FIELDS[field_name]
            struct.pack_into(f"<{form}", body, offset, value)
        return bytes(body)

    def report(self, **changes: Any) -> bytes:
        """A signed report, with `changes`."""
        body = self.body(**changes)
        return body + amd_signature(self.key, body)


@dataclass
class Vendor:
    """The synthetic AMD of one product. `Vendor().chain` and `.crl()` are good; the parameters make bad ones."""

    product: str = "Milan"

    @property
    def ark(self) -> bytes:
        """The root."""
        return _standing(self.product, "ARK-{}", "ark", 1)

    @property
    def ask(self) -> bytes:
        """What signs VCEKs."""
        return _standing(self.product, "SEV-{}", "ask", 0x10001)

    @property
    def asvk(self) -> bytes:
        """What signs VLEKs."""
        return _standing(self.product, "SEV-VLEK-{}", "asvk", 0x10101)

    def authority(self, subject: str, key: str, issuer: str, issuer_key: str, **changes: Any) -> bytes:
        """A certificate of an authority; `{}` in names becomes the product."""
        changes = {"extensions": AUTHORITY} | changes
        return certificate(
            subject.format(self.product), self._key(key), issuer.format(self.product), self._key(issuer_key), **changes
        )

    def chip_certificate(
        self,
        chip: Chip,
        *,
        subject: str | None = None,
        issuer: str | None = None,
        issuer_key: str | None = None,
        product: str | None = None,
        tcb: bytes | None = None,
        chip_id: bytes | None = None,
        without: str | None = None,
        amd: dict[str, bytes] | None = None,
        more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
        **changes: Any,
    ) -> bytes:
        """The certificate of a chip's key."""
        vlek = chip.kind == "vlek"
        product = product or STEPPED[self.product]
        bare_id = chip.chip_id[: 8 if self.product == "Turin" else 64] if chip_id is None else chip_id
        values = {"1": integer(0), "2": bytes([0x16, len(product)]) + product.encode()}
        for arc, level in zip(ARCS[self.product], tcb or chip.tcb, strict=True):
            values[f"3.{arc}"] = integer(level)
        if vlek:
            values["5"] = bytes([0x16, 11]) + b"CN=a.lender"
        else:
            values["4"] = bare_id
        values |= amd or {}
        extensions = tuple(
            (x509.UnrecognizedExtension(x509.ObjectIdentifier(AMD + arc), value), False)
            for arc, value in values.items()
            if arc != without
        )
        return certificate(
            subject or ("SEV-VLEK" if vlek else "SEV-VCEK"), changes.pop("key", chip.key),
            issuer or (f"SEV-VLEK-{self.product}" if vlek else f"SEV-{self.product}"),
            self._key(issuer_key or ("asvk" if vlek else "ask")), extensions=extensions + more, **changes,
        )  # fmt: skip

    def crl(
        self,
        *revoked: int,
        issuer: str = "ARK-{}",
        key: Any = None,
        begins: datetime = NOW - DAY,
        ends: datetime = NOW + 30 * DAY,
        extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
        algorithm: hashes.HashAlgorithm = SHA384,
        rsa_padding: Any = PSS,
    ) -> bytes:
        """A revocation list of the root, with the serial numbers `revoked`."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name(issuer.format(self.product))).last_update(begins).next_update(ends)
        )  # fmt: skip
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        signed = builder.sign(key or self._key("ark"), algorithm, rsa_padding=rsa_padding)
        return signed.public_bytes(Encoding.DER)

    def crl_without_end(self) -> bytes:
        """A signed revocation list that has no `nextUpdate`, which X.509 leaves optional."""
        return without_end(self.crl(), lambda tbs: self._key("ark").sign(tbs, PSS, SHA384))

    def _key(self, purpose: str) -> rsa.RSAPrivateKey:
        return rsa_key(f"{self.product} {purpose}")


@cache
def _standing(product: str, subject: str, key: str, serial: int) -> bytes:
    """An authority's certificate, the same whenever it is asked for: RSA-PSS signs differently each time."""
    return Vendor(product).authority(subject, key, "ARK-{}", "ark", serial=serial)


def id_block(chip_body: bytes, **changes: Any) -> bytes:
    """The ID block (96 bytes) that a guest with this report was launched by, with `changes`."""
    values = {
        "digest": chip_body[0x90:0xC0], "family": chip_body[0x10:0x20], "image": chip_body[0x20:0x30], "version": 1,
        "svn": struct.unpack_from("<I", chip_body, 4)[0], "policy": struct.unpack_from("<Q", chip_body, 8)[0],
    } | changes  # fmt: skip
    return struct.pack("<48s16s16sIIQ", *values.values())


def id_authentication(block: bytes, **changes: Any) -> bytes:
    """Who signed `block` (4096 bytes), with `changes`."""
    id_key, author_key = amd_key(ec_key("id")), amd_key(ec_key("author"))
    values = {
        "algorithm": 1, "author_algorithm": 1, "reserved_8": b"", "block_signature": amd_signature(ec_key("id"), block),
        "id_key": id_key, "reserved_644": b"", "key_signature": amd_signature(ec_key("author"), id_key),
        "author_key": author_key, "reserved_c84": b"",
    } | changes  # fmt: skip
    return struct.pack("<II56s512s1028s60s512s1028s892s", *values.values())


def certificate_table(entries: dict[str, bytes]) -> bytes:
    """The table that a host hands out, of certificates by GUID."""
    at = (len(entries) + 1) * 24
    head, tail = b"", b""
    for guid, data in entries.items():
        head += uuid.UUID(guid).bytes + struct.pack("<II", at + len(tail), len(data))
        tail += data
    return head + bytes(24) + tail
