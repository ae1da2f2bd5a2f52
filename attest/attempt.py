"""Which attempt at its job a bundle is: its intent in the lab's log, and what witnesses saw of it.

Refused: an intent of another job, lock, key or nonce, with another number, or logged after the signature; times out of
order; a witnessed tree without the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attest import validity
from attest.digest import digest_of
from attest.errors import VerificationError
from attest.manifest import ExecutionManifest

if TYPE_CHECKING:
    from attest.cosignature import Cosigned, WitnessKey
    from attest.counter import RunCounter
    from attest.log import VerifiedIntent
    from attest.trust import VerifiedSignature

LAYER = "intent"


def check(
    receipt: bytes, trusted_root: bytes, manifest: ExecutionManifest, signature: VerifiedSignature
) -> VerifiedIntent:
    """The intent in `receipt` (JSON), which was in the lab's log before the run.

    Raises `VerificationError` (`intent`), `MalformedInput`.
    """
    from attest import trust

    intent = trust.verify_receipt(receipt, trusted_root)
    _equal("job", intent.job_digest, manifest.job.digest)
    _equal("lock", intent.lock_digest, manifest.lock.digest)
    _equal("key", intent.key_digest, digest_of(signature.public_key_der))
    _equal("nonce", intent.nonce, manifest.job.nonce)
    _equal("attempt", intent.attempt, manifest.job.attempt)
    _equal("time", intent.time, manifest.started)
    _equal("index", intent.log_index, manifest.job.intent_index)
    if intent.log_index >= signature.log_index:
        raise VerificationError(
            LAYER, "order", expected=f"an intent before entry {signature.log_index}", found=intent.log_index
        )
    signed_at = validity.write_time(signature.signed_at)
    times = [manifest.started, manifest.ended, signed_at]
    if times != sorted(times):
        raise VerificationError(LAYER, "times", expected="started <= ended <= signed", found=times)
    return intent


def check_counter(claimed: RunCounter | None, certified: RunCounter | None) -> None:
    """An intent's counter is the one that the evidence of the start has. Raises `VerificationError` (`intent`)."""
    if claimed != certified:
        raise VerificationError(
            LAYER, "counter", expected=certified or "no counter, as the evidence of the start has none",
            found=claimed or "none", advice="the run is not the one that the lab's log speaks of",
        )  # fmt: skip


def check_witnessed(
    data: bytes | None, signature: bytes, receipt: bytes, trusted_root: bytes, witnesses: Sequence[WitnessKey]
) -> tuple[Cosigned, ...]:
    """The cosignatures of `witnesses` on a tree with the bundle's two entries; none where no `data` (JSON) is given.

    Raises `VerificationError` (layers `witness`, `log`), `MalformedInput`.
    """
    if data is None:
        return ()
    from attest import trust, witnessed

    return witnessed.check(witnessed.read(data), signature, receipt, trust.read(trusted_root).logs, witnesses)


def _equal(code: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError(LAYER, code, expected=expected, found=found)
