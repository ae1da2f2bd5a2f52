"""Digests: known answers, and which texts count as one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from attest import digest
from attest.digest import Digest, Hex32

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_known_answers() -> None:
    assert digest.digest_of(b"abc") == f"sha256:{ABC}"
    assert digest.digest_of(b"") == f"sha256:{EMPTY}"
    assert digest.sha256(b"abc").hex() == ABC
    assert digest.sha256().hex() == EMPTY
    assert digest.raw(f"sha256:{ABC}").hex() == ABC


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_parts_are_concatenated(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    assert digest.sha256(*parts) == hashlib.sha256(whole).digest()
    assert (
        digest.digest_of(whole) == digest.digest_of(memoryview(whole)) == f"sha256:{hashlib.sha256(whole).hexdigest()}"
    )
    assert digest.raw(digest.digest_of(whole)) == digest.sha256(whole)


def test_one_digest_for_several() -> None:
    first, second = digest.digest_of(b"a"), digest.digest_of(b"b")
    assert digest.digest_of_several([first]) == first
    both = hashlib.sha256(hashlib.sha256(b"a").digest() + hashlib.sha256(b"b").digest()).hexdigest()
    assert digest.digest_of_several([first, second]) == f"sha256:{both}"
    assert digest.digest_of_several([second, first]) != f"sha256:{both}"


@pytest.mark.parametrize("size", [0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1])
def test_files_of_every_size(tmp_path: Path, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "file").write_bytes(data[:size])
    assert digest.digest_file(tmp_path / "file") == digest.digest_of(data[:size])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digest.digest_file(tmp_path / "none")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ABC,
        f"SHA256:{ABC}",
        f"sha256:{ABC.upper()}",
        f"sha256:{ABC[:-1]}",
        f"sha256:{ABC}0",
        f"sha256:{ABC}\n",
        f"\nsha256:{ABC}",
        f" sha256:{ABC}",
        f"sha512:{ABC}",
        f"sha256:{ABC[:-1]}g",
        "sha256:" + "\u0661" * 64,
    ],
)
def test_only_one_spelling_is_a_digest(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Digest).validate_python(text)


def test_the_spelling_that_is() -> None:
    assert TypeAdapter(Digest).validate_python(f"sha256:{ABC}") == f"sha256:{ABC}"
    assert TypeAdapter(Hex32).validate_python(ABC) == ABC
    for text in (f"sha256:{ABC}", ABC.upper(), ABC + "\n", ABC[1:]):
        with pytest.raises(ValidationError):
            TypeAdapter(Hex32).validate_python(text)
