"""COSE_Sign1 (RFC 9052): one payload, one signature, ECDSA on the curve that its algorithm names.

`read` parses; `verify` checks with a key that the caller trusts already, and takes the algorithms that the caller
allows: a message never chooses its own. Several signers (COSE_Sign), MACs, encryption, `crit`, RSA and EdDSA are
`Unsupported`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attest import cbor
from attest.errors import MalformedInput, Unsupported, VerificationError

MAX_BYTES = 65_536
"""Of a message: a Nitro document has below 16 KiB."""
TAG_SIGN1 = 18
ALG, CRIT = 1, 2
"""Header labels, RFC 9052 table 3."""
ES256, ES384, ES512 = -7, -35, -36
"""Algorithms, RFC 9053 table 1."""


@dataclass(frozen=True)
class Sign1:
    """A COSE_Sign1 message, RFC 9052 section 4.2."""

    protected: bytes
    """The protected header as received: what is signed."""
    headers: dict[int | str, object]
    """The protected header, read."""
    unprotected: dict[int | str, object]
    """The unprotected header: anybody could have changed it."""
    payload: bytes
    """What is signed."""
    signature: bytes
    """r || s, big-endian, each of the curve's size."""

    @property
    def algorithm(self) -> object:
        """The algorithm that the message names, in either header; None where it names none."""
        return self.headers.get(ALG, self.unprotected.get(ALG))


@dataclass(frozen=True)
class _Algorithm:
    curve: str
    digest: hashes.HashAlgorithm
    size: int


_ALGORITHMS = {
    ES256: _Algorithm("secp256r1", hashes.SHA256(), 32),
    ES384: _Algorithm("secp384r1", hashes.SHA384(), 48),
    ES512: _Algorithm("secp521r1", hashes.SHA512(), 66),
}


def read(data: bytes, what: str = "COSE_Sign1") -> Sign1:
    """The message that `data` is, tagged (18) or not. Raises `MalformedInput` or `Unsupported`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(what, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    value = cbor.loads(data, what)
    if isinstance(value, cbor.Tagged):
        if value.tag != TAG_SIGN1:
            raise Unsupported(what, f"CBOR tag {value.tag}: only COSE_Sign1 (18) is known")
        value = value.value
    if not isinstance(value, list) or [type(item) for item in value] != [bytes, dict, bytes, bytes]:
        raise MalformedInput(what, "expected an array of protected, unprotected, payload, signature")
    protected, unprotected, payload, signature = value
    headers = cbor.loads(protected, f"{what} protected header") if protected else {}
    if not isinstance(headers, dict):
        raise MalformedInput(what, f"expected a map as protected header, found {type(headers).__name__}")
    if headers.keys() & unprotected.keys():
        raise MalformedInput(what, "expected each header once, found one both protected and unprotected")
    if CRIT in headers:
        raise Unsupported(what, "critical headers")
    return Sign1(protected, headers, unprotected, payload, signature)


def verify(
    message: Sign1, key: object, *, layer: str, algorithms: tuple[int, ...] = (ES384,), external: bytes = b""
) -> bytes:
    """The payload of `message`, signed by `key` over itself and `external`, with one of `algorithms`.

    Raises `VerificationError` of `layer`, code `cose_algorithm`, `cose_key` or `cose_signature`; `Unsupported` for an
    algorithm that is not known here.
    """
    # 1. The algorithm is known, and is one that the caller allows.
    named = message.algorithm
    if not isinstance(named, int) or named not in _ALGORITHMS:
        raise Unsupported("COSE_Sign1", f"algorithm {str(named)[:40]}")
    if named not in algorithms:
        raise VerificationError(layer, "cose_algorithm", expected=algorithms, found=named)
    algorithm = _ALGORITHMS[named]
    # 2. The key is of that algorithm's curve.
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != algorithm.curve:
        raise VerificationError(layer, "cose_key", expected=algorithm.curve, found=_name(key))
    # 3. The signature is r || s over the Sig_structure, RFC 9052 section 4.4: an empty header is a string of no bytes.
    if len(message.signature) != 2 * algorithm.size:
        raise VerificationError(
            layer, "cose_signature", expected=f"{2 * algorithm.size} bytes", found=len(message.signature)
        )
    protected = message.protected if message.headers else b""
    signed = cbor.dumps(["Signature1", protected, external, message.payload])
    r, s = message.signature[: algorithm.size], message.signature[algorithm.size :]
    signature = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    try:
        key.verify(signature, signed, ec.ECDSA(algorithm.digest))
    except InvalidSignature:
        raise VerificationError(
            layer, "cose_signature", expected="a signature by the key", found="another signature"
        ) from None
    return message.payload


def _name(key: object) -> str:
    return key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
