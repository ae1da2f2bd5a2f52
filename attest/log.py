"""Entries of a transparency log, and receipts for what was registered before a run. Nothing is looked up.

Clients disagree on the fields of an entry that no signature covers (size, index, origin). `check_entry` therefore
checks every field against a signed one, and refuses what it cannot account for. A log that the lab holds together with
its signing keys proves order and completeness only to somebody who keeps its checkpoints: `check_consistency` there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.x509 import Certificate
from pydantic import Field, StringConstraints

from attest import canonical, dsse, merkle, validity
from attest.bundle import MAX_PATH, Hash, LogEntry
from attest.canonical import JSON, MAX_INTEGER, Model
from attest.checkpoint import (
    LAYER,
    MAX_NOTE_CHARS,
    Checkpoint,
    TrustedLog,
    check_checkpoint,
    load_key,
    note_hint,
    parse_checkpoint,
    refuse,
    verify,
)
from attest.counter import RunCounter
from attest.digest import Digest, sha256
from attest.dsse import Base64, b64encode
from attest.errors import MalformedInput

MAX_RECEIPT_BYTES = 1 << 20
TOLERANCE_S = 60
"""How far the log's clock and the timestamp authority's may be apart for one signature."""
DSSE_KIND, DSSE_VERSION = "dsse", "0.0.1"
INTENT_KIND, INTENT_VERSION = "vitrine-intent", "0.0.1"


class Intent(Model):
    """What a run registers before it starts. The log numbers attempts and puts in the time."""

    job_digest: Digest
    """The job's digest."""
    lock_digest: Digest
    """The lockfile's digest."""
    key_digest: Digest
    """The digest of the boot key (SPKI, DER), which is going to sign the bundle."""
    nonce: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){1,128}$")] | None = None
    """The relying party's nonce, hexadecimal."""
    counter: RunCounter | None = None
    """Where the counter of the run's TPM stood; None without a TPM that counts."""
    attempt: int = Field(ge=1, le=MAX_INTEGER)
    """One more than the log's earlier intents of the same job."""
    time: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
    """When it was logged, by the notary's clock."""


class IntentBody(Model):
    """The leaf of an intent."""

    api_version: Literal["0.0.1"] = Field(alias="apiVersion")
    """`0.0.1`."""
    kind: Literal["vitrine-intent"]
    """A kind that stock clients do not know and therefore pass over."""
    spec: Intent
    """The intent."""


class LogReceipt(Model):
    """The log's proof, made at once, that it holds a leaf. It verifies offline for ever."""

    format: Literal["vitrine/log-receipt/v1"] = "vitrine/log-receipt/v1"
    """Format and version."""
    log_index: int = Field(ge=0, le=MAX_INTEGER)
    """The leaf's index."""
    tree_size: int = Field(ge=1, le=MAX_INTEGER)
    """The tree's number of leaves."""
    root_hash: Hash
    """The tree's root."""
    hashes: tuple[Hash, ...] = Field(max_length=MAX_PATH)
    """The RFC 6962 path, from the leaf up."""
    checkpoint: Annotated[str, StringConstraints(min_length=1, max_length=MAX_NOTE_CHARS)]
    """The signed tree head."""
    body: Base64
    """The leaf: canonical JSON."""

    @property
    def intent(self) -> Intent:
        """The intent in the body; that the log holds it is for `check_receipt` to say. Raises `MalformedInput`."""
        return parse_intent(self.body)


@dataclass(frozen=True)
class VerifiedEntry:
    """A log entry that holds against trust root, certificate and envelope."""

    log_index: int
    """Its index."""
    checkpoint: Checkpoint
    """The tree head that it was proven under."""
    integrated: datetime
    """When it was logged, by the log's clock."""


