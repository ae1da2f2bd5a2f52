"""Is a Nitro attestation document signed by AWS's Nitro hypervisor? Certificates, revocation, signature, time.

Source: "Verifying the root of trust", AWS Nitro Enclaves user guide. What the document says is not judged here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from attest import chain, cose
from attest.errors import Unsupported, VerificationError
from attest.nitro import dstack, layout

LAYER = "nitro"
CLOCK_SKEW = timedelta(minutes=5)
"""By which a document may be ahead of `now`: two clocks."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Endorsements:
    """What the relying party holds of AWS."""

    roots: tuple[bytes, ...]
    """The pinned roots (`aws.nitro-enclaves`), DER."""
    crls: tuple[bytes, ...] = ()
    """Revocation lists of the root and of the region's authority, DER."""


@dataclass(frozen=True)
class Authenticated:
    """A document that AWS signed."""

    document: layout.Document
    """What it says."""
    skipped: tuple[str, ...]
    """What was not checked because the caller said so, a sentence each."""


def authenticate(
    evidence: bytes, endorsements: Endorsements, *, now: datetime, unsafe_without_revocation: bool = False
) -> Authenticated:
    """The document in `evidence` (COSE_Sign1, tagged or not), whose signer's chain ends in a pinned root at `now`.

    Raises `VerificationError` (layer `nitro`), `MalformedInput`, `Unsupported`.
    """
    if dstack.is_wrapped(evidence):
        raise Unsupported("Nitro evidence", "dstack's framing: take the document out with `attest.nitro.dstack.unwrap`")
    # 1. The envelope, as the security module writes it: ES384, nothing else in the headers.
    message = cose.read(evidence, "Nitro evidence")
    if message.headers != {cose.ALG: cose.ES384} or message.unprotected:
        raise VerificationError(LAYER, "headers", expected="algorithm ES384 alone", found=message.headers)
    document = layout.read(message.payload)
    # 2. The chain from the signing key's certificate to a pinned root.
    certificates = [chain.load(document.certificate, "Nitro certificate")]
    certificates += [chain.load(der, "Nitro cabundle") for der in reversed(document.cabundle)]
    chain.verify(certificates, endorsements.roots, now=now, layer=LAYER)
    # 3. None of them is revoked.
    skipped: tuple[str, ...] = ()
    if unsafe_without_revocation:
        skipped = ("Nitro: revocation of the certificates was not checked.",)
    else:
        chain.check_lists(certificates, endorsements.crls, now=now, layer=LAYER)
    # 4. The signature over the bytes received.
    cose.verify(message, certificates[0].public_key(), layer=LAYER)
    # 5. The document is of the time of its certificate, and not of the future.
    made = EPOCH + timedelta(milliseconds=document.timestamp_ms)
    start, end = certificates[0].not_valid_before_utc, certificates[0].not_valid_after_utc
    if not start <= made <= end:
        raise VerificationError(LAYER, "timestamp", expected=f"a time from {start} to {end}", found=made)
    if made > now + CLOCK_SKEW:
        raise VerificationError(LAYER, "future", expected=f"a document made before {now}", found=made)
    return Authenticated(document, skipped)
