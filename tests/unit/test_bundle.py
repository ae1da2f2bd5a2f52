"""The bundle's form: one, and no other. Real bundles of other kinds are refused, and nothing crashes."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import bundle, canonical, trust
from attest.errors import MalformedInput, VitrineError
from tests.conformance.clients import matrix
from tests.conformance.clients.tampering import Case

JSON = Any


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return matrix.sample(tmp_path_factory.mktemp("bundle"))[0]


def entry(value: JSON) -> JSON:
    return value["verificationMaterial"]["tlogEntries"][0]


def double(parent: JSON, key: str) -> None:
    parent[key] *= 2


def test_a_good_bundle(good: Case) -> None:
    read = bundle.read(good.bundle)
    assert read.received == good.bundle
    assert read.envelope.payload_type == matrix.PAYLOAD_TYPE
    assert read.certificate.public_key() is not None
    again = bundle.assemble(read.envelope, read.certificate_der, read.entry, read.timestamp_der)
    assert again == good.bundle


def test_what_could_not_be_read_is_not_assembled(good: Case) -> None:
    read = bundle.read(good.bundle)
    with pytest.raises(MalformedInput, match="cannot be read"):
        bundle.assemble(read.envelope, b"junk", read.entry, read.timestamp_der)


EDITS: dict[str, Callable[[JSON], object]] = {
    "another version": lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.3"),
    "no media type": lambda b: b.pop("mediaType"),
    "a message signature too": lambda b: b.update(messageSignature={}),
    "an unknown member": lambda b: b.update(note="x"),
    "an unknown member deeper": lambda b: entry(b).update(note="x"),
    "a chain in place of the certificate": lambda b: b["verificationMaterial"].update(x509CertificateChain={}),
    "a key in place of the certificate": lambda b: b["verificationMaterial"].update(publicKey={"hint": "x"}),
    "no certificate": lambda b: b["verificationMaterial"].pop("certificate"),
    "a certificate that is none": lambda b: b["verificationMaterial"]["certificate"].update(rawBytes="AAAA"),
    "two log entries": lambda b: double(b["verificationMaterial"], "tlogEntries"),
    "no log entry": lambda b: b["verificationMaterial"].update(tlogEntries=[]),
    "two timestamps": lambda b: double(b["verificationMaterial"]["timestampVerificationData"], "rfc3161Timestamps"),
    "no timestamp": lambda b: b["verificationMaterial"]["timestampVerificationData"].update(rfc3161Timestamps=[]),
    "no timestamps at all": lambda b: b["verificationMaterial"].pop("timestampVerificationData"),
    "two signatures": lambda b: double(b["dsseEnvelope"], "signatures"),
    "a key id": lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="x"),
    "no promise": lambda b: entry(b).pop("inclusionPromise"),
    "no proof": lambda b: entry(b).pop("inclusionProof"),
    "no checkpoint": lambda b: entry(b)["inclusionProof"].pop("checkpoint"),
    "no time": lambda b: entry(b).pop("integratedTime"),
    "no body": lambda b: entry(b).pop("canonicalizedBody"),
    "an index that is a number": lambda b: entry(b).update(logIndex=2),
    "an index with a zero in front": lambda b: entry(b).update(logIndex="02"),
    "an index with a sign": lambda b: entry(b).update(logIndex="+2"),
    "a negative index": lambda b: entry(b).update(logIndex="-2"),
    "an index with a space": lambda b: entry(b).update(logIndex=" 2"),
    "an index with an underscore": lambda b: entry(b).update(logIndex="1_0"),
    "an index beyond 2^53": lambda b: entry(b).update(logIndex=str(2**53)),
    "an index of other digits": lambda b: entry(b).update(logIndex="\u0662"),
    "a short hash": lambda b: entry(b)["inclusionProof"]["hashes"].append("AAAA"),
    "too long a path": lambda b: entry(b)["inclusionProof"].update(
        hashes=[base64.b64encode(bytes(32)).decode()] * (bundle.MAX_PATH + 1)
    ),
    "a short key id": lambda b: entry(b)["logId"].update(keyId="AAAA"),
    "a list in place of an object": lambda b: b.update(dsseEnvelope=[]),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_another_form_is_malformed(good: Case, edit: Callable[[JSON], object]) -> None:
    value = copy.deepcopy(json.loads(good.bundle))
    edit(value)
    with pytest.raises(MalformedInput, match="bundle"):
        bundle.read(json.dumps(value).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"a":1,"a":1}', b"[" * 1000])
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="bundle"):
        bundle.read(data)


def test_a_duplicate_key_is_malformed(good: Case) -> None:
    with pytest.raises(MalformedInput, match="twice"):
        bundle.read(good.bundle.replace(b'"mediaType"', b'"mediaType":"x","mediaType"'))


def test_a_bound_on_size(good: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", len(good.bundle) - 1)
    with pytest.raises(MalformedInput, match="at most"):
        bundle.read(good.bundle)


@settings(max_examples=300)
@given(st.integers(0), st.integers(0, 255))
def test_any_changed_byte_raises_our_errors_only(good_bytes: bytes, position: int, value: int) -> None:
    data = bytearray(good_bytes)
    data[position % len(data)] = value
    with contextlib.suppress(VitrineError):
        bundle.read(bytes(data))


@pytest.fixture(scope="module")
def good_bytes(good: Case) -> bytes:
    return good.bundle


def test_real_bundles_are_of_other_forms(data: Path, good: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    """From sigstore-python's and the conformance suite's tests, good and bad: every one refused, by a clear error."""
    signing = data / "signing"
    paths = [*signing.glob("sigstore-python/*.sigstore*"), *signing.glob("sigstore-conformance/*/*.sigstore.json")]
    paths += [*signing.glob("pypi-attestations/*.sigstore"), *signing.glob("oms-model-signing/*/model.sig")]
    paths += [*signing.glob("sigstore-python-trust/tsa/*.sigstore")]
    assert len(paths) > 40
    root = matrix.sample(tmp_path_factory.mktemp("real"))[1].lab.trusted_root
    for path in paths:
        with pytest.raises(VitrineError):
            trust.verify_signature(path.read_bytes(), root, identity=None)


def test_real_trust_roots(data: Path) -> None:
    """The public good instance's root has RSA and P-384 and open ends; ours is narrower, and says why."""
    folder = data / "signing" / "sigstore-python-trust"
    paths = [*folder.glob("*/*.json"), *(data / "signing" / "sigstore-conformance").glob("*/trusted_root.json")]
    assert len(paths) > 15
    for path in paths:
        with contextlib.suppress(MalformedInput):
            assert trust.read(path.read_bytes()).logs


def test_canonical_json_is_what_is_written(good: Case) -> None:
    assert canonical.dumps(json.loads(good.bundle)) == good.bundle
