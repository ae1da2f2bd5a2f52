"""Signed notes and checkpoints: the form, the signer, consistency; and real ones of other logs."""

from __future__ import annotations

import contextlib
import itertools
import json
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from attest import merkle
from attest.checkpoint import (
    MAX_NOTE_CHARS,
    TrustedLog,
    check_checkpoint,
    check_consistency,
    check_order,
    check_root,
    checkpoint_text,
    load_key,
    note_hint,
    parse_checkpoint,
    parse_note,
    sign_note,
)
from attest.digest import sha256
from attest.errors import MalformedInput, VerificationError, VitrineError

KEY = ec.generate_private_key(ec.SECP256R1())
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def der(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


LOG = TrustedLog("log.lab.example", der(KEY), LONG_AGO)


def signed(text: str, *, name: str = LOG.name, key: ec.EllipticCurvePrivateKey = KEY, hint: bytes | None = None) -> str:
    signature = key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
    return sign_note(text, name, hint or note_hint(name, key.public_key()), signature)


def text(size: int = 3, root: bytes = bytes(32), origin: str = LOG.origin) -> str:
    return checkpoint_text(origin, size, root)


def code(note: str, log: TrustedLog = LOG) -> str:
    with pytest.raises(VerificationError) as caught:
        check_checkpoint(note, log)
    assert caught.value.layer == "log"
    return caught.value.code


def test_a_good_checkpoint() -> None:
    checkpoint = check_checkpoint(signed(text()), LOG)
    assert (checkpoint.origin, checkpoint.size, checkpoint.root, checkpoint.extensions) == (
        LOG.origin,
        3,
        bytes(32),
        (),
    )


def test_key_ids() -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    assert LOG.key_id == sha256(LOG.public_key_der)
    assert note_hint("any", KEY.public_key()) == LOG.key_id[:4]
    assert note_hint("log", key) == sha256(b"log\n\x01" + key.public_bytes_raw())[:4]
    assert LOG.origin == f"log.lab.example - {int.from_bytes(LOG.key_id[:8], 'big') // 2}"


def test_notes_are_bounded() -> None:
    exact = sign_note(text() + "x" * 9 + "\n", LOG.name, bytes(4), bytes(65))
    exact = exact.replace("x" * 9, "x" * (9 + MAX_NOTE_CHARS - len(exact)))
    assert len(exact) == MAX_NOTE_CHARS
    assert parse_checkpoint(exact).size == 3
    with pytest.raises(MalformedInput, match="at most"):
        parse_note(exact.replace("xx", "xxx", 1))


def test_one_size_means_one_root() -> None:
    checkpoint = check_checkpoint(signed(text()), LOG)
    check_root(checkpoint, bytes(32))
    check_order(checkpoint, checkpoint)
    with pytest.raises(VerificationError, match="log/forked"):
        check_root(checkpoint, b"x" * 32)


def test_keys_of_other_kinds_are_malformed() -> None:
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        with pytest.raises(MalformedInput, match="expected P-256 or Ed25519"):
            load_key(replace(LOG, public_key_der=der(key)))


def test_an_ed25519_log() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    log = TrustedLog("tiles.example", der(key), LONG_AGO)
    body = text(origin=log.origin)
    note = sign_note(body, log.name, note_hint(log.name, key.public_key()), key.sign(body.encode()))
    assert check_checkpoint(note, log).size == 3
    assert code(note.replace("\n3\n", "\n4\n"), log) == "checkpoint-signature"


def test_who_may_sign() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    assert code(signed(text(origin="log.lab.example"))) == "origin"
    assert code(signed(text() + "Timestamp: 1\n")) == "extension"
    assert code(signed(text(), name="other.example")) == "checkpoint-signer"
    assert code(signed(text(), key=other)) == "checkpoint-key"
    assert code(signed(text(), key=other, hint=LOG.key_id[:4])) == "checkpoint-signature"
    witness = signed(text(), name="witness.example", key=other).split("\n\n")[1]
    assert code(signed(text()) + witness) == "checkpoint-signer"


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        signed(text()).rstrip("\n"),
        signed(text()).replace("\u2014", "-"),
        signed(text()).replace("\u2014 log", "\u2014 l+g"),
        signed(text()) + "\n",
        signed(text()).replace("\n3\n", "\n3\t\n"),
        sign_note(text(), "x", b"hint", b"").replace("aGludA==", "aGludB=="),
        "x" * (MAX_NOTE_CHARS + 1),
    ],
    ids=itertools.count(),
)
def test_malformed_notes(note: str) -> None:
    with pytest.raises(MalformedInput, match="signed note"):
        parse_note(note)


