"""Values of DER: lengths have one spelling, and nothing reaches beyond the end."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from attest import chain, der
from attest.errors import MalformedInput
from tests.fakes.authority import issue


@pytest.mark.parametrize("size", [0, 1, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000])
def test_lengths_are_read(size: int) -> None:
    width = (size.bit_length() + 7) // 8
    length = bytes([size]) if size < 0x80 else bytes([0x80 + width]) + size.to_bytes(width, "big")
    data = b"\x04" + length + bytes(size)
    assert der.values(data, "it") == ((4, bytes(size)),)
    assert der.values(data + b"\x30\x00", "it") == ((4, bytes(size)), (0x30, b""))
    with pytest.raises(MalformedInput, match=r"it: expected a DER value"):
        der.values(data[:-1] or b"\x04", "it")


@pytest.mark.parametrize(
    "data",
    [b"\x04", b"\x04\x80", b"\x04\x80\0\0", b"\x04\x81\x7f" + bytes(0x7F), b"\x04\x82\0\x80" + bytes(0x80), b"\x04\x81",
     b"\x04\x85\0\0\0\0\x01\0", b"\x04\x85\x01\0\0\0\0", b"\x04\xff", b"\x1f\x01\0", b"\x04\x01", b"\x05\0\x04\x02\0"],
)  # fmt: skip
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="expected a DER value at offset"):
        der.values(data, "it")


def test_there_are_at_most_64() -> None:
    assert len(der.values(b"\5\0" * 64, "it")) == 64
    with pytest.raises(MalformedInput, match="at most 64"):
        der.values(b"\5\0" * 65, "it")


@given(st.binary(max_size=64))
def test_whatever_the_bytes_only_our_errors(data: bytes) -> None:
    try:
        found = der.values(data, "it")
    except MalformedInput:
        return
    assert sum(len(content) for _, content in found) <= len(data)


def test_a_signature_in_the_parameters_of_an_unknown_algorithm_is_not_in_its_place() -> None:
    """The signature stands there after a zero byte, and behind it once more, with unused bits."""
    found = next(d for d in iter(lambda: issue("der").certificate, None) if d.signature[-1] % 2 == 0)
    signature, said = found.signature, found.tbs_certificate_bytes
    unknown = b"\x30" + bytes([5 + 2 + 1 + len(signature)]) + b"\x06\x03\x2a\x03\x04" + b"\x04"
    unknown += bytes([1 + len(signature)]) + b"\0" + signature
    for unused, whole in ((0, True), (1, False)):
        bits = bytes([3, 1 + len(signature), unused]) + signature
        size = len(said) + len(unknown) + len(bits)
        data = b"\x30\x82" + size.to_bytes(2, "big") + said + unknown + bits
        assert x509.load_der_x509_certificate(data).signature == signature
        assert b"\0" + signature in data
        if whole:
            chain.check_whole(data, signature, "it")
        else:
            with pytest.raises(MalformedInput, match="whole bytes in its place"):
                chain.check_whole(data, signature, "it")


@pytest.mark.parametrize(
    "data", [b"", b"\x30\0", b"\x05\0", b"\x30\x04\5\0\5\0", b"\x30\x06\5\0\5\0\5\0", b"\x30\0\x30\0"]
)
def test_what_has_no_third_value_has_no_signature(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="whole bytes in its place"):
        chain.check_whole(data, b"", "it")
