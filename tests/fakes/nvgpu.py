"""A GPU, its maker's manifests and its OCSP responder, all of which really sign, under synthetic roots."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attest import nvgpu
from attest.nvgpu import xmltree
from tests.fakes.authority import NOW, SIGNER, Issued, issue, raw_signature
from tests.fakes.der import tlv

NONCE = bytes(range(32))
FWID = hashlib.sha384(b"firmware").digest()
DRIVER, VBIOS = "550.90.07", "96.00.9F.00.01"


def value(block: int, what: str = "good") -> bytes:
    """The value of a measurement block."""
    return hashlib.sha384(f"{what} {block}".encode()).digest()


def device_identity(digest: bytes = FWID, version: int = 1, algorithm: str = "608648016503040202") -> bytes:
    """The composite device identity."""
    spki = ec.derive_private_key(7, ec.SECP384R1()).public_key()
    key = spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fwid = tlv(0x30, tlv(0x06, bytes.fromhex(algorithm)) + tlv(0x04, digest))
    return tlv(0x30, tlv(0x02, bytes([version])) + key + fwid)


def leaf(boot_rom: Issued, identity: bytes | None = None, common: str = "GH100 FMC") -> Issued:
    """The certificate of the firmware's key."""
    oid = x509.ObjectIdentifier("2.23.133.5.4.1")
    extensions = [(x509.UnrecognizedExtension(oid, device_identity() if identity is None else identity), False)]
    return issue(common, boot_rom, ca=None, key_usage=SIGNER, extensions=extensions if identity != b"" else [])


def device_chain(boot_rom: str = "GH100 A01 GSP BROM") -> list[Issued]:
    """Leaf, boot ROM, two authorities, root."""
    root = issue("device root")
    identity = issue("identity", root)
    provisioner = issue("provisioner", identity)
    rom = issue(boot_rom, provisioner)
    return [leaf(rom), rom, provisioner, identity, root]


def manifest_chain() -> list[Issued]:
    """Leaf, one authority, root."""
    root = issue("rim root")
    middle = issue("rim authority", root)
    return [issue("rim signer", middle, ca=False, key_usage=SIGNER), middle, root]


