"""A P-256 key that a device keeps: `cryptography` signs certificates with it as with any other, and cannot see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from attest.digest import sha256

SignDigest = Callable[[bytes], tuple[int, int]]
"""From 32 bytes to r and s. Raises `EnvironmentProblem`, `MalformedInput`."""


class DeviceKey(ec.EllipticCurvePrivateKey):
    """The private half is wherever `sign_digest` reaches; this object holds the public half alone."""

    def __init__(self, public: ec.EllipticCurvePublicKey, sign_digest: SignDigest) -> None:
        self._public = public
        self._sign_digest = sign_digest

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """256 bits."""
        return self._public.key_size

    def sign(self, data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:  # type: ignore[override]
        """ECDSA with SHA-256 over `data`, DER. Raises `EnvironmentProblem` where the device does not sign."""
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise TypeError("expected ECDSA with SHA-256, found another algorithm")
        return utils.encode_dss_signature(*self._sign_digest(sha256(data)))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:  # noqa: ARG002
        """Not what these keys are for."""
        _stays()

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """The device does not hand it out."""
        _stays()

    def private_bytes(
        self,
        encoding: serialization.Encoding,  # noqa: ARG002
        format: serialization.PrivateFormat,  # noqa: A002, ARG002
        encryption_algorithm: serialization.KeySerializationEncryption,  # noqa: ARG002
    ) -> bytes:
        """The device does not hand it out."""
        _stays()

    def __copy__(self) -> DeviceKey:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> DeviceKey:
        return self


def _stays() -> NoReturn:
    raise TypeError("expected a key in a file: this one is in a device, which signs with it and does not hand it out")