@pytest.mark.parametrize(
    "body",
    [
        "origin\n3\n",
        "\n3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "origin\n-3\nAAAA\n",
        "origin\n03\nAAAA\n",
        "origin\n3\nAAAA\n",
        "origin\n3\n????\n",
        "origin\n٣\nAAAA\n",
        "origin\n99999999999999999\nAAAA\n",
    ],
)
def test_malformed_checkpoints(body: str) -> None:
    with pytest.raises(MalformedInput, match="checkpoint"):
        parse_checkpoint(signed(body))


@given(st.text(max_size=200))
def test_any_text_raises_our_errors_only(junk: str) -> None:
    for note in (junk, signed(text()) + junk, f"{text()}\n\u2014 {junk}\n"):
        with contextlib.suppress(VitrineError):
            check_checkpoint(note, LOG)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_character_is_refused(position: int, change: int) -> None:
    note = signed(text())
    position %= len(note)
    changed = note[:position] + chr(ord(note[position]) ^ change) + note[position + 1 :]
    with pytest.raises(VitrineError):
        check_checkpoint(changed, LOG)


def test_consistency() -> None:
    tree = merkle.Tree(merkle.leaf_hash(bytes([index])) for index in range(9))
    old = check_checkpoint(signed(text(4, tree.root(4))), LOG)
    new = check_checkpoint(signed(text(9, tree.root())), LOG)
    check_consistency(old, new, tree.consistency_proof(4))
    with pytest.raises(VerificationError, match="log/consistency"):
        check_consistency(old, new, tree.consistency_proof(5))
    with pytest.raises(VerificationError, match="log/rolled-back"):
        check_consistency(new, old, [])
    with pytest.raises(VerificationError, match="log/forked"):
        check_consistency(replace(new, root=bytes(32)), new, [])
    with pytest.raises(VerificationError, match="log/origin"):
        check_consistency(replace(old, origin="another"), new, tree.consistency_proof(4))


@pytest.mark.parametrize("key", [b"", b"junk", der(KEY)[:-1]], ids=["empty", "junk", "cut"])
def test_a_key_that_cannot_be_read(key: bytes) -> None:
    with pytest.raises(MalformedInput, match="log key"):
        load_key(replace(LOG, public_key_der=key))


def test_a_key_of_another_kind() -> None:
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(MalformedInput, match="P-256"):
        load_key(replace(LOG, public_key_der=ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(*spki)))


def test_checkpoints_of_real_logs(data: Path) -> None:
    """Rekor's own: extension lines and witness signatures can be read, and are more than our logs may have."""
    seen = parsed = 0
    for path in sorted((data / "signing" / "sigstore-conformance").glob("*/bundle.sigstore.json")):
        for entry in json.loads(path.read_bytes())["verificationMaterial"].get("tlogEntries", []):
            note = entry.get("inclusionProof", {}).get("checkpoint", {}).get("envelope")
            if not note:
                continue
            seen += 1
            with contextlib.suppress(MalformedInput):
                checkpoint = parse_checkpoint(note)
                parsed += checkpoint.size > 0
            with pytest.raises(VitrineError):
                check_checkpoint(note, LOG)
    assert seen > 20
    assert parsed > seen - 5


def test_a_real_inclusion_proof(data: Path) -> None:
    """Rekor's public log, 2023: entry, path and root."""
    bundle = json.loads(
        (data / "signing" / "sigstore-conformance" / "happy-path-v0.3" / "bundle.sigstore.json").read_bytes()
    )
    entry = bundle["verificationMaterial"]["tlogEntries"][0]
    proof = entry["inclusionProof"]
    checkpoint = parse_checkpoint(proof["checkpoint"]["envelope"])
    assert checkpoint.size == int(proof["treeSize"])
    merkle.verify_inclusion(
        merkle.leaf_hash(b64decode(entry["canonicalizedBody"])),
        int(proof["logIndex"]),
        checkpoint.size,
        [b64decode(node) for node in proof["hashes"]],
        checkpoint.root,
    )
