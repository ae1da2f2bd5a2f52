"""Structures of TPM 2.0, from bytes to fields: keys, what a TPM attests, and its signatures.

Strict: sizes, selectors and padding are what the specification says, and nothing follows. No trust is checked here.
What the specification allows and this release does not read (SM2, Camellia, XOR, ...) is `Unsupported`.
Source: TCG TPM 2.0 Library, part 2 (structures), revision 1.59; the sections are named at each structure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attest.errors import MalformedInput, Unsupported
from attest.tpm.reader import Reader

Hash = Literal["sha1", "sha256", "sha384", "sha512"]
"""A hash function, and the bank of registers that uses it."""
Scheme = Literal["ecdsa", "rsassa", "rsapss"]
Kind = Literal["ecc", "rsa"]

HASHES: Final[dict[int, Hash]] = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
"""Hash functions by TPM_ALG_ID (6.3)."""
HASH_IDS: Final = {name: number for number, name in HASHES.items()}
SIZES: Final[dict[Hash, int]] = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
"""Bytes of a digest."""
SCHEMES: Final[dict[int, Scheme]] = {0x0014: "rsassa", 0x0016: "rsapss", 0x0018: "ecdsa"}
NULL, RSA, AES, CFB, ECC = 0x0010, 0x0001, 0x0006, 0x0043, 0x0023
CURVES: Final[dict[int, type[ec.SECP256R1 | ec.SECP384R1]]] = {0x0003: ec.SECP256R1, 0x0004: ec.SECP384R1}
RSA_BITS: Final = (2048, 3072, 4096)
RESERVED: Final = 0xFFF0F009
"""Bits of TPMA_OBJECT that mean nothing, and are zero (8.3)."""
REGISTERS: Final = 24
MAX_SELECTIONS: Final = 8

MAGIC: Final = 0xFF544347
"""TPM_GENERATED_VALUE: a restricted key signs nothing that begins so, unless the TPM made it."""


@dataclass(frozen=True)
class PublicArea:
    """A public key and what its TPM lets it do (TPMT_PUBLIC, 12.2.4)."""

    kind: Kind
    """`type`, offset 0, 2 bytes."""
    name_hash: Hash
    """`nameAlg`, offset 2, 2 bytes."""
    attributes: int
    """`objectAttributes` (TPMA_OBJECT, 8.3), offset 4, 4 bytes."""
    policy: bytes
    """`authPolicy`, offset 8, sized: the digest of the policy that allows its use; may be empty."""
    symmetric_bits: int
    """Bits of the AES-CFB key that protects what it wraps; 0 for a key that wraps nothing."""
    scheme: Scheme | None
    """How it signs; None for a key that does not."""
    scheme_hash: Hash | None
    """With which hash it signs."""
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    """The key itself."""
    encoded: bytes
    """The bytes that were read."""

    @property
    def name(self) -> bytes:
        """By what the TPM knows the key: the algorithm's number, and the hash of the public area (part 1, 16)."""
        return name_of(self.name_hash, self.encoded)


@dataclass(frozen=True)
class Selection:
    """Registers of one bank (TPMS_PCR_SELECTION, 10.6.2)."""

    bank: Hash
    """The bank."""
    registers: tuple[int, ...]
    """The registers, ascending."""


@dataclass(frozen=True)
class Quote:
    """What a TPM says about its registers (TPMS_QUOTE_INFO, 10.12.1)."""

    selections: tuple[Selection, ...]
    """Which registers."""
    digest: bytes
    """The hash over their values, in the order of the selections; its function is that of the signature."""


@dataclass(frozen=True)
class Certification:
    """What a TPM says about an object that it holds (TPMS_CERTIFY_INFO, 10.12.2)."""

    name: bytes
    """The object's name."""
    qualified_name: bytes
    """Its name and that of its parents."""


@dataclass(frozen=True)
class Creation:
    """What a TPM says about an object that it made (TPMS_CREATION_INFO, 10.12.6)."""

    name: bytes
    """The object's name."""
    creation_hash: bytes
    """The hash over the data of its creation."""


@dataclass(frozen=True)
class NvContents:
    """What a TPM says about the contents of an index (TPMS_NV_CERTIFY_INFO, 10.12.8)."""

    name: bytes
    """The index's name."""
    offset: int
    """Where in the index the contents begin."""
    contents: bytes
    """The contents."""


Statement = Quote | Certification | Creation | NvContents


