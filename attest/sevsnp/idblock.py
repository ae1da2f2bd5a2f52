"""The bytes of an ID block and of what authenticates it: SEV-SNP Firmware ABI, `ID_BLOCK` and `ID_AUTH_INFO`.

A guest's owner signs an ID block before launch; the firmware launches only what it names and reports the digest of the
key. All integers are little-endian. Nothing is checked for trust here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from attest.errors import MalformedInput, Unsupported
from attest.sevsnp.layout import ECDSA_P384_SHA384

WHAT: Final = "SEV-SNP ID block"
VERSION: Final = 1
P384: Final = 2

_BLOCK = struct.Struct("<48s16s16sIIQ")
_AUTHENTICATION = struct.Struct("<II56s512s1028s60s512s1028s892s")
_KEY = struct.Struct("<I72s72s880s")


@dataclass(frozen=True)
class IdBlock:
    """`ID_BLOCK`, 96 bytes: what the guest's owner lets be launched."""

    raw: bytes
    """All of it: what the ID key signs."""
    launch_digest: bytes
    """0x00 `LD`, 48 bytes: the launch measurement that is expected."""
    family_id: bytes
    """0x30 `FAMILY_ID`, 16 bytes."""
    image_id: bytes
    """0x40 `IMAGE_ID`, 16 bytes."""
    guest_svn: int
    """0x54 `GUEST_SVN`."""
    policy: int
    """0x58 `POLICY`: the guest policy that is expected."""


@dataclass(frozen=True)
class IdAuthentication:
    """`ID_AUTH_INFO`, 4096 bytes: who signed the ID block."""

    block_signature: bytes
    """0x040 `ID_BLOCK_SIG`, 512 bytes: the ID key's, over the ID block."""
    id_key: bytes
    """0x240 `ID_KEY`, 1028 bytes, see `read_key`."""
    author_algorithm: int
    """0x004 `AUTHOR_KEY_ALGO`; only read where there is an author's key."""
    key_signature: bytes
    """0x680 `ID_KEY_SIG`, 512 bytes: the author key's, over the ID key."""
    author_key: bytes
    """0x880 `AUTHOR_KEY`, 1028 bytes, see `read_key`; only read where there is one."""


def read_block(data: bytes) -> IdBlock:
    """The ID block in `data`, all of it. Raises `MalformedInput`, `Unsupported`."""
    if len(data) != _BLOCK.size:
        raise MalformedInput(WHAT, f"expected {_BLOCK.size} bytes, found {len(data)}")
    digest, family, image, version, svn, policy = _BLOCK.unpack(data)
    if version != VERSION:
        raise Unsupported(WHAT, f"expected version {VERSION}, found {version}")
    return IdBlock(data, digest, family, image, svn, policy)


def read_authentication(data: bytes) -> IdAuthentication:
    """The ID authentication in `data`, all of it. Raises `MalformedInput`, `Unsupported`."""
    if len(data) != _AUTHENTICATION.size:
        raise MalformedInput(WHAT, f"expected {_AUTHENTICATION.size} bytes of authentication, found {len(data)}")
    (algorithm, author_algorithm, reserved_8, block_signature, id_key, reserved_644, key_signature, author_key,
     reserved_c84) = _AUTHENTICATION.unpack(data)  # fmt: skip
    if algorithm != ECDSA_P384_SHA384:
        raise Unsupported(WHAT, f"expected key algorithm {ECDSA_P384_SHA384}, found {algorithm}")
    if any(reserved_8) or any(reserved_644) or any(reserved_c84):
        raise MalformedInput(WHAT, "expected zeros in the reserved bytes of the authentication, found others")
    return IdAuthentication(block_signature, id_key, author_algorithm, key_signature, author_key)


def read_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """The key in `data` (1028 bytes: curve, x and y of 72 bytes, zeros). Raises `MalformedInput`, `Unsupported`."""
    curve, x, y, reserved = _KEY.unpack(data)
    if curve != P384:
        raise Unsupported(WHAT, f"expected a key on P-384 (2), found curve {curve}")
    if any(reserved):
        raise MalformedInput(WHAT, "expected zeros in the reserved bytes of a key, found others")
    try:
        numbers = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "little"), int.from_bytes(y, "little"), ec.SECP384R1()
        )
        return numbers.public_key()
    except ValueError:
        raise MalformedInput(WHAT, "expected a point on P-384, found another") from None
