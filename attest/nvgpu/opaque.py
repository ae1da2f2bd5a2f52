"""The opaque data of a GPU's attestation report: NVIDIA's own fields.

Source: NVIDIA publishes no specification; numbers and forms are those of its open verifier (`OpaqueData`, nvtrust).
Each field is a type and a size of two bytes, little-endian, and a value.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from attest.errors import MalformedInput

WHAT = "opaque data of a GPU report"
HEAD = struct.Struct("<HH")
DRIVER_VERSION, VBIOS_VERSION, NVDEC0_STATUS, FWID, PROTECTED_PCIE_STATUS = 3, 6, 11, 20, 21
VBIOS_BYTES = 8
FWID_BYTES = 48
ENABLED, DISABLED = b"\xaa", b"\x55"


@dataclass(frozen=True)
class Opaque:
    """What NVIDIA adds to the measurements."""

    fields: dict[int, bytes]
    """Every field by its type, as received."""
    driver_version: str
    """`550.90.07`."""
    vbios_version: str
    """`96.00.9F.00.01`."""
    fwid: bytes
    """48 bytes: the identity of the firmware that made the signing key. Empty where there is none."""
    nvdec0_enabled: bool
    """Whether the first video decoder is on: its measurement counts only then. On unless said to be off."""
    protected_pcie: bool
    """Whether the link to other GPUs is in protected mode."""


def read(data: bytes) -> Opaque:
    """The fields of these bytes. Raises `MalformedInput`."""
    fields: dict[int, bytes] = {}
    offset = 0
    while offset < len(data):
        if offset + HEAD.size > len(data):
            raise MalformedInput(WHAT, "expected a type and a size, found the end")
        kind, size = HEAD.unpack_from(data, offset)
        offset += HEAD.size
        if offset + size > len(data):
            raise MalformedInput(WHAT, f"field {kind}: expected {size} bytes, found {len(data) - offset}")
        if kind in fields:
            raise MalformedInput(WHAT, f"field {kind}: expected once, found twice")
        fields[kind] = data[offset : offset + size]
        offset += size
    fwid = fields.get(FWID, b"")
    if len(fwid) not in (0, FWID_BYTES):
        raise MalformedInput(WHAT, f"firmware identity: expected {FWID_BYTES} bytes, found {len(fwid)}")
    return Opaque(
        fields=fields,
        driver_version=_text(fields.get(DRIVER_VERSION, b"")),
        vbios_version=_vbios(fields.get(VBIOS_VERSION, b"")),
        fwid=fwid,
        nvdec0_enabled=fields.get(NVDEC0_STATUS) != DISABLED,
        protected_pcie=fields.get(PROTECTED_PCIE_STATUS) == ENABLED,
    )


def _text(value: bytes) -> str:
    """A driver version: printable ASCII and a NUL."""
    if not value.endswith(b"\0") or not value.isascii() or not value[:-1].decode("ascii").isprintable():
        raise MalformedInput(WHAT, "driver version: expected printable ASCII that ends in NUL")
    return value[:-1].decode("ascii")


def _vbios(value: bytes) -> str:
    """A VBIOS version: four bytes, the last first, then the fifth; the rest is zero."""
    if len(value) != VBIOS_BYTES or any(value[5:]):
        raise MalformedInput(WHAT, f"VBIOS version: expected five bytes and three zeros, found {value[:16].hex()}")
    return ".".join(f"{byte:02X}" for byte in (*value[3::-1], value[4]))