@dataclass(frozen=True)
class Attested:
    """What a TPM signs (TPMS_ATTEST, 10.12.12)."""

    signer: bytes
    """`qualifiedSigner`, offset 6, sized: the qualified name of the key that signs."""
    nonce: bytes
    """`extraData`, sized: what the caller had bound in."""
    clock_ms: int
    """`clockInfo.clock`: milliseconds that the TPM was powered (10.11.1)."""
    resets: int
    """`clockInfo.resetCount`: how often it was reset; obfuscated for a key outside endorsement and platform."""
    restarts: int
    """`clockInfo.restartCount`: how often it was resumed since."""
    clock_safe: bool
    """`clockInfo.safe`: no higher value of the clock was ever reported."""
    firmware: int
    """`firmwareVersion`, 8 bytes; obfuscated as `resets` is."""
    statement: Statement
    """What it says."""


@dataclass(frozen=True)
class Signature:
    """A signature (TPMT_SIGNATURE, 11.3.4)."""

    scheme: Scheme
    """`sigAlg`, offset 0, 2 bytes."""
    hash: Hash
    """`hash`, offset 2, 2 bytes."""
    value: bytes
    """The signature: DER of r and s for ECDSA, the number's bytes for RSA."""


@dataclass(frozen=True)
class NvPublic:
    """An index of the TPM's memory (TPMS_NV_PUBLIC, 13.5)."""

    index: int
    """`nvIndex`, offset 0, 4 bytes."""
    name_hash: Hash
    """`nameAlg`, offset 4, 2 bytes."""
    attributes: int
    """`attributes` (TPMA_NV, 13.4), offset 6, 4 bytes."""
    policy: bytes
    """`authPolicy`, offset 10, sized."""
    size: int
    """`dataSize`, 2 bytes."""
    encoded: bytes
    """The bytes that were read."""

    @property
    def name(self) -> bytes:
        """By what the TPM knows it."""
        return name_of(self.name_hash, self.encoded)


def name_of(name_hash: Hash, encoded: bytes) -> bytes:
    """The name of an entity whose public area is `encoded` (part 1, 16)."""
    return HASH_IDS[name_hash].to_bytes(2, "big") + hashlib.new(name_hash, encoded).digest()


def public_area(data: bytes) -> PublicArea:
    """The key in a TPMT_PUBLIC. Raises `MalformedInput`, `Unsupported`."""
    reader = Reader(data, "TPM key", ">")
    kind, name_hash, attributes = reader.number("H"), _hash(reader), reader.number("I")
    if attributes & RESERVED:
        raise reader.malformed(f"expected attributes of a key, found {attributes:#010x}")
    policy = reader.sized()
    if kind not in (RSA, ECC):
        raise Unsupported("TPM key", f"expected RSA or ECC, found type {kind:#06x}")
    symmetric_bits = _symmetric(reader)
    scheme, scheme_hash = _scheme(reader)
    key = _rsa(reader) if kind == RSA else _ecc(reader)
    reader.end()
    name: Kind = "rsa" if kind == RSA else "ecc"
    if scheme is not None and (scheme == "ecdsa") != (name == "ecc"):
        raise MalformedInput("TPM key", f"expected a scheme of its type, found {scheme} of an {name} key")
    return PublicArea(name, name_hash, attributes, policy, symmetric_bits, scheme, scheme_hash, key, data)


def attested(data: bytes) -> Attested:
    """What is said in a TPMS_ATTEST. Raises `MalformedInput`, `Unsupported`."""
    reader = Reader(data, "TPM statement", ">")
    if reader.number("I") != MAGIC:
        raise MalformedInput("TPM statement", "expected a statement that a TPM made, found other bytes")
    kind = reader.number("H")
    signer, nonce = reader.sized(), reader.sized()
    clock, resets, restarts, safe, firmware = reader.numbers("QIIBQ")
    if safe > 1:
        raise reader.malformed(f"expected yes or no, found {safe}")
    statement = _statement(kind, reader)
    reader.end()
    return Attested(signer, nonce, clock, resets, restarts, bool(safe), firmware, statement)


def signature(data: bytes) -> Signature:
    """The signature in a TPMT_SIGNATURE. Raises `MalformedInput`, `Unsupported`."""
    reader = Reader(data, "TPM signature", ">")
    number = reader.number("H")
    if number not in SCHEMES:
        raise Unsupported("TPM signature", f"expected ECDSA, RSASSA or RSAPSS, found scheme {number:#06x}")
    scheme, hash_ = SCHEMES[number], _hash(reader)
    if scheme == "ecdsa":
        r, s = (int.from_bytes(reader.sized(), "big") for _ in range(2))
        value = encode_dss_signature(r, s)
    else:
        value = reader.sized()
    reader.end()
    return Signature(scheme, hash_, value)


