"""Log entries and receipts: every field is checked against a signed one, and each check has its code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.notary.lab import Lab
from attest import bundle, canonical, dsse, log, trust
from attest.bundle import CheckpointText, InclusionPromise, KindVersion, LogEntry, LogId, SignedBundle
from attest.checkpoint import TrustedLog
from attest.errors import MalformedInput, VerificationError
from attest.log import LogReceipt, check_entry, check_receipt, parse_receipt
from tests.conformance.clients import matrix
from tests.conformance.clients.tampering import Forger

JOB = "sha256:" + "1" * 64
LOCK = "sha256:" + "2" * 64
KEY = "sha256:" + "3" * 64


class Scene:
    """A lab, a signed bundle, and what `check_entry` takes."""

    def __init__(self, forger: Forger, signed: SignedBundle) -> None:
        self.forger = forger
        self.lab: Lab = forger.lab
        self.entry: LogEntry = signed.entry
        self.envelope: dsse.Envelope = signed.envelope
        self.certificate: x509.Certificate = signed.certificate
        self.logs: tuple[TrustedLog, ...] = trust.read(self.lab.trusted_root).logs
        self.stamped = datetime.fromtimestamp(signed.entry.integrated_time, UTC)

    def check(self, entry: LogEntry | None = None, **changes: Any) -> log.VerifiedEntry:
        arguments = {"certificate": self.certificate, "envelope": self.envelope, "stamped": self.stamped, **changes}
        logs = arguments.pop("logs", self.logs)
        return check_entry(entry or self.entry, logs, **arguments)

    def edited(self, **changes: Any) -> LogEntry:
        return self.entry.model_copy(update=changes)

    def proof(self, **changes: Any) -> LogEntry:
        return self.edited(inclusion_proof=self.entry.inclusion_proof.model_copy(update=changes))

    def promised(self, **changes: Any) -> LogEntry:
        """The entry with changes that the log itself promises."""
        entry = self.edited(**changes)
        payload = log.promise_payload(
            entry.canonicalized_body, entry.integrated_time, entry.log_id.key_id, entry.log_index
        )
        return entry.model_copy(
            update={"inclusion_promise": InclusionPromise(signedEntryTimestamp=self.lab.log.sign(payload))}
        )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    good, forger = matrix.sample(tmp_path_factory.mktemp("log"))
    return Scene(forger, bundle.read(good.bundle))


def code(call: Callable[[], object]) -> str:
    with pytest.raises(VerificationError) as caught:
        call()
    assert caught.value.layer == "log"
    return caught.value.code


def test_a_good_entry(scene: Scene) -> None:
    verified = scene.check()
    assert verified.log_index == 2
    assert verified.checkpoint.size == 3
    assert verified.integrated == scene.stamped
    assert verified.checkpoint.origin == scene.logs[0].origin


def test_an_unknown_log(scene: Scene) -> None:
    assert code(lambda: scene.check(logs=())) == "log-id"
    assert code(lambda: scene.check(scene.edited(log_id=LogId(keyId=bytes(32))))) == "log-id"


def test_the_checkpoint_is_of_that_log(scene: Scene) -> None:
    text = scene.entry.inclusion_proof.checkpoint.envelope
    other = scene.proof(checkpoint=CheckpointText(envelope=text.replace("log.lab", "log.lob")))
    assert code(lambda: scene.check(other)) == "origin"
    longer = scene.proof(checkpoint=CheckpointText(envelope=text.replace("\n3\n", "\n4\n")))
    assert code(lambda: scene.check(longer)) == "checkpoint-signature"


def test_size_root_and_index_are_the_checkpoints(scene: Scene) -> None:
    assert code(lambda: scene.check(scene.proof(tree_size=4))) == "tree-size"
    assert code(lambda: scene.check(scene.proof(root_hash=bytes(32)))) == "root"
    assert code(lambda: scene.check(scene.proof(log_index=1))) == "index"
    assert code(lambda: scene.check(scene.edited(log_index=1))) == "index"


def test_the_body_is_in_the_tree(scene: Scene) -> None:
    hashes = scene.entry.inclusion_proof.hashes
    assert code(lambda: scene.check(scene.proof(hashes=()))) == "inclusion"
    assert code(lambda: scene.check(scene.proof(hashes=(*hashes, bytes(32))))) == "inclusion"
    assert code(lambda: scene.check(scene.proof(hashes=(bytes(32),)))) == "inclusion"
    assert code(lambda: scene.check(scene.edited(canonicalized_body=b"{}"))) == "inclusion"
    wrong = scene.proof(log_index=1).model_copy(update={"log_index": 1})
    assert code(lambda: scene.check(wrong)) == "inclusion"


def test_the_promise_covers_the_time(scene: Scene) -> None:
    later = scene.edited(integrated_time=scene.entry.integrated_time + 1)
    assert code(lambda: scene.check(later)) == "promise"
    garbage = scene.edited(inclusion_promise=InclusionPromise(signedEntryTimestamp=b"x" * 70))
    assert code(lambda: scene.check(garbage)) == "promise"


def test_the_kind(scene: Scene) -> None:
    for kind in (KindVersion(kind="hashedrekord", version="0.0.1"), KindVersion(kind="dsse", version="0.0.2")):
        entry = scene.edited(kind_version=kind)
        assert code(lambda entry=entry: scene.check(entry)) == "kind"  # type: ignore[misc]


def test_the_body_is_about_this_envelope_and_certificate(scene: Scene) -> None:
    envelope = scene.envelope
    other = dsse.make(envelope.payload + b" ", envelope.payload_type, envelope.signature)
    assert code(lambda: scene.check(envelope=other)) == "body-payload"
    other = dsse.make(envelope.payload, envelope.payload_type, b"another")
    assert code(lambda: scene.check(envelope=other)) == "body-signature"
    other = dsse.make(envelope.payload, "text/plain", envelope.signature)
    assert code(lambda: scene.check(envelope=other)) == "body-envelope"
    key = ec.generate_private_key(ec.SECP256R1())
    der = scene.lab.certify(key.public_key(), scene.lab.identity("a" * 64))
    certificate = x509.load_der_x509_certificate(der)
    assert code(lambda: scene.check(certificate=certificate)) == "body-certificate"


@pytest.mark.parametrize("change", ["spelling", "member", "kind", "list"])
def test_the_body_is_canonical_and_has_nothing_else(scene: Scene, change: str) -> None:
    """The log itself logs a body that is right in every part that is compared by name."""
    value = canonical.loads(scene.entry.canonicalized_body)
    if change == "spelling":
        body = json.dumps(value).encode()
    elif change == "member":
        body = canonical.dumps({**value, "note": "more"})
    elif change == "kind":
        body = canonical.dumps({**value, "kind": "dssf"})
    else:
        value["spec"]["signatures"] *= 2
        body = canonical.dumps(value)
    lab = scene.lab
    with lab.log.locked():
        index = lab.log.append(body)
        proof = scene.entry.inclusion_proof.model_copy(
            update={
                "log_index": index,
                "tree_size": len(lab.log),
                "root_hash": lab.log.tree.root(),
                "hashes": tuple(lab.log.tree.inclusion_path(index)),
                "checkpoint": CheckpointText(envelope=lab.log.note),
            }
        )
    entry = scene.promised(log_index=index, canonicalized_body=body, inclusion_proof=proof)
    assert code(lambda: scene.check(entry)) == "body-form"


@pytest.mark.parametrize("body", [b"[]", b'"text"', b'{"spec":{"signatures":[]}}', b"null"])
def test_any_json_body_raises_our_errors(scene: Scene, body: bytes) -> None:
    assert code(lambda: log._check_body(body, scene.entry.canonicalized_body)) == "body-payload"
    with pytest.raises(MalformedInput):
        log._check_body(b"{", scene.entry.canonicalized_body)


def test_the_time_is_within_the_certificate(scene: Scene) -> None:
    logs = (replace(scene.logs[0], valid_from=datetime(2020, 1, 1, tzinfo=UTC)),)
    for moment in (scene.certificate.not_valid_before_utc, scene.certificate.not_valid_after_utc):
        entry = scene.promised(integrated_time=int(moment.timestamp()))
        assert scene.check(entry, logs=logs, stamped=moment).integrated == moment
    for moment in (
        scene.certificate.not_valid_before_utc - timedelta(seconds=1),
        scene.certificate.not_valid_after_utc + timedelta(seconds=1),
    ):
        entry = scene.promised(integrated_time=int(moment.timestamp()))
        assert code(lambda entry=entry, moment=moment: scene.check(entry, logs=logs, stamped=moment)) == "time"  # type: ignore[misc]
    assert code(lambda: scene.check(scene.promised(integrated_time=2**53 - 1))) == "time"


def test_the_two_clocks_agree(scene: Scene) -> None:
    for seconds in (-60, 60):
        scene.check(stamped=scene.stamped + timedelta(seconds=seconds))
    for seconds in (-61, 61):
        stamped = scene.stamped + timedelta(seconds=seconds)
        assert code(lambda stamped=stamped: scene.check(stamped=stamped)) == "time-apart"  # type: ignore[misc]
    scene.check(stamped=scene.stamped + timedelta(seconds=90), tolerance_s=90)


def test_the_logs_key_was_in_use(scene: Scene) -> None:
    (trusted,) = scene.logs
    second = timedelta(seconds=1)
    late = replace(trusted, valid_from=scene.stamped + second)
    assert code(lambda: scene.check(logs=(late,))) == "log-key-time"
    ended = replace(trusted, valid_until=scene.stamped - second)
    assert code(lambda: scene.check(logs=(ended,))) == "log-key-time"
    scene.check(logs=(replace(trusted, valid_from=scene.stamped, valid_until=scene.stamped),))


# --- receipts --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def receipt(scene: Scene) -> LogReceipt:
    return scene.lab.register({"job_digest": JOB, "lock_digest": LOCK, "key_digest": KEY, "nonce": "00ff"})


def test_a_good_receipt(scene: Scene, receipt: LogReceipt) -> None:
    data = canonical.dump_model(receipt)
    assert parse_receipt(data) == receipt
    verified = trust.verify_receipt(data, scene.lab.trusted_root)
    assert (verified.job_digest, verified.lock_digest, verified.nonce) == (JOB, LOCK, "00ff")
    assert verified.attempt == receipt.intent.attempt >= 1
    assert verified.time == receipt.intent.time
    assert verified.log_index == receipt.log_index


def test_a_changed_receipt(scene: Scene, receipt: LogReceipt) -> None:
    def check(**changes: Any) -> Callable[[], object]:
        return lambda: check_receipt(receipt.model_copy(update=changes), scene.logs)

    assert code(check(tree_size=receipt.tree_size + 1)) == "tree-size"
    assert code(check(root_hash=bytes(32))) == "root"
    assert code(check(log_index=receipt.log_index - 1)) == "inclusion"
    assert code(check(hashes=receipt.hashes[:-1])) == "inclusion"
    assert code(check(body=receipt.body.replace(b"0ff", b"0fe"))) == "inclusion"
    assert code(check(checkpoint=receipt.checkpoint.replace("log.lab", "log.lob"))) == "log-id"
    assert code(lambda: check_receipt(receipt, ())) == "log-id"
    (trusted,) = scene.logs
    ended = replace(trusted, valid_until=datetime(2020, 1, 1, tzinfo=UTC))
    assert code(lambda: check_receipt(receipt, (ended,))) == "log-key-time"


def test_a_receipt_for_something_else(scene: Scene) -> None:
    """A signature's leaf, and an intent in another spelling, are in the log but are no intents."""
    good = json.loads(scene.lab.register({"job_digest": JOB, "lock_digest": LOCK, "key_digest": KEY}).body)
    for body in (_dated(good, "2026-02-31T00:00:00Z"), scene.entry.canonicalized_body, json.dumps(good).encode()):
        with scene.lab.log.locked():
            index = scene.lab.log.append(body)
            tree = scene.lab.log.tree
            other = LogReceipt(
                log_index=index,
                tree_size=len(tree),
                root_hash=tree.root(),
                hashes=tuple(tree.inclusion_path(index)),
                checkpoint=scene.lab.log.note,
                body=body,
            )
        with pytest.raises(MalformedInput, match="intent"):
            check_receipt(other, scene.logs)


def _dated(value: Any, time: str) -> bytes:
    return canonical.dumps({**value, "spec": {**value["spec"], "time": time}})


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format":"vitrine/log-receipt/v2"}', b"\xff"])
def test_malformed_receipts(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="receipt"):
        parse_receipt(data)


def test_a_bound_on_receipts(receipt: LogReceipt, monkeypatch: pytest.MonkeyPatch) -> None:
    data = canonical.dump_model(receipt)
    monkeypatch.setattr(log, "MAX_RECEIPT_BYTES", len(data))
    parse_receipt(data)
    monkeypatch.setattr(log, "MAX_RECEIPT_BYTES", len(data) - 1)
    with pytest.raises(MalformedInput, match="receipt: expected at most"):
        parse_receipt(data)
