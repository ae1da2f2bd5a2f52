"""Signed checkpoints of a transparency log: the C2SP signed note, the tree head in it, and who may sign it.

A note is text, a blank line, and signature lines (c2sp.org/signed-note); a checkpoint is a note whose text says origin,
size and root (c2sp.org/tlog-checkpoint). Our logs sign with P-256; their key id is SHA-256 over the SPKI, of which a
note carries four bytes, as in Rekor v1. `parse_*` reads forms, `check_*` authenticates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from attest import merkle
from attest.digest import sha256
from attest.dsse import b64decode, b64encode
from attest.errors import MalformedInput, VerificationError

LAYER = "log"
MAX_NOTE_CHARS = 16384

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True)
class TrustedLog:
    """One log that a trust root names."""

    name: str
    """Its name, a host: what stands in front of the signature of its checkpoints."""
    public_key_der: bytes
    """Its public key, SPKI in DER: P-256, or Ed25519."""
    valid_from: datetime
    """The key signed nothing before this."""
    valid_until: datetime | None = None
    """The key signed nothing after this; None while it is in use."""

    @property
    def key_id(self) -> bytes:
        """32 bytes: SHA-256 over the SPKI, the log id of Rekor v1."""
        return sha256(self.public_key_der)

    @property
    def origin(self) -> str:
        """The first line of its checkpoints: name, dash, tree id, as in Rekor v1.

        Clients built on sigstore-go read a log without a tree id as Rekor v2, and then refuse `dsse/0.0.1`. Here the
        tree id is 63 bits of the key id, so that a trust root, which has no place for it, decides it all the same.
        """
        return f"{self.name} - {int.from_bytes(self.key_id[:8], 'big') >> 1}"


@dataclass(frozen=True)
class NoteSignature:
    """One signature line of a note."""

    name: str
    """Who signed, by the line's own word."""
    hint: bytes
    """The first four bytes of the key id."""
    signature: bytes
    """Over the note's text."""


@dataclass(frozen=True)
class Note:
    """A signed note whose form is right."""

    text: str
    """What is signed, with its last newline."""
    signatures: tuple[NoteSignature, ...]
    """At least one."""

    def __str__(self) -> str:
        """The note as it was read: its form leaves no choice."""
        return f"{self.text}\n{''.join(map(line, self.signatures))}"


@dataclass(frozen=True)
class Checkpoint:
    """A tree head whose form is right."""

    origin: str
    """The log's name and tree."""
    size: int
    """Leaves."""
    root: bytes
    """32 bytes."""
    extensions: tuple[str, ...]
    """Further lines; our logs write none."""
    note: Note
    """The note that it was read from."""


def note_hint(name: str, key: PublicKey) -> bytes:
    """Four bytes: how a note names a key. ECDSA as Rekor v1 does it (type 2); Ed25519 as C2SP does (type 1)."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return sha256(name.encode(), b"\n\x01", key.public_bytes_raw())[:4]
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    return sha256(key.public_bytes(serialization.Encoding.DER, info))[:4]


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """The text of a checkpoint, which is what its signature covers."""
    return f"{origin}\n{size}\n{b64encode(root)}\n"


def sign_note(text: str, name: str, hint: bytes, signature: bytes) -> str:
    """The note of a text and one signature over it."""
    return f"{text}\n{line(NoteSignature(name, hint, signature))}"


def line(signature: NoteSignature) -> str:
    """A signature's line in a note."""
    return f"\u2014 {signature.name} {b64encode(signature.hint + signature.signature)}\n"


def parse_note(note: str) -> Note:
    """The signed note in `note`. Raises `MalformedInput`."""

    def malformed(problem: str) -> MalformedInput:
        return MalformedInput("signed note", problem)

    if len(note) > MAX_NOTE_CHARS or any(char != "\n" and ord(char) < 32 for char in note):
        raise malformed(f"expected at most {MAX_NOTE_CHARS} characters, none a control character but newline")
    text, _, lines = note.partition("\n\n")
    if not lines.endswith("\n"):
        raise malformed("expected text, one blank line, and signature lines that end in a newline")
    signatures = []
    for line in lines[:-1].split("\n"):
        match = re.fullmatch(r"\u2014 ([^\s+]{1,200}) ([A-Za-z0-9+/=]{8,8192})", line)
        if not match:
            raise malformed("expected a signature line of dash, name and base64")
        try:
            raw = b64decode(match[2])
        except ValueError as error:
            raise malformed(f"signature of {match[1]}: {error}") from None
        signatures.append(NoteSignature(match[1], raw[:4], raw[4:]))
    return Note(text + "\n", tuple(signatures))


