"""The verdict on a signature: what holds, what is refused and with which code, and that nothing else ever escapes."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.notary import keys
from appliance.notary import lab as notary
from appliance.notary.ctlog import SCT_LIST_OID
from appliance.notary.lab import Lab
from attest import bundle, canonical, dsse, profile, trust
from attest.digest import sha256
from attest.errors import MalformedInput, VerificationError, VitrineError
from tests.conformance.clients import matrix
from tests.conformance.clients.tampering import Case
from tests.unit.signatures.conftest import refused

JSON = Any


def test_a_good_signature(good: Case, lab: Lab, root: bytes) -> None:
    verified = trust.verify_signature(good.bundle, root, identity=good.identity, issuer=good.issuer)
    assert (verified.identity, verified.issuer) == (good.identity, "https://lab.example/ca")
    assert verified.payload == bundle.read(good.bundle).envelope.payload
    assert verified.payload_type == matrix.PAYLOAD_TYPE
    assert abs(verified.signed_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert abs(verified.signed_at - verified.integrated_at) <= timedelta(seconds=2)
    assert (verified.log_index, verified.checkpoint.size) == (2, 3)
    assert verified.log_origin == lab.log.identity.origin
    assert verified.trust_digest == trust.read(root).digest
    key = serialization.load_der_public_key(verified.public_key_der)
    assert key == x509.load_der_x509_certificate(verified.certificate_der).public_key()


def test_identities(good: Case, root: bytes) -> None:
    def ask(identity: str | None, issuer: str | None = None) -> trust.VerifiedSignature:
        return trust.verify_signature(good.bundle, root, identity=identity, issuer=issuer)

    for fits in (None, good.identity, "https://*", "https://lab.example/*", "https://lab.example/appliance/*"):
        assert ask(fits).identity == good.identity
    for other in (
        good.identity[:-1],
        good.identity + "0",
        "https://lab.example/appliance/x*",
        "https://lab.exampl/*",
        "",
    ):
        assert refused(lambda other=other: ask(other)) == "signature/identity"  # type: ignore[misc]
    for bad in ("*", "https://lab.example*", "https://l*b.example/*", "http://*", "https://lab.example/**"):
        with pytest.raises(MalformedInput, match="identity"):
            ask(bad)
    assert refused(lambda: ask(None, "https://lab.example/cb")) == "signature/sigstore"
    for bad in ("", "x" * 128):
        with pytest.raises(MalformedInput, match="issuer"):
            ask(None, bad)


def test_another_labs_trust_root(good: Case, tmp_path: Any) -> None:
    other = notary.create(tmp_path / "lab", now=lambda: datetime.now(UTC))
    with pytest.raises(VerificationError) as caught:
        trust.verify_signature(good.bundle, other.trusted_root, identity=None)
    assert caught.value.layer == "signature"


def test_no_network_and_a_quick_import() -> None:
    """`import attest.trust` alone does not bring sigstore in, and takes a fraction of a second."""
    code = "import sys, attest.trust; sys.exit('sigstore' in sys.modules or 'rfc3161_client' in sys.modules)"
    best = 60.0
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        best = min(best, time.perf_counter() - start)
    assert best < 3


def test_two_readings_of_one_payload(good: Case, root: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_ask_sigstore", lambda *_: (matrix.PAYLOAD_TYPE, b"another"))
    assert refused(lambda: trust.verify_signature(good.bundle, root, identity=None)) == "signature/payload"


def test_genuine_in_all_but_the_profile(good: Case, lab: Lab, root: bytes) -> None:
    """The lab's own authority, certificate log, log and timestamp: stock clients accept what has one extension more."""
    key = ec.generate_private_key(ec.SECP256R1())
    genuine = x509.load_der_x509_certificate(lab.certify(key.public_key(), good.identity))
    builder = (
        x509.CertificateBuilder()
        .subject_name(genuine.subject)
        .issuer_name(genuine.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(genuine.not_valid_before_utc)
        .not_valid_after(genuine.not_valid_after_utc)
    )
    for extension in genuine.extensions:
        if not isinstance(extension.value, x509.PrecertificateSignedCertificateTimestamps):
            builder = builder.add_extension(extension.value, extension.critical)
    builder = builder.add_extension(x509.OCSPNoCheck(), critical=False)
    authority = keys.FileKeys.open(lab.path / "keys", (lab.path / "passphrase").read_text().strip()).load("ca")
    tbs = builder.sign(authority, hashes.SHA256()).tbs_certificate_bytes
    issuer_key = sha256(profile.public_key_der(lab.authority.chain[0]))
    scts = lab.ctlog.promise(tbs, issuer_key, datetime.now(UTC))
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(SCT_LIST_OID), asn1.encode_der(scts))
    certified = builder.add_extension(extension, critical=False).sign(authority, hashes.SHA256())

    der = certified.public_bytes(serialization.Encoding.DER)
    payload = bundle.read(good.bundle).envelope.payload
    signature = key.sign(dsse.pae(matrix.PAYLOAD_TYPE, payload), ec.ECDSA(hashes.SHA256()))
    envelope = dsse.make(payload, matrix.PAYLOAD_TYPE, signature)
    entry = lab.log.log_signature(envelope, certified, lambda: datetime.now(UTC))
    sealed = bundle.assemble(envelope, der, entry, lab.timestamper.stamp(signature, datetime.now(UTC)))
    assert trust._ask_sigstore(sealed, root, good.identity, good.issuer)[1] == payload
    assert refused(lambda: trust.verify_signature(sealed, root, identity=None)) == "signature/certificate-extensions"
    with pytest.raises(VerificationError, match="certificate-extensions"):
        lab.assemble(payload, matrix.PAYLOAD_TYPE, signature, der)


