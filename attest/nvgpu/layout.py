"""An NVIDIA GPU's attestation report: SPDM 1.1 request and response, as the driver hands them out.

Source: DMTF DSP0274 version 1.1.0, tables 43 (GET_MEASUREMENTS), 45 (MEASUREMENTS), 47 (measurement block) and 48 (DMTF
measurement). What follows is little-endian. Nothing here is trusted: `attest.nvgpu.authenticate` does that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from attest.errors import MalformedInput, Unsupported
from attest.nvgpu import opaque

WHAT = "GPU attestation report"
MAX_BYTES = 65_536
VERSION = 0x11
"""SPDM 1.1."""
GET_MEASUREMENTS, MEASUREMENTS = 0xE0, 0x60
SIGNED, ALL_BLOCKS = 0x01, 0xFF
REQUEST = struct.Struct("<BBBB32sB")
"""Version, code, attributes, operation, nonce, slot: 37 bytes."""
RESPONSE = struct.Struct("<BBBBB3s")
"""Version, code, two parameters, number of blocks, length of their record: 8 bytes."""
BLOCK = struct.Struct("<BBHBH")
"""Index, specification, size; value type, value size: 7 bytes."""
BLOCK_HEAD_BYTES, DMTF_HEAD_BYTES = 4, 3
DMTF = 0x01
NONCE_BYTES = 32
SIGNATURE_BYTES = 96
"""ECDSA P-384, r || s, big-endian."""


@dataclass(frozen=True)
class Report:
    """A report."""

    nonce: bytes
    """32 bytes, of the request: what whoever asked had signed."""
    responder_nonce: bytes
    """32 bytes, of the response: the GPU's own."""
    measurements: dict[int, bytes]
    """The value of each measurement block, by its index (from 1)."""
    opaque: opaque.Opaque
    """What NVIDIA adds: versions, firmware identity, states."""
    signed: bytes
    """Request and response up to the signature, as received."""
    signature: bytes
    """96 bytes over `signed`."""


def from_text(text: bytes) -> bytes:
    """A report given as hexadecimal digits, as bytes. Raises `MalformedInput`."""
    try:
        return bytes.fromhex(text.decode("ascii", "strict"))
    except ValueError:
        raise MalformedInput(WHAT, "expected hexadecimal digits") from None


def read(data: bytes) -> Report:
    """The report of these bytes. Raises `MalformedInput`; `Unsupported` for other versions, codes and requests."""
    if not REQUEST.size + RESPONSE.size + SIGNATURE_BYTES <= len(data) <= MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes of request and response, found {len(data)}")
    # 1. The request: all blocks, signed.
    version, code, attributes, operation, nonce, slot = REQUEST.unpack_from(data)
    if (version, code, attributes, operation, slot) != (VERSION, GET_MEASUREMENTS, SIGNED, ALL_BLOCKS, 0):
        raise Unsupported(WHAT, "expected an SPDM 1.1 request for all measurements, signed, of slot 0")
    # 2. The response: its blocks.
    version, code, _, second, count, length = RESPONSE.unpack_from(data, REQUEST.size)
    if (version, code, second) != (VERSION, MEASUREMENTS, 0):
        raise Unsupported(WHAT, "expected an SPDM 1.1 response with measurements, of slot 0")
    start = REQUEST.size + RESPONSE.size
    end = start + int.from_bytes(length, "little")
    measurements = _blocks(_part(data, start, end), count)
    # 3. Nonce, opaque data, signature, and nothing after it.
    sizes = end + NONCE_BYTES
    opaque_end = sizes + 2 + int.from_bytes(_part(data, sizes, sizes + 2), "little")
    fields = opaque.read(_part(data, sizes + 2, opaque_end))
    if len(data) != opaque_end + SIGNATURE_BYTES:
        raise MalformedInput(WHAT, f"expected {opaque_end + SIGNATURE_BYTES} bytes, found {len(data)}")
    return Report(nonce, data[end:sizes], measurements, fields, data[:opaque_end], data[opaque_end:])


def _part(data: bytes, start: int, end: int) -> bytes:
    if end > len(data):
        raise MalformedInput(WHAT, f"expected {end} bytes, found {len(data)}")
    return data[start:end]


def _blocks(record: bytes, count: int) -> dict[int, bytes]:
    blocks: dict[int, bytes] = {}
    offset = 0
    while offset < len(record):
        if offset + BLOCK.size > len(record):
            raise MalformedInput(WHAT, "expected a measurement block, found the end of the record")
        index, specification, size, _, value_size = BLOCK.unpack_from(record, offset)
        if specification != DMTF:
            raise Unsupported(WHAT, f"measurement specification {specification}: only DMTF (1) is known")
        if size != DMTF_HEAD_BYTES + value_size:
            raise MalformedInput(WHAT, f"block {index}: expected {size} bytes, found {DMTF_HEAD_BYTES + value_size}")
        if index == 0 or index in blocks:
            raise MalformedInput(WHAT, f"block {index}: expected each index from 1 once")
        value_end = offset + BLOCK_HEAD_BYTES + size
        if value_end > len(record):
            raise MalformedInput(WHAT, f"block {index}: expected {value_size} bytes, found the end of the record")
        blocks[index] = record[offset + BLOCK.size : value_end]
        offset = value_end
    if len(blocks) != count:
        raise MalformedInput(WHAT, f"expected {count} blocks, found {len(blocks)}")
    return blocks
