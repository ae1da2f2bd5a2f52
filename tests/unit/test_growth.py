"""Proofs that a log grew: their form, every size, what is refused, and the commands that make and use them."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.notary import lab as notary
from attest import growth, merkle
from attest.checkpoint import Checkpoint, TrustedLog, check_cosigned, checkpoint_text, note_hint, sign_note
from attest.errors import MalformedInput, VerificationError, VitrineError
from attest.growth import Growth
from tests.tools.lab_logs import START, Clock, appliance_log, attest, register

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
LOG = TrustedLog("log.example", KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), START)
SIZES = 40
TREE = merkle.Tree(merkle.leaf_hash(bytes([number])) for number in range(SIZES))
FORK = merkle.Tree(merkle.leaf_hash(bytes([number, 1])) for number in range(SIZES))


def head(size: int, tree: merkle.Tree = TREE, log: TrustedLog = LOG) -> Checkpoint:
    """A signed tree head."""
    text = checkpoint_text(log.origin, size, tree.root(size))
    return check_cosigned(
        sign_note(text, log.name, note_hint(log.name, KEY.public_key()), KEY.sign(text.encode())), [log]
    )


def proof(old: int, new: int, tree: merkle.Tree = TREE) -> Growth:
    return Growth(old, tuple(tree.consistency_proof(old, new)), str(head(new, tree).note))


def test_a_proof_between_any_two_sizes_holds_and_no_other_tree_fits() -> None:
    for new in range(SIZES + 1):
        for old in range(new + 1):
            written = growth.write(proof(old, new))
            found = growth.parse(written)
            assert growth.write(found) == written
            growth.check(found, head(old), head(new), [LOG])
            if old:
                with pytest.raises(VerificationError, match=r"log/(consistency|forked)"):
                    growth.check(found, head(old, FORK), head(new), [LOG])


def test_the_form_is_that_of_the_witness_protocol() -> None:
    lines = growth.write(proof(3, 7)).decode().split("\n")
    assert lines[0] == "old 3"
    assert [len(line) for line in lines[1:5]] == [44] * 4
    assert lines[5:8] == ["", LOG.origin, "7"]
    assert lines[-1] == ""


def test_what_a_proof_is_about_has_to_fit() -> None:
    other = replace(LOG, name="log.other")
    for code, old, new, of in (
        ("rolled-back", head(7), head(6), proof(6, 6)),
        ("forked", head(7), head(7, FORK), proof(7, 7)),
        ("origin", head(6, log=other), head(7), proof(6, 7)),
        ("proof-start", head(5), head(7), proof(6, 7)),
        ("proof-end", head(6), head(8), proof(6, 7)),
        ("consistency", head(6), head(7, FORK), proof(6, 7, FORK)),
        ("consistency", head(6), head(7), replace(proof(6, 7), hashes=proof(6, 7).hashes[:-1])),
    ):
        with pytest.raises(VerificationError, match=f"log/{code}"):
            growth.check(of, old, new, [LOG])
    with pytest.raises(VerificationError, match="log/log-id"):
        growth.check(proof(6, 7), head(6), head(7), [other])
    forged = proof(6, 7).note.replace("\n7\n", "\n8\n")
    with pytest.raises(VerificationError, match="log/checkpoint-signature"):
        growth.check(replace(proof(6, 7), note=forged), head(6), head(7), [LOG])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"old 3", b"old 03"),
        lambda data: data.replace(b"old 3", b"Old 3"),
        lambda data: data.replace(b"old 3", b"old -3"),
        lambda data: data.replace(b"old 3\n", b"old 3 \n"),
        lambda data: data.replace(b"old 3\n", b""),
        lambda data: data.replace(b"old 3\n", b"old 3\n" + b"A" * 43 + b"\n"),
        lambda data: data.replace(b"old 3\n", b"old 3\nAAAA\n"),
        lambda data: data.replace(b"old 3\n", b"old 3\n" + (b"A" * 43 + b"=\n") * 60),
        lambda data: data.partition(b"\n\n")[0],
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"\xff" + data,
        lambda data: data + b"\xe2",
        lambda data: data + b"A" * growth.MAX_BYTES,
    ],
)
def test_another_form_is_malformed(change: object) -> None:
    with pytest.raises(MalformedInput):
        growth.parse(change(growth.write(proof(3, 7))))  # type: ignore[operator]


@given(st.binary(max_size=300), st.integers(0, 700))
@example(b"", 0)
def test_any_bytes_raise_our_errors_only(data: bytes, at: int) -> None:
    whole = growth.write(proof(3, 7))
    for mutated in (data, whole[:at] + data + whole[at + len(data) :]):
        if mutated != whole:
            with pytest.raises(VitrineError):
                growth.check(growth.parse(mutated), head(3), head(7), [LOG])
                pytest.fail("accepted")


def test_a_lab_proves_that_its_log_grew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    path = tmp_path / "lab"
    lab, root = notary.create(path, now=Clock()), path / "public/trusted_root.json"
    for name, entries in (("empty", 0), ("three", 3), ("eight", 5)):
        for _ in range(entries):
            register(lab)
        assert appliance_log("checkpoint", "--lab", path, "--out", tmp_path / name)[0] == 0

    def prove(old: int, out: str, *more: object) -> Path:
        code, text, _ = appliance_log("prove", "--lab", path, "--old", old, "--out", tmp_path / out, *more)
        assert code == 0, text
        return tmp_path / out

    def consistency(old: str, new: str, proof: Path) -> tuple[int, str]:
        code, _, error = attest("consistency", tmp_path / old, tmp_path / new, "--proof", proof, "--trust", root)
        return code, getattr(error, "code", "")

    growing = prove(3, "3-8")
    assert consistency("three", "eight", growing) == (0, "")
    assert consistency("empty", "eight", prove(0, "0-8")) == (0, "")
    assert consistency("empty", "three", prove(0, "0-3", "--new", tmp_path / "three")) == (0, "")
    assert consistency("empty", "eight", growing) == (10, "proof-start")
    assert consistency("eight", "three", growing) == (10, "rolled-back")
    assert consistency("three", "three", growing) == (10, "proof-end")
    assert appliance_log("prove", "--lab", path, "--old", 9, "--out", tmp_path / "9")[0] == 2
    # The twin's log has the same key: only the proof tells them apart.
    twin = Path(shutil.copytree(path, tmp_path / "twin"))
    register(notary.open_lab(twin, now=Clock()))
    register(lab)
    assert appliance_log("checkpoint", "--lab", twin, "--out", tmp_path / "fork")[0] == 0
    ours = prove(8, "8-9")
    assert consistency("eight", "fork", ours) == (10, "proof-end")
    code, _, error = appliance_log(
        "prove", "--lab", path, "--old", 8, "--new", tmp_path / "fork", "--out", tmp_path / "f"
    )
    assert (code, getattr(error, "code", "")) == (10, "forked")
    register(lab)
    assert consistency("fork", "eight", prove(9, "9-10")) == (10, "rolled-back")
    assert appliance_log("checkpoint", "--lab", path, "--out", tmp_path / "ten")[0] == 0
    assert consistency("fork", "ten", tmp_path / "9-10") == (10, "consistency")


def test_a_proof_is_bounded() -> None:
    most = Growth(1, (bytes(32),) * growth.MAX_HASHES, "note")
    assert growth.parse(growth.write(most)) == most
    with pytest.raises(MalformedInput, match="at most 63 hashes"):
        growth.parse(growth.write(replace(most, hashes=(*most.hashes, bytes(32)))))
    longest = growth.write(most) + b"A" * (growth.MAX_BYTES - len(growth.write(most)))
    assert growth.parse(longest).hashes == most.hashes
    with pytest.raises(MalformedInput):
        growth.parse(longest + b"A")
