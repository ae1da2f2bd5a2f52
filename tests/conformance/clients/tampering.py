"""Variants of a signed bundle, each with one thing wrong that a verifier has to notice.

Ten that every client has to reject, and further ones on which stock clients are known to disagree. Where the lab that
made the bundle is at hand, it forges the variants that need its keys, so that nothing but the one thing is wrong.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.notary.ctlog import CertificateLog
from appliance.notary.lab import Lab

JSON = Any
SIGNED_DATA_OID = bytes.fromhex("06092a864886f70d010702")
TST_INFO_OID = bytes.fromhex("060b2a864886f70d0109100104")


@dataclass(frozen=True)
class Case:
    """One question to the clients: is this bundle about this artifact, by this identity?"""

    name: str
    what: str
    bundle: bytes
    artifact: Path
    identity: str
    issuer: str


@dataclass(frozen=True)
class Forger:
    """What only the lab can do: it and the signer's key."""

    lab: Lab
    key: ec.EllipticCurvePrivateKey
    scratch: Path


def flip(text: str, index: int = -1) -> str:
    """The base64 of the same bytes with the lowest bit of one flipped."""
    data = bytearray(base64.b64decode(text))
    data[index] ^= 1
    return base64.b64encode(data).decode()


def ten(good: Case, scratch: Path, forger: Forger | None = None) -> list[Case]:
    """The ten variants that everybody has to reject."""
    altered = scratch / f"altered-{good.artifact.name}"
    data = bytearray(good.artifact.read_bytes())
    data[len(data) // 2] ^= 1
    altered.write_bytes(bytes(data))
    other = good.identity[:-1] + ("0" if good.identity[-1] != "0" else "1")
    return [
        _edited(good, "payload", "the first subject has another name", _payload),
        _edited(good, "signature", "one bit of the signature", _signature),
        _edited(good, "certificate", "the certificate lives ten years longer", _certificate),
        _forged_sct(good, forger) if forger else _edited(good, "sct", "one bit of the SCT's signature", _sct),
        _edited(good, "set", "one bit of the log's promise", _promise),
        _late_timestamp(good, forger)
        if forger
        else _edited(good, "timestamp", "no signed data any more", _no_signed_data),
        _edited(good, "inclusion-proof", "one bit of a hash of the path", _path),
        _edited(good, "checkpoint", "one bit of the checkpoint's signature", _checkpoint),
        replace(good, name="artifact", what="the artifact has one other bit", artifact=altered),
        replace(good, name="identity", what="another identity is expected", identity=other),
    ]


def disputed(good: Case) -> list[Case]:
    """Further variants that our verifier has to reject, and that stock clients treat each in their own way."""
    return [
        _edited(good, "timestamp-signature", "one bit of the timestamp's signature", _timestamp_signature),
        _edited(good, "timestamp-kind", "it says that it stamped something else", _timestamp_kind),
        _edited(good, "tree-size", "a tree size other than the checkpoint's", _tree_size),
        _edited(good, "proof-index", "another index with the same path", _proof_index),
        _edited(good, "key-hint", "another key id in the checkpoint's signature", _key_hint),
        _edited(good, "unknown-field", "a member that the format does not know", _unknown_field),
    ]


def _edited(good: Case, name: str, what: str, edit: Callable[[JSON, JSON], None]) -> Case:
    bundle = copy.deepcopy(json.loads(good.bundle))
    edit(bundle, bundle["verificationMaterial"]["tlogEntries"][0])
    return replace(good, name=name, what=what, bundle=json.dumps(bundle).encode())


def _payload(bundle: JSON, _entry: JSON) -> None:
    payload = bytearray(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload[payload.index(b'"name":"') + 8] ^= 1
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()


def _signature(bundle: JSON, _entry: JSON) -> None:
    signature = bundle["dsseEnvelope"]["signatures"][0]
    signature["sig"] = flip(signature["sig"])


def _certificate(bundle: JSON, _entry: JSON) -> None:
    raw = bundle["verificationMaterial"]["certificate"]
    der = base64.b64decode(raw["rawBytes"])
    end = x509.load_der_x509_certificate(der).not_valid_after_utc
    ten_years = f"{(end.year + 10) % 100:02d}{end:%m%d%H%M%SZ}".encode()
    raw["rawBytes"] = base64.b64encode(der.replace(f"{end:%y%m%d%H%M%SZ}".encode(), ten_years)).decode()


def _sct(bundle: JSON, _entry: JSON) -> None:
    raw = bundle["verificationMaterial"]["certificate"]
    der = base64.b64decode(raw["rawBytes"])
    scts = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
        x509.PrecertificateSignedCertificateTimestamps
    )
    position = der.index(scts.value[0].signature) + len(scts.value[0].signature) - 1
    raw["rawBytes"] = flip(raw["rawBytes"], position)


def _forged_sct(good: Case, forger: Forger) -> Case:
    """Everything is genuine, the authority's signature included, but another log's key signed the SCT."""
    directory = forger.scratch / "other-ct"
    stranger = ec.generate_private_key(ec.SECP256R1())
    CertificateLog.create(directory, "ct.elsewhere.example", stranger)
    certificate = forger.lab.authority.issue(
        forger.key.public_key(),
        good.identity,
        minutes=10,
        moment=datetime.now(UTC),
        promise=CertificateLog(directory, "ct.elsewhere.example", stranger).promise,
    )
    envelope = json.loads(good.bundle)["dsseEnvelope"]
    der = certificate.public_bytes(Encoding.DER)
    forged = forger.lab.seal_envelope(base64.b64decode(envelope["payload"]), envelope["payloadType"], forger.key, der)
    return replace(good, name="sct", what="genuine but for an SCT by another log", bundle=forged)


def _promise(_bundle: JSON, entry: JSON) -> None:
    promise = entry["inclusionPromise"]
    promise["signedEntryTimestamp"] = flip(promise["signedEntryTimestamp"])


def _stamp(bundle: JSON) -> JSON:
    return bundle["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"][0]


def _flip_in_stamp(bundle: JSON, after: bytes) -> None:
    stamp = _stamp(bundle)
    der = base64.b64decode(stamp["signedTimestamp"])
    stamp["signedTimestamp"] = flip(stamp["signedTimestamp"], der.index(after) + len(after) - 1)


def _no_signed_data(bundle: JSON, _entry: JSON) -> None:
    _flip_in_stamp(bundle, SIGNED_DATA_OID)


def _timestamp_kind(bundle: JSON, _entry: JSON) -> None:
    _flip_in_stamp(bundle, TST_INFO_OID)


def _late_timestamp(good: Case, forger: Forger) -> Case:
    """The authority's own stamp over the same signature, a day after the certificate ended."""
    bundle = json.loads(good.bundle)
    signature = base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"])
    late = forger.lab.timestamper.stamp(signature, datetime.now(UTC) + timedelta(days=1))
    stamp = _stamp(bundle)
    stamp["signedTimestamp"] = base64.b64encode(late).decode()
    return replace(
        good, name="timestamp", what="genuine, but after the certificate's end", bundle=json.dumps(bundle).encode()
    )


def _timestamp_signature(bundle: JSON, _entry: JSON) -> None:
    stamp = _stamp(bundle)
    stamp["signedTimestamp"] = flip(stamp["signedTimestamp"])


def _path(_bundle: JSON, entry: JSON) -> None:
    hashes = entry["inclusionProof"]["hashes"]
    hashes[0] = flip(hashes[0])


def _resign(entry: JSON, index: int) -> None:
    checkpoint = entry["inclusionProof"]["checkpoint"]
    text, line = checkpoint["envelope"].rsplit(" ", 1)
    checkpoint["envelope"] = f"{text} {flip(line.strip(), index)}\n"


def _checkpoint(_bundle: JSON, entry: JSON) -> None:
    _resign(entry, -1)


def _key_hint(_bundle: JSON, entry: JSON) -> None:
    _resign(entry, 0)


def _tree_size(_bundle: JSON, entry: JSON) -> None:
    proof = entry["inclusionProof"]
    proof["treeSize"] = str(int(proof["treeSize"]) + 1)


def _proof_index(_bundle: JSON, entry: JSON) -> None:
    proof = entry["inclusionProof"]
    proof["logIndex"] = str(int(proof["logIndex"]) - 1)


def _unknown_field(bundle: JSON, _entry: JSON) -> None:
    bundle["note"] = "harmless"
