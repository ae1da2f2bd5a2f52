"""AMD's certificates: reading them, and what the extensions of a VCEK or VLEK certificate say about the chip.

Extensions as of "VCEK Certificate and KDS Interface Specification" (AMD 57230), table 8. Nothing is checked for trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attest import chain
from attest.errors import MalformedInput, Unsupported
from attest.sevsnp import der
from attest.sevsnp.tcb import PRODUCTS, Product

WHAT: Final = "AMD certificate"
WHAT_CRL: Final = "AMD revocation list"
MAX_BYTES: Final = 16384
"""Of one certificate; AMD's are below 2 KiB."""
MAX_CRL_BYTES: Final = 1 << 20

_AMD = "1.3.6.1.4.1.3704.1."
_STRUCT_VERSIONS = (0, 1)
# Which security patch level stands at which byte of `TCB_VERSION`: the last arc of its extension.
_LEVELS: Final[dict[Product, tuple[int, ...]]] = {
    "Milan": (1, 2, 4, 5, 6, 7, 3, 8),
    "Genoa": (1, 2, 4, 5, 6, 7, 3, 8),
    "Turin": (9, 1, 2, 3, 5, 6, 7, 8),
}
_CHIP_ID_BYTES: Final[dict[Product, int]] = {"Milan": 64, "Genoa": 64, "Turin": 8}

Kind = Literal["vcek", "vlek"]


@dataclass(frozen=True)
class ChipCertificate:
    """What a VCEK's or VLEK's certificate says of the key in it."""

    kind: Kind
    """`vcek`: derived from one chip's own secret. `vlek`: lent to a cloud provider, the same in many chips."""
    product: Product
    """The product's name, without its stepping."""
    tcb: bytes
    """8 bytes, laid out as `TCB_VERSION`: the versions that the key is derived from."""
    chip_id: bytes | None
    """64 bytes, zeros behind a shorter one: the chip's id (`hwID`). None for a VLEK."""
    provider: str | None
    """Whom the key was lent to (`cspID`). None for a VCEK."""
    key: ec.EllipticCurvePublicKey
    """The key, on P-384."""


def load(data: bytes) -> x509.Certificate:
    """The certificate in `data` (DER), whose every field that is used here can be read. Raises `MalformedInput`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    return chain.load(data, WHAT)


def load_crl(data: bytes) -> x509.CertificateRevocationList:
    """The revocation list in `data` (DER), as `load` does it. Raises `MalformedInput`."""
    if len(data) > MAX_CRL_BYTES:
        raise MalformedInput(WHAT_CRL, f"expected at most {MAX_CRL_BYTES} bytes, found {len(data)}")
    return chain.load_list(data, WHAT_CRL)


def split(data: bytes) -> tuple[bytes, ...]:
    """DER of each certificate in a PEM file, such as AMD's key service hands out. Raises `MalformedInput`."""
    return tuple(found.public_bytes(Encoding.DER) for found in chain.load_pem(data, WHAT))


def common_name(name: x509.Name) -> str:
    """The one common name in `name`. Raises `MalformedInput`."""
    found = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if len(found) != 1 or not isinstance(found[0].value, str):
        raise MalformedInput(WHAT, f"expected one common name, found {len(found)}")
    return found[0].value


def read_chip(certificate: x509.Certificate) -> ChipCertificate:
    """What a VCEK's or VLEK's certificate says. Raises `MalformedInput`, `Unsupported`."""
    subject = common_name(certificate.subject)
    kinds: dict[str, Kind] = {"SEV-VCEK": "vcek", "SEV-VLEK": "vlek"}
    if subject not in kinds:
        raise Unsupported(WHAT, f"expected a certificate of SEV-VCEK or SEV-VLEK, found {subject!r}")
    kind = kinds[subject]
    extensions = {
        extension.oid.dotted_string.removeprefix(_AMD): extension.value.value
        for extension in certificate.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }
    version = der.small_integer(_need(extensions, "1"), WHAT)
    if version not in _STRUCT_VERSIONS:
        raise Unsupported(WHAT, f"expected structure version 0 or 1, found {version}")
    name = der.ia5_string(_need(extensions, "2"), WHAT).partition("-")[0]
    if name not in PRODUCTS:
        raise Unsupported(WHAT, f"expected one of {', '.join(PRODUCTS)}, found {name!r}")
    product = PRODUCTS[name]
    levels = bytes(der.small_integer(_need(extensions, f"3.{arc}"), WHAT) for arc in _LEVELS[product])
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise MalformedInput(WHAT, "expected a key on P-384, found another")
    return ChipCertificate(
        kind, product, levels,
        _chip_id(_need(extensions, "4"), product) if kind == "vcek" else None,
        der.ia5_string(_need(extensions, "5"), WHAT) if kind == "vlek" else None,
        key,
    )  # fmt: skip


def _chip_id(value: bytes, product: Product) -> bytes:
    """Older certificates hold the bare bytes, newer ones an OCTET STRING."""
    size = _CHIP_ID_BYTES[product]
    if len(value) != size:
        value = der.octets(value, WHAT)
    if len(value) != size:
        raise MalformedInput(WHAT, f"expected a chip id of {size} bytes, found {len(value)}")
    return value.ljust(64, b"\0")


def _need(extensions: dict[str, bytes], arc: str) -> bytes:
    if arc not in extensions:
        raise MalformedInput(WHAT, f"expected the extension {_AMD}{arc}, found none")
    return extensions[arc]