def nv_public(data: bytes) -> NvPublic:
    """The index that a TPMS_NV_PUBLIC describes. Raises `MalformedInput`, `Unsupported`."""
    reader = Reader(data, "TPM index", ">")
    index, name_hash, attributes = reader.number("I"), _hash(reader), reader.number("I")
    policy, size = reader.sized(), reader.number("H")
    reader.end()
    return NvPublic(index, name_hash, attributes, policy, size, data)


def selections(reader: Reader) -> tuple[Selection, ...]:
    """The next TPML_PCR_SELECTION (10.9.7): at most one selection a bank, of 24 registers."""
    count = reader.number("I")
    if count > MAX_SELECTIONS:
        raise reader.malformed(f"expected at most {MAX_SELECTIONS} selections, found {count}")
    found = []
    for _ in range(count):
        bank = _hash(reader)
        if reader.number("B") != REGISTERS // 8:
            raise reader.malformed(f"expected a selection of {REGISTERS} registers")
        bits = int.from_bytes(reader.take(REGISTERS // 8), "little")
        found.append(Selection(bank, tuple(register for register in range(REGISTERS) if bits >> register & 1)))
    if len({item.bank for item in found}) != len(found):
        raise reader.malformed("expected one selection a bank")
    return tuple(found)


def _statement(kind: int, reader: Reader) -> Statement:
    if kind == 0x8018:
        return Quote(selections(reader), reader.sized())
    if kind == 0x8017:
        return Certification(reader.sized(), reader.sized())
    if kind == 0x801A:
        return Creation(reader.sized(), reader.sized())
    if kind == 0x8014:
        return NvContents(reader.sized(), reader.number("H"), reader.sized())
    raise Unsupported("TPM statement", f"expected a quote or a certification, found type {kind:#06x}")


def _hash(reader: Reader) -> Hash:
    number = reader.number("H")
    if number not in HASHES:
        raise Unsupported("TPM structure", f"expected SHA-1 or SHA-2, found hash algorithm {number:#06x}")
    return HASHES[number]


def _symmetric(reader: Reader) -> int:
    """TPMT_SYM_DEF_OBJECT (11.1.7)."""
    algorithm = reader.number("H")
    if algorithm == NULL:
        return 0
    bits, mode = reader.numbers("HH")
    if (algorithm, mode) != (AES, CFB) or bits not in (128, 192, 256):
        raise Unsupported("TPM key", f"expected AES in CFB mode, found {algorithm:#06x}, {bits} bits, {mode:#06x}")
    return bits


def _scheme(reader: Reader) -> tuple[Scheme | None, Hash | None]:
    """TPMT_RSA_SCHEME, TPMT_ECC_SCHEME (11.2.4.2, 11.2.5.6)."""
    number = reader.number("H")
    if number == NULL:
        return None, None
    if number not in SCHEMES:
        raise Unsupported("TPM key", f"expected ECDSA, RSASSA, RSAPSS or none, found scheme {number:#06x}")
    return SCHEMES[number], _hash(reader)


def _rsa(reader: Reader) -> rsa.RSAPublicKey:
    bits, exponent = reader.numbers("HI")
    modulus = reader.sized()
    if bits not in RSA_BITS or exponent not in (0, 65537):  # 0 stands for 65537
        raise Unsupported("TPM key", f"expected RSA of {RSA_BITS} bits and 65537, found {bits} and {exponent}")
    number = int.from_bytes(modulus, "big")
    if len(modulus) != bits // 8 or number.bit_length() != bits or not number & 1:
        raise reader.malformed(f"expected an odd modulus of {bits} bits")
    return rsa.RSAPublicNumbers(65537, number).public_key()


def _ecc(reader: Reader) -> ec.EllipticCurvePublicKey:
    curve, derivation = reader.numbers("HH")
    if curve not in CURVES or derivation != NULL:
        raise Unsupported("TPM key", f"expected P-256 or P-384 and no KDF, found {curve:#06x} and {derivation:#06x}")
    x, y = (int.from_bytes(reader.sized(), "big") for _ in range(2))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, CURVES[curve]()).public_key()
    except ValueError:
        raise reader.malformed("expected a point on the curve") from None
