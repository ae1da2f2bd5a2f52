"""The report of Azure's paravisor ("HCL report"), as it lies in the vTPM's NV index 0x01400001.

A header, the report of the hardware, and JSON about the machine ("runtime claims"), whose digest the hardware's report
carries: so what the JSON says, the vTPM's attestation key first of all, is said by what the hardware measured. All
integers are little-endian. Layout as Microsoft publishes it ("Guest attestation for confidential VMs", structures
`ATTESTATION_REPORT` and `IGVM_REQUEST_DATA`). Nothing is checked for trust here.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from attest import canonical
from attest.errors import MalformedInput, Unsupported

WHAT: Final = "HCL report"
MAX_BYTES: Final = 1 << 16
MAGIC: Final = b"HCLA"
HARDWARE_BYTES: Final = 1184
SHA256: Final = 1
ATTESTATION_KEY: Final = "HCLAkPub"
RSA_BITS: Final = (2048, 3072, 4096)

Hardware = Literal["sev-snp", "tdx"]
_KINDS: Final[dict[int, Hardware]] = {2: "sev-snp", 4: "tdx"}
_HEADER = struct.Struct("<4sIIII12s")
_REQUEST = struct.Struct("<IIIII")

Base64Url = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,1024}$")]


class _Loose(BaseModel):
    """What Microsoft writes may have more fields than are read here: it is authenticated by the hardware."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, use_attribute_docstrings=True)


class Key(_Loose):
    """A key of the vTPM (JWK)."""

    kid: str
    """Which: `HCLAkPub`, the attestation key, or `HCLEkPub`, the endorsement key."""
    kty: Literal["RSA"]
    """Its kind."""
    key_ops: tuple[str, ...]
    """What it is for."""
    n: Base64Url
    """Modulus, big-endian."""
    e: Base64Url
    """Exponent, big-endian."""


class Configuration(_Loose):
    """How the machine is set up."""

    secure_boot: bool = Field(alias="secure-boot")
    """Whether its firmware starts only signed boot loaders."""
    tpm_enabled: bool = Field(alias="tpm-enabled")
    """Whether it has a vTPM."""
    console_enabled: bool = Field(alias="console-enabled")
    """Whether it has a serial console."""
    vm_id: str = Field(alias="vmUniqueId", max_length=80)
    """Azure's name of it."""


class Runtime(_Loose):
    """The runtime claims."""

    keys: Annotated[tuple[Key, ...], Field(max_length=16)]
    """The vTPM's keys."""
    configuration: Configuration = Field(alias="vm-configuration")
    """How the machine is set up."""
    user_data: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{128}$")] = Field(alias="user-data")
    """64 bytes that the guest wrote into NV index 0x01400002 before."""


@dataclass(frozen=True)
class HclReport:
    """The report of the paravisor."""

    kind: Hardware
    """Which hardware's report is in it."""
    hardware: bytes
    """1184 bytes: SEV-SNP's report; of TDX a TDREPORT, which only the same machine can verify, and zeros."""
    runtime_bytes: bytes
    """The JSON, as it was hashed."""
    runtime: Runtime
    """What it says."""

    def attestation_key(self) -> rsa.RSAPublicKey:
        """The vTPM's attestation key. Raises `MalformedInput`, also where there is not exactly one."""
        found = [key for key in self.runtime.keys if key.kid == ATTESTATION_KEY]
        if len(found) != 1 or found[0].key_ops != ("sign",):
            raise MalformedInput(WHAT, f"expected one key {ATTESTATION_KEY} that signs, found {len(found)}")
        try:
            key = rsa.RSAPublicNumbers(_number(found[0].e), _number(found[0].n)).public_key()
        except ValueError as error:
            raise MalformedInput(WHAT, f"expected an RSA key: {error}") from None
        if key.key_size not in RSA_BITS:
            raise MalformedInput(WHAT, f"expected a key of {RSA_BITS} bits, found {key.key_size}")
        return key


def read(data: bytes) -> HclReport:
    """The report in `data`; zeros may follow it, as they do in the NV index. Raises `MalformedInput`, `Unsupported`."""
    start = _HEADER.size + HARDWARE_BYTES
    if not start + _REQUEST.size <= len(data) <= MAX_BYTES:
        raise MalformedInput(WHAT, f"expected {start + _REQUEST.size} to {MAX_BYTES} bytes, found {len(data)}")
    magic, version, size, _, _, _ = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise MalformedInput(WHAT, f"expected {MAGIC!r} at its start, found {magic!r}")
    if version not in (1, 2):
        raise Unsupported(WHAT, f"expected version 1 or 2, found {version}")
    request_size, request_version, kind, hash_kind, json_size = _REQUEST.unpack_from(data, start)
    if request_version != 1 or kind not in _KINDS or hash_kind != SHA256:
        raise Unsupported(WHAT, f"request data of version {request_version}, kind {kind}, hash {hash_kind}")
    end = start + _REQUEST.size + json_size
    if request_size != _REQUEST.size + json_size or size != end or end > len(data) or any(data[end:]):
        raise MalformedInput(WHAT, f"expected sizes that agree: {size}, {request_size} and {json_size} do not")
    runtime_bytes = data[start + _REQUEST.size : end]
    runtime = canonical.parse(Runtime, runtime_bytes, "HCL runtime claims")
    return HclReport(_KINDS[kind], data[_HEADER.size : start], runtime_bytes, runtime)


def _number(text: str) -> int:
    try:
        return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")
    except ValueError:
        raise MalformedInput(WHAT, "expected base64url without padding, found another form") from None
