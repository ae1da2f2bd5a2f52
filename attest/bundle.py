"""The Sigstore bundle v0.3 in the one form that this project signs in, and none of the others.

A DSSE envelope with one signature; the signer's certificate alone, without a chain; one transparency log entry
`dsse/0.0.1` with promise, inclusion proof and checkpoint; one RFC 3161 timestamp. Any other member, a second of
anything, or a number in another spelling is refused, because clients disagree about what they ignore. The bytes that
came in are kept beside the model. Nothing is authenticated here.
Source: sigstore/protobuf-specs, sigstore_bundle.proto and sigstore_rekor.proto, in protobuf's JSON mapping.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography.x509 import Certificate, load_der_x509_certificate
from pydantic import BeforeValidator, Field, PlainSerializer, StringConstraints, ValidationInfo

from attest import canonical, chain, dsse
from attest.canonical import MAX_INTEGER, Model
from attest.dsse import Base64
from attest.errors import MalformedInput

MEDIA_TYPE: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BUNDLE_BYTES = 32 << 20
MAX_PATH = 64


def _from_json(value: object, info: ValidationInfo) -> object:
    """JSON carries a decimal string in its one spelling; a caller in Python passes the integer itself."""
    if info.mode != "json":
        return value
    if not isinstance(value, str) or not re.fullmatch(r"0|[1-9][0-9]{0,15}", value):
        raise ValueError("expected a decimal string without sign or leading zeros, below 2^53")
    return int(value)


Integer = Annotated[
    int,
    BeforeValidator(_from_json),
    PlainSerializer(str, return_type=str, when_used="json"),
    Field(ge=0, le=MAX_INTEGER),
]
"""An integer in [0, 2^53), in JSON as a decimal string (protobuf's int64)."""
Hash = Annotated[Base64, Field(min_length=32, max_length=32)]
"""32 bytes, in JSON as base64."""


class RawBytes(Model):
    """A certificate as protobuf wraps it."""

    raw_bytes: Base64 = Field(alias="rawBytes")
    """DER."""


class LogId(Model):
    """Which log."""

    key_id: Hash = Field(alias="keyId")
    """SHA-256 over the log's public key (SPKI, DER)."""


class KindVersion(Model):
    """What kind of body an entry has."""

    kind: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    """`dsse` for a signature, `vitrine-intent` for a registered run."""
    version: Annotated[str, StringConstraints(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$", max_length=32)]
    """`0.0.1`."""


class InclusionPromise(Model):
    """The log's promise, given at once."""

    signed_entry_timestamp: Base64 = Field(alias="signedEntryTimestamp")
    """DER ECDSA signature over body, time, log id and index (the SET of Rekor v1)."""


class CheckpointText(Model):
    """The signed tree head."""

    envelope: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """A C2SP signed note."""


class InclusionProof(Model):
    """The proof that the entry is in the log."""

    log_index: Integer = Field(alias="logIndex")
    """The leaf's index."""
    root_hash: Hash = Field(alias="rootHash")
    """The tree's root."""
    tree_size: Integer = Field(alias="treeSize")
    """The tree's number of leaves."""
    hashes: tuple[Hash, ...] = Field(max_length=MAX_PATH)
    """The RFC 6962 path, from the leaf up."""
    checkpoint: CheckpointText
    """The log's signature over that root and size."""


class LogEntry(Model):
    """One entry of a Rekor v1 log, with everything that is needed to check it offline."""

    log_index: Integer = Field(alias="logIndex")
    """The leaf's index; our logs have one tree, so it is the proof's own index."""
    log_id: LogId = Field(alias="logId")
    """The log."""
    kind_version: KindVersion = Field(alias="kindVersion")
    """The kind of the body."""
    integrated_time: Integer = Field(alias="integratedTime")
    """When the entry was logged, in seconds since 1970."""
    inclusion_promise: InclusionPromise = Field(alias="inclusionPromise")
    """The promise."""
    inclusion_proof: InclusionProof = Field(alias="inclusionProof")
    """The proof."""
    canonicalized_body: Base64 = Field(alias="canonicalizedBody")
    """The leaf: canonical JSON."""


class SignedTimestamp(Model):
    """One timestamp."""

    signed_timestamp: Base64 = Field(alias="signedTimestamp")
    """TimeStampResp, DER."""


class Timestamps(Model):
    """The timestamps."""

    rfc3161_timestamps: tuple[SignedTimestamp, ...] = Field(alias="rfc3161Timestamps", min_length=1, max_length=1)
    """Exactly one, over the envelope's signature."""


class Material(Model):
    """What the signature is verified with."""

    certificate: RawBytes
    """The signer's certificate."""
    tlog_entries: tuple[LogEntry, ...] = Field(alias="tlogEntries", min_length=1, max_length=1)
    """Exactly one."""
    timestamps: Timestamps = Field(alias="timestampVerificationData")
    """Exactly one."""


class BundleModel(Model):
    """The JSON document."""

    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = Field(alias="mediaType")
    """Version 0.3, in its current spelling."""
    material: Material = Field(alias="verificationMaterial")
    """Certificate, log entry, timestamp."""
    dsse_envelope: dsse.Envelope = Field(alias="dsseEnvelope")
    """Payload and signature."""


@dataclass(frozen=True)
class SignedBundle:
    """A bundle whose form is right. Nothing in it is authenticated yet."""

    received: bytes
    """The bytes that came in."""
    envelope: dsse.Envelope
    """Payload, payload type, signature."""
    certificate_der: bytes
    """The signer's certificate."""
    entry: LogEntry
    """The log entry."""
    timestamp_der: bytes
    """TimeStampResp over the signature."""

    @property
    def certificate(self) -> Certificate:
        """The certificate, parsed; `read` has seen to it that it can be."""
        return load_der_x509_certificate(self.certificate_der)


def read(data: bytes) -> SignedBundle:
    """The bundle in the JSON text `data`. Raises `MalformedInput`."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise MalformedInput("bundle", f"expected at most {MAX_BUNDLE_BYTES} bytes, found {len(data)}")
    model = canonical.parse(BundleModel, data, "bundle")
    certificate = model.material.certificate.raw_bytes
    chain.load(certificate, "bundle")
    return SignedBundle(
        received=data,
        envelope=model.dsse_envelope,
        certificate_der=certificate,
        entry=model.material.tlog_entries[0],
        timestamp_der=model.material.timestamps.rfc3161_timestamps[0].signed_timestamp,
    )


def assemble(envelope: dsse.Envelope, certificate_der: bytes, entry: LogEntry, timestamp_der: bytes) -> bytes:
    """The canonical JSON of the bundle of these parts. Raises `MalformedInput` where `read` would."""
    model = BundleModel(
        mediaType=MEDIA_TYPE,
        verificationMaterial=Material(
            certificate=RawBytes(rawBytes=certificate_der),
            tlogEntries=(entry,),
            timestampVerificationData=Timestamps(
                rfc3161Timestamps=(SignedTimestamp(signedTimestamp=timestamp_der),),
            ),
        ),
        dsseEnvelope=envelope,
    )
    data = canonical.dump_model(model)
    read(data)
    return data
