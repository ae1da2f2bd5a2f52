"""What attest reads of a log, changed in thousands of ways, as `test_hostile_formats` does with other formats."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from appliance.enrol import digest_of_key
from appliance.notary import lab as notary
from attest import canonical, checkpoint, leaf, ledger, tiles, trust
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.log import MAX_RECEIPT_BYTES, parse_receipt
from tests.fakes.mutate import MUTATIONS, mutated, mutated_json

REFUSED = (VerificationError, MalformedInput, Unsupported)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    """The files of a lab's log with three intents and a signature, and its trust root and a receipt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        lab = notary.create(tmp_path_factory.mktemp("labs") / "lab", now=lambda: datetime(2026, 3, 1, tzinfo=UTC))
        for digit in "123":
            key = ec.generate_private_key(ec.SECP256R1())
            digests = {"job_digest": "sha256:" + digit * 64, "lock_digest": "sha256:" + "4" * 64}
            receipt = lab.register(digests | {"key_digest": digest_of_key(key)})
        certificate = lab.certify(key.public_key(), lab.identity("0" * 64))
        lab.seal_envelope(b"{}", "application/vnd.in-toto+json", key, certificate)
        folder = lab.path / "log"
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        yield files | {"trust": lab.trusted_root, "receipt": canonical.dump_model(receipt)}


def read_log(files: dict[str, bytes]) -> tiles.LogCopy:
    """The log of these files."""

    def read(path: str, limit: int) -> bytes:
        if path not in files or len(files[path]) > limit:
            raise MalformedInput(path, "expected a file")
        return files[path]

    return tiles.read_log(read, trust.read(files["trust"]).logs)


@MUTATIONS
@given(data=st.data())
def test_tiles_and_checkpoints_of_a_log(log: dict[str, bytes], data: st.DataObject) -> None:
    good = read_log(log)
    name = data.draw(st.sampled_from([tiles.tile_path("entries", 0, 4), "checkpoint"]))
    try:
        found = read_log(log | {name: data.draw(mutated(log[name]))})
    except REFUSED:
        return
    assert (found.leaves, found.checkpoint.note.text) == (good.leaves, good.checkpoint.note.text)


@MUTATIONS
@given(data=st.data())
def test_leaves_and_the_ledger_of_them(log: dict[str, bytes], data: st.DataObject) -> None:
    """Leaves as a lab with the log's key could write them."""
    leaves = list(read_log(log).leaves)
    at = data.draw(st.integers(0, len(leaves) - 1))
    leaves[at] = data.draw(mutated_json(leaves[at]) | mutated(leaves[at]))
    with suppress(*REFUSED):
        leaf.read(leaves[at])
    tree = tiles.merkle.Tree(tiles.merkle.leaf_hash(one) for one in leaves)
    try:
        ledger.read(tiles.LogCopy(read_log(log).checkpoint, tuple(leaves), tree))
    except REFUSED:
        return


@MUTATIONS
@given(data=st.data())
def test_checkpoints_that_a_witness_keeps(log: dict[str, bytes], data: st.DataObject) -> None:
    note = log["checkpoint"].decode()
    cosigned = note + checkpoint.line(checkpoint.NoteSignature("witness.test", b"abcd", b"a signature"))
    logs = trust.read(log["trust"]).logs
    changed = data.draw(mutated(cosigned.encode())).decode("utf-8", "replace")
    try:
        found = checkpoint.check_cosigned(changed, logs)
    except REFUSED:
        return
    assert found.note.text == checkpoint.check_cosigned(note, logs).note.text


@MUTATIONS
@given(data=st.data())
def test_receipts_and_trust_roots(log: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["receipt", "trust"]))
    files = log | {name: data.draw(mutated_json(log[name]))}
    try:
        found = trust.verify_receipt(files["receipt"][:MAX_RECEIPT_BYTES], files["trust"])
    except REFUSED:
        return
    if name == "receipt":
        assert found == trust.verify_receipt(log["receipt"], log["trust"])
        assert parse_receipt(files["receipt"]) == parse_receipt(log["receipt"])