@dataclass(frozen=True)
class VerifiedIntent:
    """An intent that a trusted log holds."""

    job_digest: str
    """The job's digest."""
    lock_digest: str
    """The lockfile's digest."""
    key_digest: str
    """The digest of the boot key."""
    nonce: str | None
    """The relying party's nonce, hexadecimal."""
    counter: RunCounter | None
    """Where the counter of the run's TPM stood; for the evidence of the start to bear out."""
    attempt: int
    """Which attempt at this job it was."""
    time: str
    """When it was logged, RFC 3339, UTC, whole seconds."""
    log_index: int
    """Where. A signature made after the run has a higher index in the same log."""
    checkpoint: Checkpoint
    """The tree head that it was proven under."""


# --- forms -----------------------------------------------------------------------------------------------------------


def promise_payload(body: bytes, integrated_time: int, key_id: bytes, log_index: int) -> bytes:
    """The bytes that an inclusion promise (SET) covers."""
    value = {"body": b64encode(body), "integratedTime": integrated_time, "logID": key_id.hex(), "logIndex": log_index}
    return canonical.dumps(value)


def dsse_body(envelope: dsse.Envelope, certificate: Certificate) -> bytes:
    """The leaf of a signature: canonical JSON of a `dsse/0.0.1` entry. Envelope and certificate decide every byte."""
    plain = dsse.make(envelope.payload, envelope.payload_type, envelope.signature)
    verifier = certificate.public_bytes(serialization.Encoding.PEM)
    spec = {
        "envelopeHash": {"algorithm": "sha256", "value": sha256(dsse.encode(plain)).hex()},
        "payloadHash": {"algorithm": "sha256", "value": sha256(envelope.payload).hex()},
        "signatures": [{"signature": b64encode(envelope.signature), "verifier": b64encode(verifier)}],
    }
    return canonical.dumps({"apiVersion": DSSE_VERSION, "kind": DSSE_KIND, "spec": spec})


def parse_intent(body: bytes) -> Intent:
    """The intent in the leaf `body`. Raises `MalformedInput`, also for JSON that is not canonical."""
    parsed = canonical.parse(IntentBody, body, "intent")
    if canonical.dump_model(parsed) != body:
        raise MalformedInput("intent", "expected canonical JSON, found another spelling of it")
    return parsed.spec


def parse_receipt(data: bytes) -> LogReceipt:
    """The receipt in the JSON text `data`. Raises `MalformedInput`."""
    if len(data) > MAX_RECEIPT_BYTES:
        raise MalformedInput("receipt", f"expected at most {MAX_RECEIPT_BYTES} bytes, found {len(data)}")
    return canonical.parse(LogReceipt, data, "receipt")


# --- checks ----------------------------------------------------------------------------------------------------------


