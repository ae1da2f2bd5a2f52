"""dstack's framing of a Nitro attestation document: SCALE, version 0, quote kind 2. Nothing of the frame is signed.

A frame is never taken off silently: `attest.nitro.authenticate` refuses framed evidence, and a caller who wants it
calls `unwrap` by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from attest.errors import MalformedInput, Unsupported

WHAT = "dstack attestation"
HEAD = b"\x00\x02"
"""Version 0, kind 2 (Nitro enclave). No COSE message starts so."""
REPORT_DATA_BYTES = 64


@dataclass(frozen=True)
class Frame:
    """What dstack puts around a document."""

    document: bytes
    """The attestation document, COSE_Sign1: the only signed part."""
    report_data: bytes
    """64 bytes of dstack's own, unsigned."""
    config: bytes
    """dstack's configuration, JSON, unsigned."""


def is_wrapped(evidence: bytes) -> bool:
    """Whether `evidence` starts as dstack's frame."""
    return evidence.startswith(HEAD)


def unwrap(evidence: bytes) -> Frame:
    """The parts of a frame. Raises `MalformedInput`; `Unsupported` for another version, kind, or one with events."""
    if not is_wrapped(evidence):
        raise Unsupported(WHAT, f"version and kind {evidence[:2].hex()}: only {HEAD.hex()} is known")
    document, offset = _text(evidence, len(HEAD))
    events, offset = _compact(evidence, offset)
    if events:
        raise Unsupported(WHAT, "runtime events")
    report_data = evidence[offset : offset + REPORT_DATA_BYTES]
    config, end = _text(evidence, offset + REPORT_DATA_BYTES)
    if end != len(evidence):
        raise MalformedInput(WHAT, f"expected {end} bytes, found {len(evidence)}")
    return Frame(document, report_data, config)


def _text(data: bytes, offset: int) -> tuple[bytes, int]:
    length, offset = _compact(data, offset)
    if offset + length > len(data):
        raise MalformedInput(WHAT, f"expected {length} more bytes, found {max(0, len(data) - offset)}")
    return data[offset : offset + length], offset + length


def _compact(data: bytes, offset: int) -> tuple[int, int]:
    """A SCALE compact number of one, two or four bytes, by the first byte's two low bits, and the offset after it."""
    if offset >= len(data):
        raise MalformedInput(WHAT, f"expected a length at offset {offset}, found the end")
    mode = data[offset] & 3
    if mode == 3:
        raise MalformedInput(WHAT, "expected a length below 2^30, found a larger one")
    size = 1 << mode
    return int.from_bytes(data[offset : offset + size], "little") >> 2, offset + size
