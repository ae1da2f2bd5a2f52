"""A lab that signs what it likes: a bundle with another statement, validly registered, certified and logged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.enrol import digest_of_key
from appliance.notary.lab import Lab
from attest import canonical, statement, transcript, trust, verify
from attest.cli import read_bundle
from attest.digest import digest_of
from tests.conftest import Made

Change = Callable[[Any, dict[str, bytes]], object]
"""Changes the statement, and files of the bundle."""
Lines = list[tuple[transcript.Kind, Any]]
"""Kind and record of each line of a transcript."""


def resign(
    made: Made,
    change: Change = lambda _signed, _files: None,
    identity: str | None = None,
    *,
    registrar: Lab | None = None,
    payload_type: str = statement.PAYLOAD_TYPE,
    spell: Callable[[Any], bytes] = canonical.dumps,
    intent: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, bytes]:
    """The bundle, signed anew by another boot key after `change`; digests and sizes of changed files are brought up.

    The run is registered in the log of `registrar`, or of the bundle's lab, with other fields in its `intent`. The
    statement becomes bytes by `spell`.
    """
    files = read_bundle(made.bundle)
    signature = trust.verify_signature(files[verify.SIGNATURE], made.trusted_root, identity="https://*")
    signed: Any = canonical.loads(signature.payload)
    key = ec.generate_private_key(ec.SECP256R1())
    predicate, job = signed["predicate"], signed["predicate"]["job"]
    run = {"job_digest": job["digest"], "lock_digest": predicate["lock"]["digest"], "nonce": job["nonce"]}
    receipt = (registrar or made.lab).register({**run, "key_digest": digest_of_key(key), **intent})
    before = dict(files)
    files[verify.INTENT] = canonical.dump_model(receipt)
    job |= {"attempt": receipt.intent.attempt, "intent_index": receipt.log_index}
    predicate |= {"started": receipt.intent.time, "ended": receipt.intent.time}
    entries = {entry["name"]: entry for entry in predicate["files"]}
    entries[verify.INTENT] |= description(files[verify.INTENT])
    before[verify.INTENT] = files[verify.INTENT]
    change(signed, files)
    for name in entries.keys() & files.keys():
        if files[name] != before[name]:
            entries[name] |= description(files[name])
    certificate = made.lab.certify(key.public_key(), identity or signature.identity)
    files[verify.SIGNATURE] = made.lab.seal_envelope(spell(signed), payload_type, key, certificate)
    return files


def description(data: bytes) -> dict[str, Any]:
    """Digest and size of a file, as the manifest has them."""
    return {"digest": digest_of(data), "size_bytes": len(data)}


def lie(path: str, value: object) -> Change:
    """A change of one value in the predicate, at a dotted path."""

    def change(signed: Any, _files: dict[str, bytes]) -> None:
        target = signed["predicate"]
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in parents:
            target = target[part]
        target[last] = value

    return change


def retell(edit: Callable[[Lines], object]) -> Change:
    """A change of the transcript's lines; chain, tree and the statement's second subject follow."""

    def change(signed: Any, files: dict[str, bytes]) -> None:
        told: Lines = [(line.kind, line.record) for line in transcript.read(files[verify.TRANSCRIPT]).lines]
        edit(told)
        head, lines = transcript.genesis(), []
        for number, (kind, record) in enumerate(told):
            lines.append(transcript.frame_line(kind, head, canonical.dumps(record), number))
            head = digest_of(lines[-1])
        files[verify.TRANSCRIPT] = b"\n".join(lines) + b"\n"
        records = [canonical.dumps(record) for kind, record in told if kind == "sample"]
        root = transcript.root(records, bytes.fromhex(json.loads(files[verify.DISCLOSURE])["salt_key"]))
        signed["predicate"]["transcript"] |= {"head": head, "root": root, "samples": len(records)}
        signed["subject"][1]["digest"] = {"sha256": root.removeprefix("sha256:")}

    return change
