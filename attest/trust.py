"""Trust roots, and the verdict on a signature: sigstore-python decides first, stricter checks of our own come after.

`read` takes a Sigstore `trusted_root.json` (v0.1) in a strict form. `verify_signature` takes a bundle and a trust root
as bytes; it asks `sigstore.verify.Verifier` with an exact identity, offline, and then checks what clients disagree on:
the certificate's profile, the timestamp (a stock client may pass over one that does not verify, if the log's promise
gives a time), and every field of the log entry. Whatever the libraries raise leaves here as one of our errors.

Assumes that the caller got the trust root from where it trusts. Two libraries read the machine's clock for one thing:
a key of the trust root whose validity has not begun is not used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from attest import bundle as bundles
from attest import canonical, chain, profile
from attest.bundle import LogId, RawBytes
from attest.canonical import Model
from attest.checkpoint import Checkpoint, TrustedLog, load_key
from attest.digest import digest_of
from attest.dsse import Base64
from attest.errors import MalformedInput, VerificationError
from attest.log import VerifiedIntent, check_entry, check_receipt, parse_receipt

LAYER = "signature"
MEDIA_TYPE = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
CONFIG_MEDIA_TYPE = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
SIGNING_CONFIG_MEDIA_TYPE = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
MAX_TRUST_BYTES = 1 << 20
MAX_AUTHORITIES = 16
ANY_IDENTITY = "https://*"

_Time = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z$")
]
_Origin = Annotated[str, StringConstraints(pattern=r"^https://[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?$")]


class Validity(Model):
    """From when, and until when."""

    start: _Time
    """RFC 3339, UTC."""
    end: _Time | None = None
    """RFC 3339, UTC; absent while in use."""


class KeyModel(Model):
    """A log's public key."""

    raw_bytes: Base64 = Field(alias="rawBytes")
    """SPKI, DER."""
    key_details: Literal["PKIX_ECDSA_P256_SHA_256", "PKIX_ED25519"] = Field(alias="keyDetails")
    """Its algorithm."""
    valid_for: Validity = Field(alias="validFor")
    """When it signs."""


class LogModel(Model):
    """A transparency log, or a certificate transparency log."""

    base_url: _Origin = Field(alias="baseUrl")
    """`https://` and the log's name."""
    hash_algorithm: Literal["SHA2_256"] = Field(alias="hashAlgorithm")
    """SHA-256."""
    public_key: KeyModel = Field(alias="publicKey")
    """Its key."""
    log_id: LogId = Field(alias="logId")
    """Its id."""


class SubjectModel(Model):
    """An authority's name."""

    organization: str = Field(max_length=200)
    """Organisation."""
    common_name: str = Field(alias="commonName", max_length=200)
    """Common name."""


class ChainModel(Model):
    """A chain, the signer first."""

    certificates: tuple[RawBytes, ...] = Field(min_length=1, max_length=8)
    """DER."""


class AuthorityModel(Model):
    """A certificate authority, or a timestamp authority."""

    subject: SubjectModel
    """Its name."""
    uri: _Origin
    """Its name as a URI."""
    cert_chain: ChainModel = Field(alias="certChain")
    """Its chain."""
    valid_for: Validity = Field(alias="validFor")
    """When it signs."""


class TrustedRootModel(Model):
    """The JSON document."""

    media_type: Literal["application/vnd.dev.sigstore.trustedroot+json;version=0.1"] = Field(alias="mediaType")
    """Version 0.1."""
    tlogs: tuple[LogModel, ...] = Field(min_length=1, max_length=MAX_AUTHORITIES)
    """Transparency logs."""
    certificate_authorities: tuple[AuthorityModel, ...] = Field(
        alias="certificateAuthorities", min_length=1, max_length=MAX_AUTHORITIES
    )
    """Certificate authorities."""
    ctlogs: tuple[LogModel, ...] = Field(min_length=1, max_length=MAX_AUTHORITIES)
    """Certificate transparency logs."""
    timestamp_authorities: tuple[AuthorityModel, ...] = Field(
        alias="timestampAuthorities", min_length=1, max_length=MAX_AUTHORITIES
    )
    """Timestamp authorities."""


