"""DER for tests."""

from __future__ import annotations


def tlv(tag: int, content: bytes) -> bytes:
    """One item of at most 255 bytes."""
    head = bytes([len(content)]) if len(content) < 128 else bytes([0x81, len(content)])
    return bytes([tag]) + head + content
