"""Cosignatures of witnesses on a log's checkpoint: C2SP tlog-cosignature, `cosignature/v1` (Ed25519, with a time).

A witness is somebody outside the lab. Its line in a signed note says: at this time, this was the largest tree of this
log that I knew, and it extends every tree that I cosigned before. Keys are written as C2SP and Go write them:

    name+hash+base64(0x04 || public key)               who a witness is; handed to relying parties
    PRIVATE+KEY+name+hash+base64(0x01 || seed)         what it signs with; kept

Refused: other kinds of keys, a hash that is not the key's, a line by a known witness that does not verify.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attest.checkpoint import Checkpoint, NoteSignature
from attest.digest import sha256
from attest.dsse import b64decode, b64encode
from attest.errors import MalformedInput, VerificationError

LAYER: Final = "witness"
MAX_KEY_BYTES: Final = 1000
ED25519, COSIGNATURE = b"\x01", b"\x04"
"""Kinds of keys in a signed note (c2sp.org/signed-note)."""
TIME_BYTES: Final = 8
SIZE_BYTES: Final = TIME_BYTES + 64
MAX_TIME: Final = 1 << 37
"""A time after the year 6000 is none."""
NAME: Final = r"[A-Za-z0-9][A-Za-z0-9./_-]{0,199}"


@dataclass(frozen=True)
class WitnessKey:
    """Who a witness is."""

    name: str
    """Its name, such as `auditor.example`."""
    public: bytes
    """Its Ed25519 key, 32 bytes."""

    @property
    def hint(self) -> bytes:
        """Four bytes: how a note names the key."""
        return _hint(self.name, COSIGNATURE + self.public)

    def __str__(self) -> str:
        """The key as relying parties are given it."""
        return f"{self.name}+{self.hint.hex()}+{b64encode(COSIGNATURE + self.public)}"


@dataclass(frozen=True)
class Signer:
    """What a witness signs with."""

    name: str
    """Its name."""
    key: Ed25519PrivateKey = field(repr=False)
    """Its private key."""

    @property
    def witness(self) -> WitnessKey:
        """Who it is."""
        return WitnessKey(self.name, self.key.public_key().public_bytes_raw())

    def secret(self) -> str:
        """The private key as a witness keeps it."""
        public = ED25519 + self.key.public_key().public_bytes_raw()
        seed = b64encode(ED25519 + self.key.private_bytes_raw())
        return f"PRIVATE+KEY+{self.name}+{_hint(self.name, public).hex()}+{seed}"

    def cosign(self, text: str, seconds: int) -> NoteSignature:
        """The line for a checkpoint's `text`, at a time in seconds since 1970."""
        signature = self.key.sign(_message(text, seconds))
        return NoteSignature(self.name, self.witness.hint, seconds.to_bytes(TIME_BYTES, "big") + signature)


@dataclass(frozen=True)
class Cosigned:
    """A cosignature that holds."""

    witness: WitnessKey
    """Whose it is."""
    time: datetime
    """When, by the witness's clock."""


def parse_key(data: bytes) -> WitnessKey:
    """The witness in the one line of `data`. Raises `MalformedInput`."""
    name, raw = _parts(data, "")
    key = WitnessKey(name, raw)
    if str(key) != _text(data):
        raise MalformedInput("witness key", "expected name+hash+key of a witness with Ed25519 (kind 4)")
    return key


def parse_signer(data: bytes) -> Signer:
    """The private key in the one line of `data`. Raises `MalformedInput`, which does not quote it."""
    name, raw = _parts(data, "PRIVATE+KEY+")
    signer = make_signer(name, raw)
    if signer.secret() != _text(data):
        raise MalformedInput("private key of a witness", "expected PRIVATE+KEY+name+hash+key: attest witness keygen")
    return signer


def make_signer(name: str, seed: bytes) -> Signer:
    """The signer with this name and seed of 32 bytes. Raises `MalformedInput`."""
    if not re.fullmatch(NAME, name):
        raise MalformedInput("witness name", f"expected a name such as auditor.example, found {name[:80]!r}")
    return Signer(name, Ed25519PrivateKey.from_private_bytes(seed))


def check(checkpoint: Checkpoint, witnesses: Sequence[WitnessKey]) -> tuple[Cosigned, ...]:
    """The cosignatures of `witnesses` on `checkpoint`, one a witness; lines of others are not looked at.

    Raises `VerificationError` (layer `witness`) for a line of one of them that does not hold.
    """
    found = {}
    for witness in witnesses:
        for line in checkpoint.note.signatures:
            if (line.name, line.hint) == (witness.name, witness.hint):
                found[witness] = Cosigned(witness, _verify(witness, line, checkpoint.note.text))
    return tuple(found.values())


def _verify(witness: WitnessKey, line: NoteSignature, text: str) -> datetime:
    seconds = int.from_bytes(line.signature[:TIME_BYTES], "big")
    if len(line.signature) != SIZE_BYTES or not 0 < seconds < MAX_TIME:
        raise MalformedInput("cosignature", f"expected a time and 64 bytes by {witness.name}, found others")
    try:
        key = Ed25519PublicKey.from_public_bytes(witness.public)
        key.verify(line.signature[TIME_BYTES:], _message(text, seconds))
    except InvalidSignature:
        raise VerificationError(
            LAYER, "signature", expected=f"a cosignature by {witness.name}", found="one that does not verify",
            advice="the checkpoint or the line was changed",
        ) from None  # fmt: skip
    return datetime.fromtimestamp(seconds, UTC)


def _message(text: str, seconds: int) -> bytes:
    """What a cosignature covers."""
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _hint(name: str, key: bytes) -> bytes:
    return sha256(name.encode(), b"\n", key)[:4]


def _text(data: bytes) -> str:
    return data[:MAX_KEY_BYTES].decode("utf-8", "replace").removesuffix("\n")


def _parts(data: bytes, prefix: str) -> tuple[str, bytes]:
    """Name, and the 32 bytes behind the kind; kind and hash are for the caller to compare, by writing the key again."""
    match = re.fullmatch(rf"{re.escape(prefix)}({NAME})\+[0-9a-f]{{8}}\+(\S+)", _text(data))
    try:
        raw = b64decode(match[2]) if match else b""
    except ValueError:
        raw = b""
    if match is None or len(raw) != 33:
        raise MalformedInput("key of a witness", f"expected {prefix}name+hash+key, one line")
    return match[1], raw[1:]