def check_entry(
    entry: LogEntry,
    logs: Sequence[TrustedLog],
    *,
    certificate: Certificate,
    envelope: dsse.Envelope,
    stamped: datetime,
    tolerance_s: int = TOLERANCE_S,
) -> VerifiedEntry:
    """The entry, checked against trusted logs, certificate, envelope and the verified RFC 3161 time `stamped`.

    Raises `VerificationError` (layer `log`), and `MalformedInput` for a checkpoint that cannot be read.
    """
    proof = entry.inclusion_proof

    # 1. The log is one that the trust root names.
    log = _find(logs, entry.log_id.key_id)

    # 2. The checkpoint is that log's, and proof and entry speak of the same tree and leaf.
    checkpoint = check_checkpoint(proof.checkpoint.envelope, log)
    _equal("tree-size", checkpoint.size, proof.tree_size)
    _equal("root", checkpoint.root.hex(), proof.root_hash.hex())
    _equal("index", proof.log_index, entry.log_index)

    # 3. The body is in the tree.
    leaf = merkle.leaf_hash(entry.canonicalized_body)
    merkle.verify_inclusion(leaf, proof.log_index, proof.tree_size, proof.hashes, proof.root_hash, layer=LAYER)

    # 4. The log promised this body, this index and this time.
    key = load_key(log)
    body = entry.canonicalized_body
    promised = promise_payload(body, entry.integrated_time, log.key_id, entry.log_index)
    verify(key, entry.inclusion_promise.signed_entry_timestamp, promised, "promise")

    # 5. The body is about this envelope and this certificate, byte for byte.
    kind = entry.kind_version
    _equal("kind", f"{DSSE_KIND}/{DSSE_VERSION}", f"{kind.kind}/{kind.version}")
    _check_body(body, dsse_body(envelope, certificate))

    # 6. It was logged while the certificate and the log's key were valid, at about the time of the timestamp.
    integrated = _moment(entry.integrated_time)
    _within("log-key-time", integrated, log.valid_from, log.valid_until)
    _within("time", integrated, certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    if abs(integrated - stamped) > timedelta(seconds=tolerance_s):
        raise refuse("time-apart", f"at most {tolerance_s} s from the timestamp {stamped.isoformat()}", integrated)
    return VerifiedEntry(entry.log_index, checkpoint, integrated)


def check_receipt(receipt: LogReceipt, logs: Sequence[TrustedLog]) -> VerifiedIntent:
    """The intent that the receipt proves to be logged. Raises `VerificationError` (layer `log`), `MalformedInput`."""
    # 1. The checkpoint is a trusted log's, and the receipt speaks of that tree.
    claimed = parse_checkpoint(receipt.checkpoint)
    log = _find([log for log in logs if log.origin == claimed.origin], claimed.note.signatures[0].hint)
    checkpoint = check_checkpoint(receipt.checkpoint, log)
    _equal("tree-size", checkpoint.size, receipt.tree_size)
    _equal("root", checkpoint.root.hex(), receipt.root_hash.hex())

    # 2. The body is in the tree.
    leaf = merkle.leaf_hash(receipt.body)
    merkle.verify_inclusion(leaf, receipt.log_index, receipt.tree_size, receipt.hashes, receipt.root_hash, layer=LAYER)

    # 3. The body is an intent, in canonical JSON, of a time at which the key was valid.
    intent = receipt.intent
    _within("log-key-time", validity.read_time(intent.time, "intent"), log.valid_from, log.valid_until)
    return VerifiedIntent(**dict(intent), log_index=receipt.log_index, checkpoint=checkpoint)


def _check_body(body: bytes, expected: bytes) -> None:
    """Compare part by part first, so that the error names the part; then compare all of it."""
    value, wanted = canonical.loads(body, "log entry body"), canonical.loads(expected, "log entry body")
    for code, path in (
        ("body-payload", ("spec", "payloadHash", "value")),
        ("body-signature", ("spec", "signatures", 0, "signature")),
        ("body-certificate", ("spec", "signatures", 0, "verifier")),
        ("body-envelope", ("spec", "envelopeHash", "value")),
    ):
        _equal(code, _at(wanted, path), _at(value, path))
    if body != expected:
        raise refuse("body-form", "the canonical body of this envelope and certificate", "another")


def _at(value: JSON, path: tuple[str | int, ...]) -> JSON:
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _find(logs: Sequence[TrustedLog], key_id: bytes) -> TrustedLog:
    """The log whose key id is `key_id` (32 bytes), or whose note hint is (4 bytes)."""
    for log in logs:
        if (log.key_id if len(key_id) == merkle.HASH_BYTES else note_hint(log.name, load_key(log))) == key_id:
            return log
    raise refuse("log-id", "a log that the trust root names", key_id.hex())


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise refuse("time", "seconds before the year 10000", seconds) from None


def _within(code: str, moment: datetime, start: datetime, end: datetime | None) -> None:
    if moment < start or (end is not None and moment > end):
        raise refuse(code, f"a time from {start.isoformat()} to {end.isoformat() if end else 'now'}", moment)


def _equal(code: str, expected: object, found: object) -> None:
    if expected != found:
        raise refuse(code, expected, found)
