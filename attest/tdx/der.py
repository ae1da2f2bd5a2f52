"""A strict reader of DER, as small as Intel's extension of a certificate needs: tags, lengths, five types.

Refuses what DER forbids: indefinite and overlong lengths, overlong integers, bytes left over.
"""

from __future__ import annotations

from attest.errors import MalformedInput

WHAT = "DER"
BOOLEAN, INTEGER, OCTETS, OID, ENUMERATED, SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30
MAX_ITEMS = 64


def items(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """The tags and contents of the values that fill `data`. Raises `MalformedInput`."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if len(found) == MAX_ITEMS:
            raise MalformedInput(WHAT, f"expected at most {MAX_ITEMS} values in one, found more")
        header = data[at : at + 4]
        # Contents of the extension are short: two bytes of length are the most that is needed.
        long = {0x81: 1, 0x82: 2}.get(header[1], 0) if len(header) > 1 else 0
        if len(header) < 2 + long or (header[1] >= 0x80 and not long):
            raise MalformedInput(WHAT, f"expected a length at offset {at}, found other bytes")
        size = int.from_bytes(header[2 : 2 + long], "big") if long else header[1]
        if long and size < (0x80 if long == 1 else 0x100):
            raise MalformedInput(WHAT, f"expected the shortest length at offset {at}, found a longer one")
        start = at + 2 + long
        at = start + size
        if at > len(data):
            raise MalformedInput(WHAT, f"expected {size} bytes at offset {start}, found {len(data) - start}")
        found.append((header[0], data[start:at]))
    return tuple(found)


def content(item: tuple[int, bytes], tag: int, size: int | None = None) -> bytes:
    """The content of `item`, which has to have this tag, and this size if one is given. Raises `MalformedInput`."""
    if item[0] != tag or (size is not None and len(item[1]) != size):
        raise MalformedInput(WHAT, f"expected tag {tag:#x} of {size} bytes, found {item[0]:#x} of {len(item[1])}")
    return item[1]


def number(item: tuple[int, bytes], tag: int = INTEGER, most: int = 0xFFFF) -> int:
    """An integer, or enumerated value, of 0 to `most`. Raises `MalformedInput`."""
    data = content(item, tag)
    overlong = len(data) > 1 and data[0] == 0 and data[1] < 0x80
    if not data or data[0] >= 0x80 or overlong or int.from_bytes(data, "big") > most:
        raise MalformedInput(WHAT, f"expected a number of 0 to {most}, found {data[:8].hex()}")
    return int.from_bytes(data, "big")


def pairs(data: bytes) -> dict[bytes, tuple[int, bytes]]:
    """Sequences of an object identifier and a value, by identifier (its encoding). Raises `MalformedInput`."""
    found: dict[bytes, tuple[int, bytes]] = {}
    for item in items(data):
        pair = items(content(item, SEQUENCE))
        if len(pair) != 2:
            raise MalformedInput(WHAT, f"expected pairs, found {len(pair)} values")
        name = content(pair[0], OID)
        if name in found:
            raise MalformedInput(WHAT, f"expected unique identifiers, found {name.hex()} twice")
        found[name] = pair[1]
    return found
