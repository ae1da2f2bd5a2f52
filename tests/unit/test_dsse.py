"""DSSE: the encoding that is signed, and the narrow envelope."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st

from attest import dsse
from attest.errors import MalformedInput, VitrineError

GOOD = {"payload": "aGVsbG8=", "payloadType": "text/plain", "signatures": [{"sig": "c2ln"}]}


def parse(**changes: object) -> dsse.Envelope:
    return dsse.parse(json.dumps({**GOOD, **changes}).encode())


def test_the_vector_of_the_specification() -> None:
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert dsse.pae("", b"") == b"DSSEv1 0  0 "


def test_lengths_count_bytes() -> None:
    assert dsse.pae("ü", b"\xc3") == b"DSSEv1 2 \xc3\xbc 1 \xc3"


@given(st.tuples(st.text(), st.binary()), st.tuples(st.text(), st.binary()))
def test_different_things_are_signed_differently(one: tuple[str, bytes], other: tuple[str, bytes]) -> None:
    assert (dsse.pae(*one) == dsse.pae(*other)) == (one == other)


def test_a_good_envelope() -> None:
    envelope = parse()
    assert (envelope.payload, envelope.payload_type, envelope.signature) == (b"hello", "text/plain", b"sig")
    assert envelope.signed_bytes == b"DSSEv1 10 text/plain 5 hello"
    assert dsse.parse(dsse.encode(envelope)) == envelope == dsse.make(b"hello", "text/plain", b"sig")


def test_an_empty_key_id_is_as_good_as_none() -> None:
    assert parse(signatures=[{"sig": "c2ln", "keyid": ""}]).signature == b"sig"


@pytest.mark.parametrize(
    "changes",
    [
        {"signatures": []},
        {"signatures": [{"sig": "c2ln"}, {"sig": "c2ln"}]},
        {"signatures": [{"sig": "c2ln", "keyid": "me"}]},
        {"signatures": [{"sig": ""}]},
        {"signatures": [{"keyid": ""}]},
        {"signatures": [{"sig": "c2ln", "cert": "x"}]},
        {"signatures": {"sig": "c2ln"}},
        {"payload": "aGVsbG8"},
        {"payload": "aGVsbG9="},
        {"payload": "aGVs bG8="},
        {"payload": "aGVsbG8=\n"},
        {"payload": "_-8="},
        {"payload": 5},
        {"payload": None},
        {"payloadType": ""},
        {"payloadType": "text plain"},
        {"payloadType": "text/plain\n"},
        {"payloadType": "tëxt/plain"},
        {"extra": 1},
    ],
)
def test_other_forms_are_malformed(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedInput):
        parse(**changes)


def test_a_missing_member_is_malformed() -> None:
    for key in GOOD:
        with pytest.raises(MalformedInput, match=key):
            dsse.parse(json.dumps({name: value for name, value in GOOD.items() if name != key}).encode())


def test_a_bound_on_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsse, "MAX_ENVELOPE_BYTES", 20)
    with pytest.raises(MalformedInput, match="at most 20 bytes"):
        parse()


@given(st.binary(max_size=200))
def test_any_bytes_raise_our_errors_only(data: bytes) -> None:
    with contextlib.suppress(VitrineError):
        dsse.parse(data)


@given(st.binary(max_size=100))
def test_base64_has_one_spelling(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert dsse.b64decode(text) == data
    for other in (text + "\n", text + "=", text.rstrip("=") + "!"):
        with pytest.raises(ValueError, match="base64"):
            dsse.b64decode(other)


def test_the_published_example(data: Path) -> None:
    example = json.loads((data / "signing" / "dsse" / "protocol-example.json").read_bytes())
    envelope = dsse.parse(json.dumps(example["envelope"]).encode())
    assert envelope.signed_bytes.decode() == example["pae"]
    key = ec.EllipticCurvePublicNumbers(int(example["key"]["x"]), int(example["key"]["y"]), ec.SECP256R1()).public_key()
    r, s = (int.from_bytes(half, "big") for half in (envelope.signature[:32], envelope.signature[32:]))
    key.verify(utils.encode_dss_signature(r, s), envelope.signed_bytes, ec.ECDSA(hashes.SHA256()))
