"""Proof that a key lies in the TPM of an endorsement key: TPM2_MakeCredential, by the verifier, in software.

The verifier wraps a secret for the endorsement key, together with the name of the attestation key. A TPM unwraps it
(TPM2_ActivateCredential) only when it holds both keys, so whoever returns the secret has both in one TPM. The proof
convinces the one who chose the secret, and nobody else: a notary who has it issues a certificate of the key.

Source: TCG TPM 2.0 Library, part 1, 24 (credential protection), 11.4.10 (KDFa, KDFe), annex B.10.4 and C.6.4.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from attest.errors import VerificationError
from attest.tpm.layout import SIZES, Hash, PublicArea

HASHES: dict[Hash, Callable[[], hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
SECRET_BYTES = 32
MAX_EXTRA_BYTES = 8
"""By which a random number is longer than the order of the curve, so that what is left of it is even."""


@dataclass(frozen=True)
class Challenge:
    """What is sent to the attester."""

    credential: bytes
    """TPM2B_ID_OBJECT: the secret, encrypted, with its integrity."""
    secret: bytes
    """TPM2B_ENCRYPTED_SECRET: the seed, for the endorsement key."""


@dataclass(frozen=True)
class Expected:
    """What the verifier keeps."""

    endorsement_name: bytes
    """The name of the endorsement key that the challenge was made for."""
    key_name: bytes
    """The name of the key that it was made for."""
    secret: bytes
    """What the attester has to return, 32 bytes."""


def challenge(endorsement: PublicArea, key: PublicArea, random: Callable[[int], bytes]) -> tuple[Challenge, Expected]:
    """A challenge to the TPM that holds both keys. `random(n)` gives n random bytes.

    Raises `VerificationError` (layer `tpm`, code `endorsement-key`) for a key that cannot unwrap it.
    """
    if not endorsement.symmetric_bits:
        raise VerificationError("tpm", "endorsement-key", expected="a key that unwraps", found="one that does not")
    secret = random(SECRET_BYTES)
    seed, encrypted = _seed(endorsement, random)
    name_hash = endorsement.name_hash
    cipher_key = _kdfa(name_hash, seed, b"STORAGE", key.name, endorsement.symmetric_bits // 8)
    encryptor = Cipher(algorithms.AES(cipher_key), CFB(bytes(16))).encryptor()
    identity = encryptor.update(_sized(secret)) + encryptor.finalize()
    integrity_key = _kdfa(name_hash, seed, b"INTEGRITY", b"", SIZES[name_hash])
    integrity = hmac.digest(integrity_key, identity + key.name, name_hash)
    made = Challenge(_sized(_sized(integrity) + identity), _sized(encrypted))
    return made, Expected(endorsement.name, key.name, secret)


def check(expected: Expected, endorsement: PublicArea, key: PublicArea, answer: bytes) -> None:
    """Raises `VerificationError` (layer `tpm`, code `activation`) unless `answer` shows both keys to be in one TPM."""
    if (expected.endorsement_name, expected.key_name) != (endorsement.name, key.name):
        raise VerificationError(
            "tpm", "activation", expected="an answer for these two keys", found="one for others",
            advice="challenge the attester again with the keys of this evidence",
        )  # fmt: skip
    if not hmac.compare_digest(expected.secret, answer):
        raise VerificationError(
            "tpm", "activation", expected="the secret of the challenge", found="another",
            advice="the key does not lie in the TPM of this endorsement key",
        )  # fmt: skip


def _seed(endorsement: PublicArea, random: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """A seed, and the seed for the endorsement key alone."""
    name_hash = endorsement.name_hash
    if isinstance(endorsement.key, rsa.RSAPublicKey):
        seed = random(SIZES[name_hash])
        function = HASHES[name_hash]()
        oaep = padding.OAEP(padding.MGF1(function), function, b"IDENTITY\0")
        return seed, endorsement.key.encrypt(seed, oaep)
    curve = endorsement.key.curve
    size = (curve.key_size + 7) // 8
    # A private key of 1 to order - 1: reduced from a number so much longer that no value is likelier.
    number = int.from_bytes(random(size + MAX_EXTRA_BYTES), "big") % (curve.group_order - 1) + 1
    ephemeral = ec.derive_private_key(number, curve)
    shared = ephemeral.exchange(ec.ECDH(), endorsement.key)
    ours, theirs = (key.public_numbers() for key in (ephemeral.public_key(), endorsement.key))
    parties = ours.x.to_bytes(size, "big") + theirs.x.to_bytes(size, "big")
    seed = ConcatKDFHash(HASHES[name_hash](), SIZES[name_hash], b"IDENTITY\0" + parties).derive(shared)
    return seed, _sized(ours.x.to_bytes(size, "big")) + _sized(ours.y.to_bytes(size, "big"))


def _kdfa(function: Hash, key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    kdf = KBKDFHMAC(
        HASHES[function](), Mode.CounterMode, size, rlen=4, llen=4, location=CounterLocation.BeforeFixed,
        label=label, context=context, fixed=None,
    )  # fmt: skip
    return kdf.derive(key)


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data
