"""DER for tests."""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509


def tlv(tag: int, content: bytes) -> bytes:
    """One item of at most 65,535 bytes."""
    size = len(content)
    head = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + head + content


def without_end(crl: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """A revocation list of nobody without its `nextUpdate`, which X.509 leaves optional; signed anew by `sign`."""
    tbs = x509.load_der_x509_crl(crl).tbs_certlist_bytes
    start = 2 + (tbs[1] & 0x7F if tbs[1] & 0x80 else 0)
    end = tbs.rindex(b"\x17\x0d")
    algorithm = tbs[start + 3 : start + 5 + tbs[start + 4]]
    tbs = tlv(0x30, tbs[start:end] + tbs[end + 15 :])
    return tlv(0x30, tbs + algorithm + tlv(0x03, b"\0" + sign(tbs)))
