"""Private keys of the one who verifies: for capsules and attestation results. A lab's keys are elsewhere."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from attest.errors import MalformedInput
from attest.files import read_file


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in the PEM file at `path`, which has no passphrase. Raises `MalformedInput`."""
    try:
        key = load_pem_private_key(read_file(path, 1 << 16), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedInput(str(path), f"expected a private key in PEM without a passphrase: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedInput(str(path), "expected a P-256 key: openssl ecparam -name prime256v1 -genkey -noout")
    return key