@dataclass
class Gpu:
    """A GPU. Every part of its report can be changed before it is signed."""

    chain: list[Issued] = field(default_factory=device_chain)
    measurements: dict[int, bytes] = field(default_factory=lambda: {block: value(block) for block in range(1, 65)})
    opaque: dict[int, bytes] = field(
        default_factory=lambda: {
            6: bytes.fromhex("009f009601000000"),
            3: DRIVER.encode() + b"\0",
            11: b"\xaa",
            20: FWID,
            21: b"\x55",
        }
    )

    def record(self) -> bytes:
        return b"".join(
            struct.pack("<BBHBH", block, 1, 3 + len(content), 1, len(content)) + content
            for block, content in self.measurements.items()
        )

    def message(
        self,
        nonce: bytes = NONCE,
        *,
        request: bytes | None = None,
        response: bytes = b"\x11\x60\0\0",
        record: bytes | None = None,
        count: int | None = None,
        opaque: bytes | None = None,
    ) -> bytes:
        """Request and response without the signature."""
        record = self.record() if record is None else record
        if opaque is None:
            opaque = b"".join(struct.pack("<HH", kind, len(item)) + item for kind, item in self.opaque.items())
        count = len(self.measurements) if count is None else count
        return b"".join((
            request or b"\x11\xe0\x01\xff" + nonce + b"\0",
            response, bytes([count]), len(record).to_bytes(3, "little"), record,
            bytes(32), len(opaque).to_bytes(2, "little"), opaque,
        ))  # fmt: skip

    def sign(self, message: bytes, own: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        return message + raw_signature(own or self.chain[0].key, message, hashes.SHA384(), 48)

    def pem(self) -> bytes:
        return b"".join(item.pem for item in self.chain)

    def evidence(self, nonce: bytes = NONCE) -> nvgpu.Evidence:
        return nvgpu.Evidence(self.sign(self.message(nonce)), self.pem())


SWID = (
    '<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" '
    'xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384" tagId="{tag}">\n'
    '<Meta colloquialVersion="{version}" product="{product}"/>\n<Payload>\n{entries}</Payload>\n</SoftwareIdentity>'
)
C14N = "http://www.w3.org/2006/12/xml-c14n11"
MORE = "http://www.w3.org/2001/04/xmldsig-more"
INFO = (
    f'<ds:SignedInfo><ds:CanonicalizationMethod Algorithm="{C14N}"/>'
    f'<ds:SignatureMethod Algorithm="{MORE}#ecdsa-sha384"/><ds:Reference URI=""><ds:Transforms>'
    '<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>'
    f'<ds:Transform Algorithm="{C14N}"/></ds:Transforms><ds:DigestMethod Algorithm="{MORE}#sha384"/>'
    "<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
)


def entry(index: int, values: Sequence[bytes], active: bool = True) -> str:
    """One entry of a manifest."""
    digests = " ".join(f'ns2:Hash{number}="{item.hex()}"' for number, item in enumerate(values))
    return (
        f'<Resource type="Measurement" index="{index}" active="{active}" alternatives="{len(values)}" {digests} '
        f'name="M{index}" size="48"/>\n'
    )


def tag(version: str, blocks: Sequence[int], product: str = "GH100", entries: str = "") -> str:
    """A SWID tag with the good values of these blocks."""
    good = "".join(entry(block - 1, [value(block, "older"), value(block)]) for block in blocks)
    return SWID.format(tag="t", version=version, product=product, entries=good + entries)


def signed(
    document: str,
    chain: Sequence[Issued],
    *,
    own: ec.EllipticCurvePrivateKey | None = None,
    info: str = INFO,
    change: Callable[[str], str] = lambda text: text,
) -> bytes:
    """`document` with a signature as its root's last child; `change` edits the signature before its own signing."""
    root = xmltree.parse(document.encode(), "document")
    digest = base64.b64encode(hashlib.sha384(xmltree.canonical(root)).digest()).decode()
    certificates = "".join(
        f"<ds:X509Certificate>{base64.b64encode(item.der).decode()}</ds:X509Certificate>" for item in chain
    )
    shell = change(
        f'<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#">{info.format(digest=digest)}'
        "<ds:SignatureValue>VALUE</ds:SignatureValue>"
        f"<ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>"
    )
    end = f"</{root.qualified}>"
    text = document.removesuffix(end) + shell + end
    whole = xmltree.parse(text.encode(), "document")
    infos = [
        child
        for element in whole.elements()
        if element.name[1] == "Signature"
        for child in element.elements()
        if child.name[1] == "SignedInfo"
    ]
    body = xmltree.canonical(infos[0]) if infos else b""
    signature = raw_signature(own or chain[0].key, body, hashes.SHA384(), 48)
    return text.replace("VALUE", base64.b64encode(signature).decode()).encode()


DRIVER_BLOCKS, VBIOS_BLOCKS = (8, 22, 36), (1, 2, 13)


@dataclass
class Maker:
    """NVIDIA: manifests, roots, OCSP."""

    gpus: list[Gpu] = field(default_factory=lambda: [Gpu()])
    chain: list[Issued] = field(default_factory=manifest_chain)

    def driver_rim(self, **options: object) -> bytes:
        return signed(tag(DRIVER, DRIVER_BLOCKS), self.chain, **options)  # type: ignore[arg-type]

    def vbios_rim(self, **options: object) -> bytes:
        return signed(tag(VBIOS, VBIOS_BLOCKS), self.chain, **options)  # type: ignore[arg-type]

    def responses(self) -> tuple[bytes, ...]:
        """Good ones on all certificates that need one."""
        device = [pair for gpu in self.gpus for pair in zip(gpu.chain[1:], gpu.chain[2:], strict=False)]
        return tuple(
            response(item, issuer) for item, issuer in [*device, *zip(self.chain, self.chain[1:], strict=False)]
        )

    def endorsements(self, **changes: object) -> nvgpu.Endorsements:
        fields: dict[str, object] = {
            "device_roots": tuple(gpu.chain[-1].der for gpu in self.gpus),
            "rim_roots": (self.chain[-1].der,),
            "driver_rim": self.driver_rim(),
            "vbios_rim": self.vbios_rim(),
            "ocsp": self.responses(),
        }
        return nvgpu.Endorsements(**(fields | changes))  # type: ignore[arg-type]


def responder(issuer: Issued, **options: object) -> Issued:
    """A delegated responder."""
    purpose = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)
    return issue("responder", issuer, **({"ca": False, "key_usage": SIGNER, "extensions": [purpose]} | options))  # type: ignore[arg-type]


def response(
    subject: Issued,
    issuer: Issued,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    days: tuple[float, float | None] = (-1, 1),
    signer: Issued | None = None,
    own: Issued | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
    digest: hashes.HashAlgorithm | None = None,
    reason: x509.ReasonFlags | None = x509.ReasonFlags.certificate_hold,
) -> bytes:
    """An OCSP response, DER; with a `signer`, its certificate is in it; `own` signs in its place."""
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=subject.certificate,
        issuer=issuer.certificate,
        algorithm=algorithm or hashes.SHA1(),
        cert_status=status,
        this_update=NOW + timedelta(days=days[0]),
        next_update=None if days[1] is None else NOW + timedelta(days=days[1]),
        revocation_time=NOW if revoked else None,
        revocation_reason=reason if revoked else None,
    )
    by = own or signer or issuer
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, by.certificate)
    if signer is not None:
        builder = builder.certificates([signer.certificate])
    return builder.sign(by.key, digest or hashes.SHA384()).public_bytes(Encoding.DER)
