"""The lab's transparency log: Rekor v1-style entries for signatures, and intents for runs that are about to start.

An entry's body is canonical JSON. A signature gets an inclusion promise (the SET of Rekor v1), an inclusion proof and a
checkpoint at once; an intent gets a receipt. Attempts at a job are numbered here, under the log's lock, so that no two
runs of one job can have the same number and none can be left out without a gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import Certificate

from appliance.notary.tiles import TileLog
from attest import canonical, dsse
from attest.bundle import CheckpointText, InclusionPromise, InclusionProof, KindVersion, LogEntry, LogId
from attest.canonical import JSON
from attest.errors import MalformedInput
from attest.log import (
    DSSE_KIND,
    DSSE_VERSION,
    INTENT_KIND,
    INTENT_VERSION,
    IntentBody,
    LogReceipt,
    dsse_body,
    parse_intent,
    promise_payload,
)

Clock = Callable[[], datetime]


class TransparencyLog(TileLog):
    """The log in a directory. Every method takes in first what other processes appended."""

    def __init__(self, directory: Path, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        super().__init__(directory, name, key)
        self._attempts: Counter[str] = Counter()

    def noticed(self, leaf: bytes) -> None:
        """Count the intents of each job."""
        if f'"kind":"{INTENT_KIND}"'.encode() in leaf:
            with suppress(MalformedInput):  # a signature's leaf is another kind of body
                self._attempts[parse_intent(leaf).job_digest] += 1

    def forgotten(self) -> None:
        """Forget the counts."""
        self._attempts.clear()

    def attempts(self, job_digest: str) -> int:
        """How many intents of the job the log holds."""
        with self.locked():
            return self._attempts[job_digest]

    def log_signature(self, envelope: dsse.Envelope, certificate: Certificate, now: Clock) -> LogEntry:
        """The entry of a signature, logged. The caller has verified envelope and certificate."""
        body = dsse_body(envelope, certificate)
        with self.locked():
            seconds = int(now().timestamp())
            index = self.append(body)
            promise = self.sign(promise_payload(body, seconds, self.identity.key_id, index))
            proof = InclusionProof(
                logIndex=index,
                rootHash=self.tree.root(),
                treeSize=len(self),
                hashes=tuple(self.tree.inclusion_path(index)),
                checkpoint=CheckpointText(envelope=self.note),
            )
        return LogEntry(
            logIndex=index,
            logId=LogId(keyId=self.identity.key_id),
            kindVersion=KindVersion(kind=DSSE_KIND, version=DSSE_VERSION),
            integratedTime=seconds,
            inclusionPromise=InclusionPromise(signedEntryTimestamp=promise),
            inclusionProof=proof,
            canonicalizedBody=body,
        )

    def register(self, intent: Mapping[str, JSON], now: Clock) -> LogReceipt:
        """Log the intent of a run, and prove it. The log adds attempt number and time. Raises `MalformedInput`.

        `intent` has `job_digest`, `lock_digest`, `key_digest`, `nonce` where the relying party gave one, and `counter`
        where a TPM counts runs.
        """
        known = {"job_digest", "lock_digest", "key_digest", "nonce", "counter"}
        if surplus := set(intent) - known:
            raise MalformedInput("intent", f"expected {sorted(known)}, found {sorted(surplus)} too")
        with self.locked():
            spec = {
                **{key: value for key, value in intent.items() if value is not None},
                "attempt": self._attempts[str(intent.get("job_digest"))] + 1,
                "time": now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            value = {"apiVersion": INTENT_VERSION, "kind": INTENT_KIND, "spec": spec}
            body = canonical.dump_model(canonical.validate(IntentBody, value, "intent"))
            index = self.append(body)
            return LogReceipt(
                log_index=index,
                tree_size=len(self),
                root_hash=self.tree.root(),
                hashes=tuple(self.tree.inclusion_path(index)),
                checkpoint=self.note,
                body=body,
            )

    def consistency_proof(self, old_size: int) -> list[bytes]:
        """The proof that the log as it is extends the one of `old_size` leaves. Raises `IndexError`."""
        with self.locked():
            return self.tree.consistency_proof(old_size)
