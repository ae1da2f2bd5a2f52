"""What hardware evidence is bound to: the bytes that an attester has its hardware sign beside its measurements.

    SHA-256(label, nonce, SHA-256 of the boot key's SPKI, statement digest)

each part behind its length (8 bytes, big endian), so that no two lists of parts give the same bytes. The boot key is
the one that signs the bundle: it is made after the boot, lives in memory, and is named by the intent in the lab's log.
The statement is, at the start, `StartStatement`; at the end, the signed in-toto statement. Evidence that was made for
another key, job, result or nonce, or at another point of the run, bears other bytes.
"""

from __future__ import annotations

from typing import Literal

from attest import canonical
from attest.canonical import Model
from attest.digest import Digest, Hex32, digest_of, raw, sha256

When = Literal["start", "end"]
LABELS: dict[When, bytes] = {"start": b"vitrine evidence of the start v1", "end": b"vitrine evidence of the end v1"}


class StartStatement(Model):
    """What is known of a run after its boot, and before its first sample."""

    job: Digest
    """The job's digest."""
    lock: Digest
    """The lockfile's digest."""
    measurement: Hex32
    """The measurement of the boot, which the certificate's identity names."""
    challenge: Hex32
    """Random bytes that the notary chose for this run: its own proof of freshness."""

    def digest(self) -> str:
        """SHA-256 over the canonical JSON."""
        return digest_of(canonical.dump_model(self))


def binding(when: When, *, nonce: str | None, key: str, statement: str) -> bytes:
    """The 32 bytes that evidence of this point of a run bears.

    `nonce`: the job's, hexadecimal, or None; `key`: the digest of the boot key's SPKI; `statement`: that of the
    statement.
    """
    parts = (LABELS[when], bytes.fromhex(nonce or ""), raw(key), raw(statement))
    return sha256(*(piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)))
