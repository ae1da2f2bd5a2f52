"""A lab that signs what it likes: a bundle with another statement, validly registered, certified and logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.enrol import digest_of_key
from attest import canonical, statement, trust, verify
from attest.cli import read_bundle
from attest.digest import digest_of
from tests.conftest import Made

Change = Callable[[Any, dict[str, bytes]], object]
"""Changes the statement, and files of the bundle."""


def resign(made: Made, change: Change = lambda _signed, _files: None, identity: str | None = None) -> dict[str, bytes]:
    """The bundle, signed anew by another boot key after `change`; digests and sizes of changed files are brought up."""
    files = read_bundle(made.bundle)
    signature = trust.verify_signature(files[verify.SIGNATURE], made.trusted_root, identity="https://*")
    signed: Any = canonical.loads(signature.payload)
    key = ec.generate_private_key(ec.SECP256R1())
    predicate, job = signed["predicate"], signed["predicate"]["job"]
    intent = {"job_digest": job["digest"], "lock_digest": predicate["lock"]["digest"], "nonce": job["nonce"]}
    receipt = made.lab.register(intent | {"key_digest": digest_of_key(key)})
    files[verify.INTENT] = canonical.dump_model(receipt)
    job |= {"attempt": receipt.intent.attempt, "intent_index": receipt.log_index}
    predicate |= {"started": receipt.intent.time, "ended": receipt.intent.time}
    for entry in predicate["files"]:
        if entry["name"] == verify.INTENT:
            describe(entry, files[verify.INTENT])
    change(signed, files)
    payload = canonical.dumps(signed)
    certificate = made.lab.certify(key.public_key(), identity or signature.identity)
    files[verify.SIGNATURE] = made.lab.seal_envelope(payload, statement.PAYLOAD_TYPE, key, certificate)
    return files


def describe(entry: dict[str, Any], data: bytes) -> None:
    """Put digest and size of `data` into a manifest's file entry."""
    entry |= {"digest": digest_of(data), "size_bytes": len(data)}