def parse_checkpoint(note: str) -> Checkpoint:
    """The checkpoint in the signed note `note`. Raises `MalformedInput`."""
    parsed = parse_note(note)
    lines = parsed.text[:-1].split("\n")
    if len(lines) < 3 or not lines[0] or not re.fullmatch(r"0|[1-9][0-9]{0,15}", lines[1]):
        raise MalformedInput("checkpoint", "expected origin, size and root, each on a line")
    try:
        root = b64decode(lines[2])
    except ValueError as error:
        raise MalformedInput("checkpoint", f"root: {error}") from None
    if len(root) != merkle.HASH_BYTES:
        raise MalformedInput("checkpoint", f"root: expected 32 bytes, found {len(root)}")
    return Checkpoint(lines[0], int(lines[1]), root, tuple(lines[3:]), parsed)


def check_checkpoint(note: str, log: TrustedLog) -> Checkpoint:
    """The checkpoint in `note`, signed by `log` and by nobody else. Raises `VerificationError`, `MalformedInput`."""
    checkpoint = parse_checkpoint(note)
    signatures = checkpoint.note.signatures
    if checkpoint.origin != log.origin:
        raise refuse("origin", log.origin, checkpoint.origin)
    if checkpoint.extensions:
        raise refuse("extension", "a checkpoint of three lines", f"{len(checkpoint.extensions)} more")
    if len(signatures) != 1 or signatures[0].name != log.name:
        names = ", ".join(signature.name for signature in signatures)
        raise refuse("checkpoint-signer", f"one signature, by {log.name}", names)
    key = load_key(log)
    if signatures[0].hint != note_hint(log.name, key):
        raise refuse("checkpoint-key", note_hint(log.name, key).hex(), signatures[0].hint.hex())
    verify(key, signatures[0].signature, checkpoint.note.text.encode(), "checkpoint-signature")
    return checkpoint


def check_cosigned(note: str, logs: Sequence[TrustedLog]) -> Checkpoint:
    """The checkpoint in `note`, signed by the one of `logs` that it names; lines of other signers are not looked at.

    Raises `VerificationError`, `MalformedInput`.
    """
    claimed = parse_checkpoint(note)
    log = next((log for log in logs if log.origin == claimed.origin), None)
    if log is None:
        raise refuse("log-id", "a log that the trust root names", claimed.origin)
    own = tuple(one for one in claimed.note.signatures if one.name == log.name)
    if not own:
        raise refuse("checkpoint-signer", f"a signature by {log.name}", "none")
    return replace(check_checkpoint(str(replace(claimed.note, signatures=own)), log), note=claimed.note)


def check_order(old: Checkpoint, new: Checkpoint) -> None:
    """Raise `VerificationError` unless both are of one log, `new` is not the smaller, and one size means one tree."""
    if old.origin != new.origin:
        raise refuse("origin", old.origin, new.origin)
    if new.size < old.size:
        raise VerificationError(
            LAYER, "rolled-back", expected=f"at least the {old.size} entries that it signed for", found=new.size,
            advice="the log was put back to an older state, or this is an older one",
        )  # fmt: skip
    if new.size == old.size:
        check_root(old, new.root)


def check_root(old: Checkpoint, root: bytes) -> None:
    """Raise `VerificationError` (`forked`) unless `root`, over as many leaves, is that of `old`."""
    if root != old.root:
        raise VerificationError(
            LAYER, "forked", expected=f"the root {old.root.hex()} over {old.size} entries, which it signed",
            found=root.hex(), advice="the log's key signed two histories: keep both as proof",
        )  # fmt: skip


def check_consistency(old: Checkpoint, new: Checkpoint, proof: Sequence[bytes]) -> None:
    """Raise `VerificationError` unless `new` extends `old`: two checkpoints of one log, each checked before."""
    check_order(old, new)
    merkle.verify_consistency(old.size, old.root, new.size, new.root, proof, layer=LAYER)


def load_key(log: TrustedLog) -> PublicKey:
    """The log's public key. Raises `MalformedInput`."""
    try:
        key = serialization.load_der_public_key(log.public_key_der)
    except Exception as error:  # the parser is foreign: whatever it raises, the bytes are at fault
        raise MalformedInput("log key", f"expected SPKI in DER: {error}") from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise MalformedInput("log key", f"expected P-256 or Ed25519, found {type(key).__name__}")


def verify(key: PublicKey, signature: bytes, data: bytes, code: str) -> None:
    """Raise `VerificationError` with that `code` unless `signature` over `data` is by `key`; ECDSA is over SHA-256."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise refuse(code, "a signature by the log's key", "one that does not verify") from None


def refuse(code: str, expected: object, found: object) -> VerificationError:
    """The error of a check on a log: layer `log`."""
    return VerificationError(LAYER, code, expected=expected, found=found)
