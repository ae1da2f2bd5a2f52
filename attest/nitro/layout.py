"""The attestation document of AWS Nitro Enclaves: bytes to fields, within the limits that AWS documents.

Source: "Cryptographic attestation", section "Attestation document specification" of the AWS Nitro Enclaves user guide,
and the limits of the Nitro Security Module's API. The document is CBOR; the module writes it with maps of definite or
of indefinite length. Nothing here is trusted: `attest.nitro.authenticate` does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attest import cbor
from attest.errors import MalformedInput, Unsupported

WHAT = "Nitro attestation document"
DIGEST = "SHA384"
MAX_PCRS = 32
PCR_SIZES = (32, 48, 64)
MAX_MODULE_ID = 256
MAX_CERTIFICATE = 1024
MAX_BUNDLE = 8
MAX_PUBLIC_KEY = 1024
MAX_USER_DATA = 512
MAX_NONCE = 512
MAX_TIMESTAMP_MS = 253_402_300_799_000
"""The last second of the year 9999."""
REQUIRED = {"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"}
OPTIONAL = {"public_key", "user_data", "nonce"}


@dataclass(frozen=True)
class Document:
    """An attestation document."""

    module_id: str
    """Who issued it: instance and enclave, `i-0bee92034f3d60691-enc01943c5eaab3ad6a`."""
    timestamp_ms: int
    """When, by the hypervisor's clock: milliseconds since 1970."""
    pcrs: dict[int, bytes]
    """The locked registers, 0 to 31; SHA-384 of the image file (0), kernel and boot (1), application (2), role (3),
    instance (4), signing certificate (8)."""
    certificate: bytes
    """The certificate of the key that signed, DER."""
    cabundle: tuple[bytes, ...]
    """Its issuers, root first, DER."""
    public_key: bytes | None
    """What the enclave gave as its public key, 0 to 1024 bytes (an empty one occurs); None where it gave none."""
    user_data: bytes | None
    """What the enclave gave as its data, 0 to 512 bytes; None where it gave none."""
    nonce: bytes | None
    """What the enclave gave as nonce, 0 to 512 bytes; None where it gave none."""


def read(data: bytes) -> Document:
    """The document of these bytes. Raises `MalformedInput`; `Unsupported` for another digest."""
    fields = cbor.loads(data, WHAT, indefinite_maps=True)
    if not isinstance(fields, dict):
        raise MalformedInput(WHAT, f"expected a map, found {type(fields).__name__}")
    if missing := REQUIRED - fields.keys():
        raise MalformedInput(WHAT, f"expected {', '.join(sorted(REQUIRED))}; {', '.join(sorted(missing))} missing")
    if unknown := fields.keys() - REQUIRED - OPTIONAL:
        raise MalformedInput(WHAT, f"expected no other fields, found {str(sorted(map(str, unknown)))[:200]}")
    if fields["digest"] != DIGEST:
        raise Unsupported(WHAT, f"digest {str(fields['digest'])[:40]!r}: only {DIGEST} is known")
    return Document(
        module_id=_module_id(fields["module_id"]),
        timestamp_ms=_timestamp(fields["timestamp"]),
        pcrs=_pcrs(fields["pcrs"]),
        certificate=_bytes("certificate", fields["certificate"], 1, MAX_CERTIFICATE),
        cabundle=_bundle(fields["cabundle"]),
        public_key=_optional("public_key", fields.get("public_key"), MAX_PUBLIC_KEY),
        user_data=_optional("user_data", fields.get("user_data"), MAX_USER_DATA),
        nonce=_optional("nonce", fields.get("nonce"), MAX_NONCE),
    )


def _module_id(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_MODULE_ID or not value.isprintable():
        raise MalformedInput(WHAT, f"module_id: expected 1 to {MAX_MODULE_ID} printable characters")
    return value


def _timestamp(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_TIMESTAMP_MS:
        raise MalformedInput(WHAT, "timestamp: expected milliseconds since 1970")
    return value


def _pcrs(value: Any) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_PCRS:
        raise MalformedInput(WHAT, f"pcrs: expected a map of 1 to {MAX_PCRS} registers")
    for index, register in value.items():
        if not isinstance(index, int) or not 0 <= index < MAX_PCRS:
            raise MalformedInput(WHAT, f"pcrs: expected indices below {MAX_PCRS}, found {str(index)[:40]!r}")
        if not isinstance(register, bytes) or len(register) not in PCR_SIZES:
            raise MalformedInput(WHAT, f"pcrs: expected {PCR_SIZES} bytes as register {index}")
    return value


def _bundle(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_BUNDLE:
        raise MalformedInput(WHAT, f"cabundle: expected 1 to {MAX_BUNDLE} certificates")
    return tuple(_bytes("cabundle", item, 1, MAX_CERTIFICATE) for item in value)


def _optional(field: str, value: Any, longest: int) -> bytes | None:
    return None if value is None else _bytes(field, value, 0, longest)


def _bytes(field: str, value: Any, shortest: int, longest: int) -> bytes:
    if not isinstance(value, bytes) or not shortest <= len(value) <= longest:
        raise MalformedInput(WHAT, f"{field}: expected {shortest} to {longest} bytes")
    return value
