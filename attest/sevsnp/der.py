"""The few DER values that AMD's certificate extensions hold, read strictly: one value, in its one spelling.

Lengths of 128 bytes and more never occur there and are refused.
"""

from __future__ import annotations

from attest.errors import MalformedInput

INTEGER, OCTET_STRING, IA5_STRING = 0x02, 0x04, 0x16


def small_integer(data: bytes, what: str) -> int:
    """An INTEGER between 0 and 255. Raises `MalformedInput`, whose subject is `what`."""
    content = _content(data, INTEGER, what)
    # One byte below 128; from there on a zero in front of it, which keeps the number positive.
    if len(content) == 1 and content[0] < 0x80:
        return content[0]
    if len(content) == 2 and content[0] == 0 and content[1] >= 0x80:
        return content[1]
    raise MalformedInput(what, f"expected an integer of one byte, found {content[:8].hex()}")


def ia5_string(data: bytes, what: str) -> str:
    """An IA5String of printable characters. Raises `MalformedInput`, whose subject is `what`."""
    content = _content(data, IA5_STRING, what)
    if not all(0x20 <= byte < 0x7F for byte in content):
        raise MalformedInput(what, f"expected printable ASCII, found {content[:80]!r}")
    return content.decode("ascii")


def octets(data: bytes, what: str) -> bytes:
    """An OCTET STRING. Raises `MalformedInput`, whose subject is `what`."""
    return _content(data, OCTET_STRING, what)


def _content(data: bytes, tag: int, what: str) -> bytes:
    if len(data) < 2 or data[0] != tag or data[1] >= 0x80 or data[1] != len(data) - 2:
        raise MalformedInput(what, f"expected one DER value with tag {tag:#04x}, found {data[:8].hex() or 'nothing'}")
    return data[2:]