@dataclass(frozen=True)
class Trust:
    """A trust root whose form is right. That it is the right one is the caller's knowledge."""

    received: bytes
    """The bytes that came in."""
    digest: str
    """Their digest, `sha256:hex`."""
    logs: tuple[TrustedLog, ...]
    """The transparency logs; receipts are checked against these."""
    timestampers: tuple[profile.Timestamper, ...]
    """The timestamp authorities."""


@dataclass(frozen=True)
class VerifiedSignature:
    """What a verified bundle says, and who says it."""

    payload: bytes
    """The signed bytes. What they mean is checked elsewhere."""
    payload_type: str
    """Their media type."""
    certificate_der: bytes
    """The signer's certificate, DER."""
    public_key_der: bytes
    """The signer's public key, SPKI in DER."""
    identity: str
    """The URI that the certificate is issued to."""
    issuer: str
    """The authority that vouched for it."""
    signed_at: datetime
    """The RFC 3161 time of the signature."""
    integrated_at: datetime
    """When it was logged, by the log's clock."""
    log_index: int
    """The log entry's index."""
    log_origin: str
    """The log's name and tree."""
    checkpoint: Checkpoint
    """The tree head that the entry was proven under."""
    trust_digest: str
    """The digest of the trust root that was used."""


def read(data: bytes) -> Trust:
    """The trust root in the JSON text `data`. Raises `MalformedInput`."""
    if len(data) > MAX_TRUST_BYTES:
        raise MalformedInput("trust root", f"expected at most {MAX_TRUST_BYTES} bytes, found {len(data)}")
    model = canonical.parse(TrustedRootModel, data, "trust root")
    logs, _ = _logs(model.tlogs), _logs(model.ctlogs)
    for authority in model.certificate_authorities:
        for certificate in authority.cert_chain.certificates:
            chain.load(certificate.raw_bytes, "trust root")
    timestampers = []
    for authority in model.timestamp_authorities:
        certificates = tuple(chain.load(item.raw_bytes, "trust root") for item in authority.cert_chain.certificates)
        if len(certificates) < 2:
            raise MalformedInput("trust root", "expected a timestamp authority's chain of signer and root")
        timestampers.append(profile.Timestamper(certificates, *_period(authority.valid_for)))
    return Trust(data, digest_of(data), logs, tuple(timestampers))


def verify_signature(
    bundle_bytes: bytes, trust_bytes: bytes, *, identity: str | None, issuer: str | None = None
) -> VerifiedSignature:
    """What the bundle says, once everything about its signature holds under the trust root.

    `identity` is the certificate's URI, or a pattern as `check_identity` takes it, or None for any that the trust
    root's authorities vouch for. `issuer` is the authority's URI; when it is left out, it has to be the `/ca` beside
    the identity, as our labs name themselves. Raises `VerificationError` (layers `signature` and `log`) and
    `MalformedInput`.
    """
    if issuer is not None and not 0 < len(issuer.encode("utf-8", "replace")) < 128:
        raise MalformedInput("issuer", f"expected the authority's URI of at most 127 bytes, found {issuer[:200]!r}")

    # 1. Bundle and trust root have the one form that is known here.
    bundle, trust = bundles.read(bundle_bytes), read(trust_bytes)

    # 2. The certificate is issued to exactly one URI, and that is the expected one.
    certificate = bundle.certificate
    found = profile.identity_of(certificate)
    check_identity(found, ANY_IDENTITY if identity is None else identity)
    issuer = profile.issuer_of(found) if issuer is None else issuer

    # 3. sigstore-python accepts chain, SCT, log entry, times, signature, identity and issuer.
    payload_type, payload = _ask_sigstore(bundle_bytes, trust_bytes, found, issuer)

    # 4. Both parsers read the same payload.
    if (payload_type, payload) != (bundle.envelope.payload_type, bundle.envelope.payload):
        raise VerificationError(LAYER, "payload", expected="one reading of the payload", found="two")

    # 5. The certificate has the lab's profile and nothing besides.
    profile.check_certificate(certificate, issuer)

    # 6. The timestamp is over this signature, by a trusted authority, while the certificate was valid.
    stamped = profile.check_timestamp(
        bundle.timestamp_der, trust.timestampers, signature=bundle.envelope.signature, certificate=certificate
    )

    # 7. Every field of the log entry holds.
    entry = check_entry(bundle.entry, trust.logs, certificate=certificate, envelope=bundle.envelope, stamped=stamped)
    return VerifiedSignature(
        payload=payload,
        payload_type=payload_type,
        certificate_der=bundle.certificate_der,
        public_key_der=profile.public_key_der(certificate),
        identity=found,
        issuer=issuer,
        signed_at=stamped,
        integrated_at=entry.integrated,
        log_index=entry.log_index,
        log_origin=entry.checkpoint.origin,
        checkpoint=entry.checkpoint,
        trust_digest=trust.digest,
    )


