"""COSE_Sign1: the COSE working group's examples, and every check on messages of our own."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attest import cbor, cose
from attest.errors import MalformedInput, Unsupported, VerificationError, VitrineError
from tests.fakes import authority
from tests.fakes.mutate import MUTATIONS, mutated

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
ALL = (cose.ES256, cose.ES384, cose.ES512)

VECTORS = {
    # ECDSA, one signer
    "CWT/A_3": "accepted",
    "ecdsa-examples/ecdsa-sig-01": "accepted",
    "ecdsa-examples/ecdsa-sig-03": "accepted",
    "sign1-tests/sign-pass-01": "accepted",  # an empty protected header as a map, the algorithm not protected
    "sign1-tests/sign-pass-02": "accepted",  # with external data
    "sign1-tests/sign-fail-01": "unsupported",  # another tag
    "sign1-tests/sign-fail-03": "unsupported",  # an unknown algorithm
    "sign1-tests/sign-fail-06": "cose_signature",  # a protected header added
    # other algorithms, other messages
    "eddsa-examples/eddsa-sig-02": "unsupported",
    "eddsa-examples/eddsa-01": "unsupported",
    "ecdsa-examples/ecdsa-01": "unsupported",
    "ecdsa-examples/ecdsa-03": "unsupported",
    "rsa-pss-examples/rsa-pss-01": "unsupported",
    "sign-tests/sign-pass-01": "unsupported",
    "sign-tests/sign-fail-02": "unsupported",
    "sign-tests/sign-fail-04": "unsupported",
    "x509-examples/signed-01": "unsupported",
    "x509-examples/signed-03": "unsupported",
}


def number(key: dict[str, str], name: str) -> int:
    if f"{name}_hex" in key:
        return int(key[f"{name}_hex"], 16)
    return int.from_bytes(base64.urlsafe_b64decode(key[name] + "=="), "big")


def decided(folder: Path, name: str) -> str:
    vector = json.loads((folder / f"{name}.json").read_text())
    signer = vector["input"].get("sign0") or vector["input"]["sign"]["signers"][0]
    key: object = None
    if signer["key"].get("crv") in CURVES:
        numbers = ec.EllipticCurvePublicNumbers(
            number(signer["key"], "x"), number(signer["key"], "y"), CURVES[signer["key"]["crv"]]
        )
        key = numbers.public_key()
    external = bytes.fromhex(signer.get("external", ""))
    try:
        message = cose.read(bytes.fromhex(vector["output"]["cbor"]))
        payload = cose.verify(message, key, layer="cose", algorithms=ALL, external=external)
    except VerificationError as error:
        return error.code
    except Unsupported:
        return "unsupported"
    plain = vector["input"].get("plaintext_hex")
    assert payload == (bytes.fromhex(plain) if plain else vector["input"]["plaintext"].encode())
    return "accepted"


def test_every_example_is_decided_as_it_should(data: Path) -> None:
    folder = data / "attestation" / "cose"
    names = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.json")}
    assert {name: decided(folder, name) for name in sorted(names)} == VECTORS


KEY = authority.key("cose")


def signed(protected: bytes, unprotected: object = None, external: bytes = b"", payload: bytes = b"payload") -> bytes:
    message = cbor.dumps(["Signature1", protected, external, payload])
    signature = authority.raw_signature(KEY, message, hashes.SHA384(), 48)
    return cbor.dumps([protected, unprotected or {}, payload, signature])


GOOD = signed(cbor.dumps({1: -35}))


def code(data: bytes, key: object = None, **options: object) -> str:
    with pytest.raises(VerificationError) as caught:
        cose.verify(cose.read(data), key or KEY.public_key(), layer="cose", **options)  # type: ignore[arg-type]
    assert caught.value.layer == "cose"
    return caught.value.code


def test_a_message_gives_its_payload_tagged_or_not() -> None:
    assert cose.verify(cose.read(GOOD), KEY.public_key(), layer="cose") == b"payload"
    assert cose.verify(cose.read(b"\xd2" + GOOD), KEY.public_key(), layer="cose") == b"payload"


def test_an_empty_protected_header_is_no_bytes_when_signed() -> None:
    message = cose.read(signed(b"", {1: -35}))
    assert cose.verify(message, KEY.public_key(), layer="cose") == b"payload"


def test_the_caller_chooses_the_algorithm() -> None:
    assert code(GOOD, algorithms=(cose.ES256, cose.ES512)) == "cose_algorithm"


def test_a_key_of_another_curve_or_kind() -> None:
    assert code(GOOD, authority.key("p256", ec.SECP256R1).public_key()) == "cose_key"
    assert code(GOOD, object()) == "cose_key"


def test_another_key_other_external_data_other_payload() -> None:
    assert code(GOOD, authority.key("other").public_key()) == "cose_signature"
    assert code(GOOD, external=b"x") == "cose_signature"
    assert code(GOOD.replace(b"payload", b"pay10ad")) == "cose_signature"


@pytest.mark.parametrize("change", [b"", b"\0" * 95, b"\0" * 97, b"\0" * 96, b"\xff" * 96])
def test_a_signature_of_another_size_or_value(change: bytes) -> None:
    protected, unprotected, payload, _ = cbor.loads(GOOD, "x")
    assert code(cbor.dumps([protected, unprotected, payload, change])) == "cose_signature"


def test_a_padded_signature_is_refused() -> None:
    protected, unprotected, payload, signature = cbor.loads(GOOD, "x")
    padded = signature[:48] + b"\0" + signature[48:]
    assert code(cbor.dumps([protected, unprotected, payload, padded])) == "cose_signature"
    assert code(cbor.dumps([protected, unprotected, payload, signature + b"\0"])) == "cose_signature"


@pytest.mark.parametrize("value", [None, [], {}, "ES384", True, -999])
def test_an_algorithm_that_is_none(value: object) -> None:
    with pytest.raises(Unsupported):
        cose.verify(cose.read(signed(cbor.dumps({1: value}))), KEY.public_key(), layer="cose")


@pytest.mark.parametrize(
    "value",
    [
        [b"", {}, b""],
        [b"", {}, b"", b"", b""],
        {"a": 1},
        7,
        [{}, {}, b"", b""],
        [b"", b"", b"", b""],
        [b"", {}, None, b""],
        [b"", {}, b"", "text"],
        [b"\x01", {}, b"", b""],
        [cbor.dumps({1: -35}), {1: -35}, b"", b""],
    ],
)
def test_other_shapes_are_malformed(value: object) -> None:
    with pytest.raises(MalformedInput):
        cose.read(cbor.dumps(value))


def test_critical_headers_and_other_tags_are_unsupported() -> None:
    for data in (signed(cbor.dumps({1: -35, 2: [9]})), b"\xd1" + GOOD):
        with pytest.raises(Unsupported):
            cose.read(data)


def test_a_message_is_bounded() -> None:
    empty = len(cbor.dumps([b"", {}, bytes(65_000), b""])) - 65_000
    cose.read(cbor.dumps([b"", {}, bytes(cose.MAX_BYTES - empty), b""]))
    with pytest.raises(MalformedInput, match="at most 65536"):
        cose.read(cbor.dumps([b"", {}, bytes(cose.MAX_BYTES - empty + 1), b""]))


@MUTATIONS
@given(st.data())
def test_a_mutated_message_is_refused_or_says_the_same(random: st.DataObject) -> None:
    data = random.draw(mutated(GOOD))
    try:
        message = cose.read(data)
        payload = cose.verify(message, KEY.public_key(), layer="cose")
    except VitrineError:
        return
    assert payload == b"payload"
    assert message.headers == {1: -35}
