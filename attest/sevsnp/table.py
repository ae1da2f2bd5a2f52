"""The certificate table that a host hands to its guest beside a report: GHCB specification (AMD 56421), 4.1.8.1.

Entries of 24 bytes (GUID, offset, length), one of zeros at the end, then the certificates. It comes from the host and
proves nothing by itself. Refused: more than `MAX_ENTRIES`, an entry twice, offsets that point elsewhere.
"""

from __future__ import annotations

import struct
from typing import Final, Literal
from uuid import UUID

from attest.errors import MalformedInput

WHAT: Final = "SEV-SNP certificate table"
MAX_ENTRIES: Final = 16
_ENTRY = struct.Struct("<16sII")

Name = Literal["vcek", "vlek", "ask", "ark", "crl"]
GUIDS: Final[dict[str, Name]] = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "vcek",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "vlek",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ask",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ark",
    "92f81bc3-5811-4d3d-97ff-d19f88dc67ea": "crl",
}
"""Names of what a table holds; `ask` is the ASVK beside a VLEK. GUIDs are stored as RFC 4122 writes them."""


def read(data: bytes) -> dict[Name, bytes]:
    """What the table in `data` holds, by name; entries of unknown GUIDs are left out. Raises `MalformedInput`.

    No bytes at all are a table without entries: that is what a host without certificates gives.
    """
    found: dict[str, tuple[int, int]] = {}
    for index in range(MAX_ENTRIES + 1) if data else ():
        if len(data) < (index + 1) * _ENTRY.size:
            raise MalformedInput(WHAT, f"expected an entry at offset {index * _ENTRY.size}, found the end")
        guid, offset, length = _ENTRY.unpack_from(data, index * _ENTRY.size)
        if not any(guid) and not offset and not length:
            break
        name = str(UUID(bytes=guid))
        if name in found:
            raise MalformedInput(WHAT, f"expected each entry once, found {name} twice")
        found[name] = offset, length
    else:
        if data:
            raise MalformedInput(WHAT, f"expected at most {MAX_ENTRIES} entries, found more")
    first = (len(found) + 1) * _ENTRY.size
    for name, (offset, length) in found.items():
        if offset < first or offset + length > len(data):
            raise MalformedInput(WHAT, f"expected {name} behind the entries, found {length} bytes at offset {offset}")
    return {GUIDS[name]: data[at : at + length] for name, (at, length) in found.items() if name in GUIDS}
