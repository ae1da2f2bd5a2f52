"""What a leaf of a lab's log is: the intent of a run, or a signature and the certificate of the key that made it.

A leaf holds digests of what was signed, not the signed bytes: its signature is verified with the bundle, not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from attest import canonical, chain, profile
from attest.canonical import Model
from attest.digest import Hex32, digest_of
from attest.dsse import Base64
from attest.errors import MalformedInput, Unsupported
from attest.log import DSSE_KIND, INTENT_KIND, Intent, parse_intent


class Sha256(Model):
    """A digest as Rekor v1 writes it."""

    algorithm: Literal["sha256"]
    """SHA-256."""
    value: Hex32
    """64 hexadecimal digits."""


class SignatureItem(Model):
    """One signature."""

    signature: Base64
    """ECDSA, DER."""
    verifier: Base64
    """The certificate, PEM."""


class SignatureSpec(Model):
    """What was signed, by digest, and the signature."""

    envelope_hash: Sha256 = Field(alias="envelopeHash")
    """Of the DSSE envelope."""
    payload_hash: Sha256 = Field(alias="payloadHash")
    """Of its payload."""
    signatures: Annotated[tuple[SignatureItem, ...], Field(min_length=1, max_length=1)]
    """Exactly one."""


class SignatureBody(Model):
    """The leaf of a signature: Rekor's `dsse/0.0.1`."""

    api_version: Literal["0.0.1"] = Field(alias="apiVersion")
    """`0.0.1`."""
    kind: Literal["dsse"]
    """`dsse`."""
    spec: SignatureSpec
    """The signature."""


@dataclass(frozen=True)
class LoggedSignature:
    """A signature that was logged."""

    key_digest: str
    """The digest of the key that its certificate is for (SPKI, DER)."""
    payload_digest: str
    """The digest of what was signed."""


def read(leaf: bytes) -> Intent | LoggedSignature:
    """What the leaf is. Raises `MalformedInput`, or `Unsupported` for a kind that this release does not know."""
    value = canonical.loads(leaf, "log leaf")
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == INTENT_KIND:
        return parse_intent(leaf)
    if kind != DSSE_KIND:
        raise Unsupported("log leaf", f"expected kind {INTENT_KIND} or {DSSE_KIND}, found {str(kind)[:80]}")
    body = canonical.validate(SignatureBody, value, "log leaf")
    if canonical.dump_model(body) != leaf:
        raise MalformedInput("log leaf", "expected canonical JSON, found another spelling of it")
    certificate = chain.load_pem(body.spec.signatures[0].verifier, "log leaf")[0]
    return LoggedSignature(digest_of(profile.public_key_der(certificate)), f"sha256:{body.spec.payload_hash.value}")