# --- every byte that is signed ---------------------------------------------------------------------------------------


def leaves(value: JSON, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every text in the bundle."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


def at(value: JSON, path: tuple[Any, ...]) -> JSON:
    for key in path:
        value = value[key]
    return value


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_any_flipped_bit_in_any_field_is_refused(good_bytes: bytes, root: bytes, data: st.DataObject) -> None:
    value = json.loads(good_bytes)
    path = data.draw(st.sampled_from(sorted(leaves(value), key=str)))
    text = at(value, path)
    try:
        raw = bytearray(base64.b64decode(text, validate=True))
        binary = len(raw) > 8
    except ValueError:
        binary = False
    if binary:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        changed = base64.b64encode(raw).decode()
    else:
        position = data.draw(st.integers(0, len(text) - 1))
        changed = text[:position] + chr(ord(text[position]) ^ 1) + text[position + 1 :]
    at(value, path[:-1])[path[-1]] = changed
    with pytest.raises(VitrineError):
        trust.verify_signature(json.dumps(value).encode(), root, identity=None)


@pytest.fixture(scope="module")
def good_bytes(good: Case) -> bytes:
    return good.bundle


def test_random_damage_raises_our_errors_only(good_bytes: bytes, root: bytes) -> None:
    """Signed, then mutated: bytes cut, doubled, moved; in the text, and inside every base64 value."""
    chance = random.Random(20261122)

    def damage(data: bytes) -> bytes:
        first, second = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        return chance.choice(
            [
                data[:first],
                data[:first] + data[second:],
                data[:second] + data[first:],
                data[:first] + chance.randbytes(second - first) + data[second:],
                data[:first] + bytes([chance.randrange(256)]) + data[first:],
            ]
        )

    value = json.loads(good_bytes)
    paths = [path for path in leaves(value) if isinstance(at(value, path), str)]
    for round_ in range(400):
        if round_ % 4 == 0:
            data = damage(good_bytes)
        else:
            value = json.loads(good_bytes)
            path = chance.choice(paths)
            text = at(value, path)
            try:
                changed = base64.b64encode(damage(base64.b64decode(text, validate=True))).decode()
            except ValueError:
                changed = damage(text.encode()).decode("utf-8", "replace")
            at(value, path[:-1])[path[-1]] = changed
            data = json.dumps(value).encode()
        try:
            verified = trust.verify_signature(data, root, identity=None)
        except VitrineError:
            continue
        assert json.loads(data) == json.loads(good_bytes), verified.identity


def test_random_damage_to_the_trust_root_raises_our_errors_only(good_bytes: bytes, root: bytes) -> None:
    chance = random.Random(7)
    value = json.loads(root)
    paths = [path for path in leaves(value) if isinstance(at(value, path), str)]
    for _ in range(150):
        value = json.loads(root)
        path = chance.choice(paths)
        text = at(value, path)
        try:
            raw = bytearray(base64.b64decode(text, validate=True))
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            at(value, path[:-1])[path[-1]] = base64.b64encode(raw).decode()
        except (ValueError, IndexError):
            at(value, path[:-1])[path[-1]] = text[: chance.randrange(len(text) + 1)]
        try:
            trust.verify_signature(good_bytes, json.dumps(value).encode(), identity=None)
        except VitrineError:
            continue


# --- trust roots -----------------------------------------------------------------------------------------------------

ROOT_EDITS: dict[str, Callable[[JSON], object]] = {
    "another version": lambda r: r.update(mediaType="application/vnd.dev.sigstore.trustedroot.v0.2+json"),
    "no logs": lambda r: r.update(tlogs=[]),
    "too many logs": lambda r: r.update(tlogs=r["tlogs"] * 17),
    "no certificate logs": lambda r: r.update(ctlogs=[]),
    "no authorities": lambda r: r.update(certificateAuthorities=[]),
    "no timestamp authorities": lambda r: r.update(timestampAuthorities=[]),
    "one timestamp certificate": lambda r: r["timestampAuthorities"][0]["certChain"]["certificates"].pop(),
    "an unknown member": lambda r: r.update(note=1),
    "no start": lambda r: r["tlogs"][0]["publicKey"].update(validFor={}),
    "no validity": lambda r: r["tlogs"][0]["publicKey"].pop("validFor"),
    "a local time": lambda r: r["tlogs"][0]["publicKey"]["validFor"].update(start="2026-01-01T00:00:00+01:00"),
    "no such day": lambda r: r["tlogs"][0]["publicKey"]["validFor"].update(start="2026-02-30T00:00:00Z"),
    "a key id of another key": lambda r: r["tlogs"][0]["logId"].update(keyId=r["ctlogs"][0]["logId"]["keyId"]),
    "another algorithm": lambda r: r["tlogs"][0]["publicKey"].update(keyDetails="PKIX_ECDSA_P384_SHA_384"),
    "a key that is none": lambda r: r["tlogs"][0]["publicKey"].update(rawBytes="AAAA"),
    "a certificate that is none": lambda r: r["certificateAuthorities"][0]["certChain"]["certificates"][0].update(
        rawBytes="AAAA"
    ),
    "a path in the url": lambda r: r["tlogs"][0].update(baseUrl="https://log.lab.example/v1"),
    "another scheme": lambda r: r["tlogs"][0].update(baseUrl="http://log.lab.example"),
}


@pytest.mark.parametrize("edit", ROOT_EDITS.values(), ids=ROOT_EDITS.keys())
def test_malformed_trust_roots(root: bytes, edit: Callable[[JSON], object]) -> None:
    value = json.loads(root)
    edit(value)
    with pytest.raises(MalformedInput):
        trust.read(canonical.dumps(value))


@pytest.mark.parametrize("key", [b"junk", None])
def test_a_log_key_of_another_kind(root: bytes, key: bytes | None) -> None:
    """Also where its key id fits: it is read when the trust root is, not when the first signature comes."""
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    raw = key or ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(*spki)
    value = json.loads(root)
    value["tlogs"][0]["publicKey"]["rawBytes"] = base64.b64encode(raw).decode()
    value["tlogs"][0]["logId"]["keyId"] = base64.b64encode(sha256(raw)).decode()
    with pytest.raises(MalformedInput, match="log key"):
        trust.read(canonical.dumps(value))


def test_a_bound_on_the_trust_root(root: bytes) -> None:
    with pytest.raises(MalformedInput, match="at most"):
        trust.read(root + b" " * trust.MAX_TRUST_BYTES)
    assert trust.read(root).timestampers[0].valid_until is None


def test_keys_that_were_retired_before(good: Case, root: bytes) -> None:
    """A trust root that ends an authority before the signature does not accept it."""
    past = {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}
    value = json.loads(root)
    value["tlogs"][0]["publicKey"]["validFor"] = past
    assert refused(lambda: trust.verify_signature(good.bundle, canonical.dumps(value), identity=None)) == (
        "log/log-key-time"
    )
    value = json.loads(root)
    value["timestampAuthorities"][0]["validFor"] = past
    assert refused(lambda: trust.verify_signature(good.bundle, canonical.dumps(value), identity=None)) == (
        "signature/timestamp"
    )
