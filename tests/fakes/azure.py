"""A synthetic Azure: a paravisor's report around a report of synthetic hardware, and a vTPM that really quotes."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

REGISTERS = {number: hashlib.sha256(bytes([number])).digest() for number in range(24)}


def base64url(number: int) -> str:
    """As a JWK holds numbers."""
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(key: rsa.RSAPrivateKey | rsa.RSAPublicKey, **changes: Any) -> dict[str, Any]:
    """The vTPM's attestation key."""
    public = key.public_key() if isinstance(key, rsa.RSAPrivateKey) else key
    numbers = public.public_numbers()
    values = {
        "kid": "HCLAkPub",
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": base64url(numbers.e),
        "n": base64url(numbers.n),
    }
    return values | changes


def runtime(*keys: dict[str, Any], **changes: Any) -> bytes:
    """The runtime claims, as JSON; `changes` are of the configuration."""
    configuration = {
        "console-enabled": False, "secure-boot": True, "tpm-enabled": True, "vmUniqueId": "a machine", "new": 1,
    } | changes  # fmt: skip
    return json.dumps({"keys": keys, "vm-configuration": configuration, "user-data": "0A" * 64, "new": []}).encode()


def hcl_report(kind: int, hardware: bytes, claims: bytes, /, **changes: Any) -> bytes:
    """The paravisor's report: `kind` 2 is SEV-SNP, 4 is TDX."""
    values = {
        "magic": b"HCLA", "version": 2, "size": 32 + 1184 + 20 + len(claims), "request_size": 20 + len(claims),
        "request_version": 1, "kind": kind, "hash": 1, "json_size": len(claims), "tail": bytes(100),
    } | changes  # fmt: skip
    header = struct.pack("<4sIIII12x", values["magic"], values["version"], values["size"], 2, 0)
    names = ("request_size", "request_version", "kind", "hash", "json_size")
    request = struct.pack("<IIIII", *(values[name] for name in names))
    return header + hardware.ljust(1184, b"\0") + request + claims + values["tail"]


def quote(key: rsa.RSAPrivateKey, nonce: bytes, registers: dict[int, bytes]) -> tuple[bytes, bytes]:
    """TPMS_ATTEST over `registers` of the SHA-256 bank, and TPMT_SIGNATURE."""
    bits = sum(1 << number for number in registers).to_bytes(3, "little")
    digest = hashlib.sha256(b"".join(registers[number] for number in sorted(registers))).digest()
    attested = b"\xffTCG\x80\x18" + struct.pack(">H", 34) + b"\x00\x0b" + bytes(32)
    attested += struct.pack(">H", len(nonce)) + nonce + bytes(16) + b"\x01" + bytes(8)
    attested += struct.pack(">IHB", 1, 0x000B, 3) + bits + struct.pack(">H", 32) + digest
    signature = key.sign(attested, padding.PKCS1v15(), hashes.SHA256())
    return attested, struct.pack(">HHH", 0x0014, 0x000B, len(signature)) + signature
