"""The lab's certificate transparency log: it signs for certificates before they are issued, and keeps each of them.

RFC 6962: the signed certificate timestamp covers the certificate without itself (the TBS of the precertificate) and the
issuer's key. Leaf and signed structure are the same bytes here: version, type, time, entry, extensions.
"""

from __future__ import annotations

import struct
from datetime import datetime

from appliance.notary.tiles import TileLog

SCT_LIST_OID = "1.3.6.1.4.1.11129.2.4.2"
_V1, _CERTIFICATE_TIMESTAMP, _PRECERT_ENTRY = 0, 0, 1
_SHA256_ECDSA = b"\x04\x03"
_NO_EXTENSIONS = b"\x00\x00"


class CertificateLog(TileLog):
    """The log in a directory."""

    def promise(self, tbs: bytes, issuer_key_hash: bytes, moment: datetime) -> bytes:
        """The SCT list (RFC 6962, section 3.3) with the one SCT of a certificate whose TBS without it is `tbs`.

        `issuer_key_hash` is SHA-256 over the issuer's SPKI. The leaf is durable when this returns.
        """
        milliseconds = int(moment.timestamp() * 1000)
        signed = precertificate_leaf(tbs, issuer_key_hash, milliseconds)
        with self.locked():
            self.append(signed)
            signature = self.sign(signed)
        key_id = self.identity.key_id
        sct = struct.pack("!B32sQ", _V1, key_id, milliseconds) + _NO_EXTENSIONS + _SHA256_ECDSA + _prefixed(signature)
        return _prefixed(_prefixed(sct))


def precertificate_leaf(tbs: bytes, issuer_key_hash: bytes, milliseconds: int) -> bytes:
    """The bytes that an SCT's signature covers, which are also the log's leaf."""
    head = struct.pack("!BBQH32s", _V1, _CERTIFICATE_TIMESTAMP, milliseconds, _PRECERT_ENTRY, issuer_key_hash)
    return head + len(tbs).to_bytes(3, "big") + tbs + _NO_EXTENSIONS


def _prefixed(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data
