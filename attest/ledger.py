"""Every attempt at every job that a lab's log holds, finished or not, and what is wrong with their numbers.

An attempt is an intent: logged before a run, with the digest of the boot key that is going to sign. It is finished when
the log holds a signature by that key. From a whole copy of the log (`attest.tiles`) follows that nothing between two
entries was left out; that there is no second log, follows only for somebody who keeps checkpoints or asks witnesses.

What is told as a finding:

    number         a job's attempts are not numbered 1, 2, 3, ...
    time           an intent is older than the one before it in the log
    key            two intents have one key
    unregistered   a signature by a key that no intent before it names
    signed-twice   two signatures by one key: two bundles of one attempt
    counter        a TPM's counter of runs that does not ascend: a number used again
    counter-gap    one that was raised for runs that the log does not hold: it was put back, or they were not registered
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from attest import leaf
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.log import Intent, VerifiedIntent
from attest.tiles import LogCopy
from attest.trust import VerifiedSignature, verify_receipt, verify_signature

LAYER = "ledger"
Code = Literal["number", "time", "key", "unregistered", "signed-twice", "counter", "counter-gap"]


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job."""

    index: int
    """The intent's entry in the log."""
    intent: Intent
    """Job, lock, key, number and time."""
    signatures: tuple[int, ...]
    """The entries of signatures by its key, after it. None: the run did not end, or nothing of it was signed."""


@dataclass(frozen=True)
class Finding:
    """Something that an honest lab's log does not have."""

    code: Code
    """What kind of thing."""
    entry: int
    """The log's entry that shows it."""
    expected: str
    """What should have been there."""
    found: str
    """What was."""

    def error(self) -> VerificationError:
        """The same as an error."""
        return VerificationError(LAYER, self.code, expected=self.expected, found=f"{self.found} in entry {self.entry}")


@dataclass(frozen=True)
class Ledger:
    """The attempts in a log."""

    entries: int
    """Entries of the log."""
    attempts: tuple[Attempt, ...]
    """In the order of the log."""
    findings: tuple[Finding, ...]
    """What is wrong, in the order of the log."""

    def of(self, job_digest: str) -> tuple[Attempt, ...]:
        """The attempts at one job."""
        return tuple(attempt for attempt in self.attempts if attempt.intent.job_digest == job_digest)

    def require(self) -> None:
        """Raise `VerificationError` (layer `ledger`) for the first finding."""
        for finding in self.findings:
            raise finding.error()


def read(copy: LogCopy) -> Ledger:
    """The ledger of a whole log. Raises `MalformedInput`, `Unsupported` for an entry that cannot be read."""
    intents: dict[int, Intent] = {}
    signatures: dict[int, str] = {}
    for index, data in enumerate(copy.leaves):
        match _read(index, data):
            case Intent() as intent:
                intents[index] = intent
            case found:
                signatures[index] = found.key_digest
    owners: dict[str, int] = {}
    for index, intent in intents.items():
        owners.setdefault(intent.key_digest, index)
    signed: defaultdict[int, list[int]] = defaultdict(list)
    for index, key in signatures.items():
        if owners.get(key, index) < index:
            signed[owners[key]].append(index)
    attempts = tuple(Attempt(index, intent, tuple(signed[index])) for index, intent in intents.items())
    findings = [*_check_intents(attempts), *_check_counters(attempts), *_check_signatures(attempts, signatures)]
    return Ledger(len(copy.leaves), attempts, tuple(sorted(findings, key=lambda finding: finding.entry)))


def check_bundle(
    copy: LogCopy, bundle: bytes, receipt: bytes, trusted_root: bytes
) -> tuple[VerifiedIntent, VerifiedSignature]:
    """The intent and the signature of a bundle, both of which are in this log.

    `bundle` and `receipt` are the bytes of `bundle.sigstore.json` and `evidence/intent.json`. Raises
    `VerificationError`, `MalformedInput`.
    """
    # 1. Both hold by themselves: each is in a tree that the log's key signed.
    signature = verify_signature(bundle, trusted_root, identity="https://*")
    intent = verify_receipt(receipt, trusted_root)

    # 2. They belong together.
    key = digest_of(signature.public_key_der)
    if intent.key_digest != key:
        raise VerificationError(LAYER, "bundle-key", expected=f"an intent of the key {key}", found=intent.key_digest)

    # 3. This log begins with both trees, so that it has both entries in their places.
    copy.check_extends(intent.checkpoint)
    copy.check_extends(signature.checkpoint)
    return intent, signature


def _read(index: int, data: bytes) -> Intent | leaf.LoggedSignature:
    try:
        return leaf.read(data)
    except (MalformedInput, Unsupported) as error:
        raise type(error)(f"entry {index} of the log", f"{error.what}: {error.problem}") from None


def _check_intents(attempts: Sequence[Attempt]) -> Iterator[Finding]:
    count: Counter[str] = Counter()
    keys: dict[str, int] = {}
    latest = ""
    for attempt in attempts:
        intent, index = attempt.intent, attempt.index
        count[intent.job_digest] += 1
        if intent.attempt != count[intent.job_digest]:
            expected = f"attempt {count[intent.job_digest]} at job {intent.job_digest}"
            yield Finding("number", index, expected, f"attempt {intent.attempt}")
        if intent.time < latest:
            yield Finding("time", index, f"a time from {latest} on", intent.time)
        latest = max(latest, intent.time)
        if (first := keys.setdefault(intent.key_digest, index)) != index:
            yield Finding("key", index, "a key of its own for each attempt", f"the key of entry {first}")


def _check_counters(attempts: Sequence[Attempt]) -> Iterator[Finding]:
    """Each TPM's counter is raised by one for each run, whatever the job."""
    last: dict[str, int] = {}
    for attempt in attempts:
        if (counter := attempt.intent.counter) is None:
            continue
        expected = last.get(counter.tpm, counter.value - 1) + 1
        if counter.value != expected:
            code: Code = "counter" if counter.value < expected else "counter-gap"
            yield Finding(code, attempt.index, f"counter {expected} of the TPM {counter.tpm}", str(counter.value))
        last[counter.tpm] = max(counter.value, expected - 1)


def _check_signatures(attempts: Sequence[Attempt], signatures: dict[int, str]) -> Iterator[Finding]:
    registered = {index for attempt in attempts for index in attempt.signatures}
    for index, key in signatures.items():
        if index not in registered:
            yield Finding("unregistered", index, "a signature by a key that an earlier intent names", key)
    for attempt in attempts:
        for index in attempt.signatures[1:]:
            yield Finding("signed-twice", index, f"one signature for the intent in entry {attempt.index}", "another")
