"""The reader of DER takes what DER allows, and nothing that only BER does."""

from __future__ import annotations

import pytest

from attest.errors import MalformedInput
from attest.tdx import der


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535])
def test_every_length_in_its_shortest_form(size: int) -> None:
    header = (
        bytes([4, size]) if size < 128 else b"\4\x81" + bytes([size]) if size < 256 else b"\4\x82" + size.to_bytes(2)
    )
    assert der.items(header + bytes(size) + b"\5\0") == ((4, bytes(size)), (5, b""))


@pytest.mark.parametrize(
    "data",
    [
        b"\4",
        b"\4\x81",
        b"\4\x82\1",
        b"\4\2\0",
        b"\4\x80\0\0",
        b"\4\x83\0\0\1\0",
        b"\4\x80" + bytes(128),
        b"\4\x83" + bytes(131),
        b"\4\x81\x7f" + bytes(127),
        b"\4\x82\0\xff" + bytes(255),
        b"\5\0" * 65,
    ],
)
def test_what_der_forbids(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        der.items(data)


def test_sixty_four_values() -> None:
    assert len(der.items(b"\5\0" * 64)) == 64


def test_content() -> None:
    assert der.content((4, b"ab"), der.OCTETS) == b"ab"
    assert der.content((4, b"ab"), der.OCTETS, 2) == b"ab"
    for item in ((5, b"ab"), (4, b"abc")):
        with pytest.raises(MalformedInput, match="expected tag 0x4 of 2"):
            der.content(item, der.OCTETS, 2)


@pytest.mark.parametrize(
    ("data", "value"), [(b"\0", 0), (b"\x7f", 127), (b"\1\0", 256), (b"\0\x80", 128), (b"\0\xff\xff", 65535)]
)
def test_numbers(data: bytes, value: int) -> None:
    assert der.number((2, data)) == value
    assert der.number((10, data), der.ENUMERATED) == value


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff\xff", b"\0\x7f", b"\0\0", b"\1\0\0", b"\0" * 40])
def test_numbers_out_of_form(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="expected a number"):
        der.number((2, data))


def test_pairs() -> None:
    one = b"\x30\x05\x06\x01\x29\x05\x00"
    assert der.pairs(one) == {b"\x29": (5, b"")}
    for data in (one + one, b"\x30\3\6\1\x29", b"\x30\5\5\1\x29\5\0", b"\x31" + one[1:]):
        with pytest.raises(MalformedInput):
            der.pairs(data)