def verify_receipt(receipt_bytes: bytes, trust_bytes: bytes) -> VerifiedIntent:
    """The intent that the receipt proves to be in a log of the trust root.

    Raises `VerificationError` (layer `log`) and `MalformedInput`.
    """
    return check_receipt(parse_receipt(receipt_bytes), read(trust_bytes).logs)


def check_identity(found: str, expected: str) -> None:
    """Raise `VerificationError` unless `found` is the `expected` URI, or fits the pattern.

    A pattern is a prefix and one `*` at its end. The prefix goes at least to the slash after the host, so that no other
    host can fit it; `https://*` alone accepts every identity that the trust root's authorities vouch for.
    """
    if not expected.endswith("*"):
        if found != expected:
            raise VerificationError(LAYER, "identity", expected=expected, found=found)
        return
    prefix = expected[:-1]
    if prefix != "https://" and not re.fullmatch(r"https://[^/*]+/[^*]*", prefix):
        raise MalformedInput("identity", f"expected https://host/, any more, and one *; found {expected[:200]}")
    if not found.startswith(prefix):
        raise VerificationError(LAYER, "identity", expected=f"{prefix}...", found=found)


def _ask_sigstore(bundle_bytes: bytes, trust_bytes: bytes, identity: str, issuer: str) -> tuple[str, bytes]:
    """Payload type and payload, as sigstore-python verified them. Every exception of it becomes one of ours."""
    from sigstore.errors import CertValidationError, Error
    from sigstore.models import Bundle, ClientTrustConfig
    from sigstore.verify import Verifier, policy

    # The public way to a trust root that is not on disk leads through a client trust config.
    head = f'{{"mediaType":"{CONFIG_MEDIA_TYPE}","signingConfig":{{"mediaType":"{SIGNING_CONFIG_MEDIA_TYPE}"}},'
    config = f'{head}"trustedRoot":{trust_bytes.decode("utf-8")}}}'
    try:
        root = ClientTrustConfig.from_json(config).trusted_root
        verifier = Verifier(trusted_root=root)
        accepted = policy.Identity(identity=identity, issuer=issuer)
        return verifier.verify_dsse(Bundle.from_json(bundle_bytes), accepted)
    except CertValidationError as error:
        raise _refused("certificate-chain", error) from None
    except Error as error:
        raise _refused("sigstore", error) from None
    except Exception as error:  # libraries that read hostile bytes raise what they like; none of it may pass as ours
        raise _refused("unreadable", error) from None


def _refused(code: str, error: Exception) -> VerificationError:
    text = " ".join(str(part) for part in error.args) or type(error).__name__
    return VerificationError(LAYER, code, expected="a bundle that sigstore-python accepts", found=text[:400])


def _logs(models: Sequence[LogModel]) -> tuple[TrustedLog, ...]:
    logs = []
    for model in models:
        start, end = _period(model.public_key.valid_for)
        log = TrustedLog(model.base_url.removeprefix("https://"), model.public_key.raw_bytes, start, end)
        load_key(log)
        if log.key_id != model.log_id.key_id:
            raise MalformedInput("trust root", f"{log.name}: expected the key id to be SHA-256 over the key")
        logs.append(log)
    return tuple(logs)


def _period(model: Validity) -> tuple[datetime, datetime | None]:
    try:
        return datetime.fromisoformat(model.start), datetime.fromisoformat(model.end) if model.end else None
    except ValueError:
        raise MalformedInput("trust root", f"expected dates, found {json.dumps([model.start, model.end])}") from None
