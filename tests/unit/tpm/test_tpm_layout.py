"""Structures of a TPM: read as they are, refused where anything in them is not as the specification says."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.errors import MalformedInput, Unsupported
from attest.tpm import layout
from tests.fakes import tpm as fake
from tests.fakes.mutate import EXAMPLES
from tests.fakes.tpm import Key

VALUES = {"sha256": {0: bytes(32), 7: b"\1" * 32}, "sha384": {0: bytes(48)}}
QUOTE = fake.attested(0x8018, fake.quote_body(Key(), VALUES), b"nonce")  # type: ignore[arg-type]
PUBLIC = Key().public
EK = Key(scheme=None, attributes=fake.WRAPPING, symmetric=fake.AES_CFB).public
RSA = Key("rsa2048", scheme="rsassa").public
SIGNATURE = Key().sign(QUOTE).signature


def change(data: bytes, at: int, new: bytes) -> bytes:
    """`data` with `new` at `at`."""
    return data[:at] + new + data[at + len(new) :]


def test_a_key_is_read() -> None:
    key = layout.public_area(PUBLIC)
    assert (key.kind, key.name_hash, key.attributes, key.policy) == ("ecc", "sha256", 0x00050072, b"")
    assert (key.symmetric_bits, key.scheme, key.scheme_hash) == (0, "ecdsa", "sha256")
    assert key.key == Key().private.public_key()
    assert layout.public_area(RSA).key == Key("rsa2048").private.public_key()
    assert layout.public_area(EK).symmetric_bits == 128
    written_out = Key("rsa2048", scheme="rsassa").public.replace(
        struct.pack(">HI", 2048, 0), struct.pack(">HI", 2048, 65537)
    )
    assert layout.public_area(written_out).key == layout.public_area(RSA).key


def test_a_statement_is_read() -> None:
    found = layout.attested(QUOTE)
    assert (found.nonce, found.resets, found.restarts, found.clock_ms, found.clock_safe) == (
        b"nonce",
        3,
        0,
        1_000_000,
        True,
    )
    assert isinstance(found.statement, layout.Quote)
    assert found.statement.selections == (layout.Selection("sha256", (0, 7)), layout.Selection("sha384", (0,)))
    two = fake.sized(b"name") + fake.sized(b"more")
    assert layout.attested(fake.attested(0x8017, two, b"")).statement == layout.Certification(b"name", b"more")
    assert layout.attested(fake.attested(0x801A, two, b"")).statement == layout.Creation(b"name", b"more")
    contents = fake.sized(b"name") + b"\0\5" + fake.sized(b"data")
    assert layout.attested(fake.attested(0x8014, contents, b"")).statement == layout.NvContents(b"name", 5, b"data")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (change(PUBLIC, 0, b"\0\x08"), Unsupported),  # a keyed hash
        (change(PUBLIC, 2, b"\0\x12"), Unsupported),  # named with SM3
        (change(PUBLIC, 4, b"\1"), MalformedInput),  # an attribute that there is none of
        (change(PUBLIC, 10, b"\0\x26"), Unsupported),  # Camellia
        (change(PUBLIC, 12, b"\0\x1a"), Unsupported),  # ECDAA
        (change(PUBLIC, 12, b"\0\x14"), MalformedInput),  # RSASSA of an ECC key
        (change(RSA, 12, b"\0\x18"), MalformedInput),  # ECDSA of an RSA key
        (change(PUBLIC, 16, b"\0\5"), Unsupported),  # P-521
        (change(PUBLIC, 18, b"\0\x20"), Unsupported),  # with a KDF
        (change(EK, 12, b"\0\x40"), Unsupported),  # AES of 64 bits
        (change(EK, 14, b"\0\x44"), Unsupported),  # AES in ECB mode
        (change(PUBLIC, len(PUBLIC) - 1, bytes([PUBLIC[-1] ^ 1])), MalformedInput),  # no point of the curve
        (change(RSA, 16, b"\x04\0"), Unsupported),  # RSA of 1024 bits
        (change(RSA, 16, b"\x0c\0"), MalformedInput),  # 3072 bits, and a modulus of 2048
        (change(RSA, 18, b"\0\0\0\3"), Unsupported),  # the exponent 3
        (change(RSA, 24, b"\x00"), MalformedInput),  # a modulus with a zero in front
        (change(RSA, len(RSA) - 1, b"\0"), MalformedInput),  # an even modulus
        (PUBLIC + b"\0", MalformedInput),
        (PUBLIC[:-1], MalformedInput),
        (b"", MalformedInput),
    ],
)
def test_other_keys_are_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match="TPM"):
        layout.public_area(data)


AT = QUOTE.index(b"nonce") + 5
"""Where the clock begins."""


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (change(QUOTE, 0, b"\xfe"), MalformedInput),
        (change(QUOTE, 4, b"\x80\x15"), Unsupported),  # an audited session
        (change(QUOTE, AT + 16, b"\2"), MalformedInput),  # neither safe nor not
        (change(QUOTE, AT + 25, b"\0\0\0\x09"), MalformedInput),  # nine selections
        (change(QUOTE, AT + 29, b"\0\x12"), Unsupported),  # of SM3
        (change(QUOTE, AT + 31, b"\2"), MalformedInput),  # of 16 registers
        (change(QUOTE, AT + 35, b"\0\x0b"), MalformedInput),  # the same bank twice
        (QUOTE + b"\0", MalformedInput),
        (QUOTE[:-1], MalformedInput),
    ],
)
def test_other_statements_are_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match="TPM"):
        layout.attested(data)


def test_eight_selections_are_the_limit() -> None:
    body = struct.pack(">I", 8) + b"\0\x0b\3\0\0\0" * 8 + fake.sized(b"")
    with pytest.raises(MalformedInput, match="one selection a bank"):
        layout.attested(fake.attested(0x8018, body, b""))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (change(SIGNATURE, 0, b"\0\x1c"), Unsupported),  # ECSCHNORR
        (change(SIGNATURE, 2, b"\0\x12"), Unsupported),  # SM3
        (SIGNATURE + b"\0", MalformedInput),
        (SIGNATURE[:-1], MalformedInput),
    ],
)
def test_other_signatures_are_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match="TPM"):
        layout.signature(data)


def test_an_index_is_read_whole() -> None:
    found = layout.nv_public(fake.nv_public())
    assert (found.index, found.size, found.name_hash) == (0x01500010, 8, "sha256")
    for data in (fake.nv_public() + b"\0", fake.nv_public()[:-1]):
        with pytest.raises(MalformedInput, match="TPM index"):
            layout.nv_public(data)


def test_names_are_of_the_whole_public_area() -> None:
    names = {layout.public_area(data).name for data in (PUBLIC, EK, RSA, replace(Key(), attributes=0x00040072).public)}
    assert len(names) == 4
    assert all(name[:2] == b"\0\x0b" and len(name) == 34 for name in names)


@given(
    st.binary(max_size=300), st.integers(0, 400), st.sampled_from([PUBLIC, EK, RSA, QUOTE, SIGNATURE, fake.nv_public()])
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes, at: int, good: bytes) -> None:
    for hostile in (data, good[:at] + data, good[:at] + data + good[at:], good[:at] + data + good[at + len(data) :]):
        for read in (layout.public_area, layout.attested, layout.signature, layout.nv_public):
            try:
                read(hostile)
            except (MalformedInput, Unsupported):
                continue


def test_a_modulus_has_one_spelling() -> None:
    key = fake.Key("rsa2048", scheme="rsassa")
    modulus = key.private.public_key().public_numbers().n.to_bytes(256, "big")  # type: ignore[union-attr]
    longer = key.public.replace(b"\1\0" + modulus, b"\1\1\0" + modulus)
    assert len(longer) == len(key.public) + 1
    assert layout.public_area(key.public).kind == "rsa"
    with pytest.raises(MalformedInput, match="odd modulus of 2048 bits"):
        layout.public_area(longer)
