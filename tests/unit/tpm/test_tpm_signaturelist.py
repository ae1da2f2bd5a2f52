"""Lists of Secure Boot, byte by byte: sizes have to add up, kinds are known, and an update is one."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest

from attest.digest import sha256
from attest.errors import MalformedInput, Unsupported
from attest.tpm import signaturelist

X509, SHA256 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072"), UUID("c1c41626-504c-4092-aca9-41f936934328")
OWNER = UUID(int=7)


def listed(*entries: bytes, kind: UUID = SHA256, header: int = 0, entry: int | None = None, more: int = 0) -> bytes:
    """An EFI_SIGNATURE_LIST of `entries`, with the sizes of header and entry that it says, and a size off by `more`."""
    entry = 16 + len(entries[0]) if entry is None else entry
    body = b"".join(OWNER.bytes_le + data for data in entries)
    return kind.bytes_le + struct.pack("<III", 28 + len(body) + more, header, entry) + body


def updated(lists: bytes, *, revision: int = 0x0200, kind: int = 0x0EF1, size: int | None = None) -> bytes:
    """An EFI_VARIABLE_AUTHENTICATION_2 with 16 bytes of type and 4 of signature."""
    return bytes(16) + struct.pack("<IHH", 28 if size is None else size, revision, kind) + bytes(20) + lists


def test_entries_are_read() -> None:
    found = signaturelist.parse(listed(b"a" * 32, b"b" * 32) + listed(b"x", kind=X509) + listed(b"yy", kind=X509))
    assert [(entry.kind, entry.owner, entry.data) for entry in found] == [
        ("sha256", OWNER, b"a" * 32), ("sha256", OWNER, b"b" * 32), ("x509", OWNER, b"x"), ("x509", OWNER, b"yy"),
    ]  # fmt: skip
    assert [entry.digest for entry in found] == [b"a" * 32, b"b" * 32, sha256(b"x"), sha256(b"yy")]
    assert signaturelist.parse(b"") == ()


def test_lists_are_bounded() -> None:
    most = listed(*[bytes(32)] * signaturelist.MAX_ENTRIES)
    assert len(signaturelist.parse(most)) == signaturelist.MAX_ENTRIES
    for data in (listed(*[bytes(32)] * (signaturelist.MAX_ENTRIES + 1)), most + listed(bytes(32))):
        with pytest.raises(MalformedInput, match="expected entries of 48 bytes"):
            signaturelist.parse(data)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (listed(bytes(32), header=48), "expected entries of"),
        (listed(bytes(32), header=1, more=1) + b"x", "expected entries of"),
        (listed(bytes(32), more=1), "expected entries of"),
        (listed(bytes(32), more=-1), "expected entries of"),
        (listed(bytes(32), more=-28 - 48), "expected entries of"),
        (listed(b"", kind=X509), "expected entries of 16 bytes"),
        (listed(b"", kind=X509, entry=0), "expected entries of 0 bytes"),
        (listed(bytes(31)), "expected digests of 32 bytes"),
        (listed(bytes(33)), "expected digests of 32 bytes"),
        (listed(bytes(32))[:-1], "bytes"),
    ],
)
def test_sizes_that_do_not_add_up_are_malformed(data: bytes, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        signaturelist.parse(data)


def test_other_kinds_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="certificates or SHA-256 digests"):
        signaturelist.parse(listed(bytes(32), kind=UUID(int=1)))


def test_a_list_may_have_no_entry() -> None:
    assert signaturelist.parse(listed(bytes(32), more=-48)[:28]) == ()


def test_an_update_is_read() -> None:
    lists = listed(b"a" * 32)
    assert signaturelist.update(updated(lists)) == signaturelist.parse(lists)
    bare = bytes(16) + struct.pack("<IHH", 24, 0x0200, 0x0EF1) + bytes(16)
    assert signaturelist.update(bare + lists) == signaturelist.parse(lists)
    for data in (
        updated(lists, revision=0x0100),
        updated(lists, kind=0x0EF0),
        updated(lists, size=23),
        bytes(16) + struct.pack("<IHH", 8, 0x0200, 0x0EF1) + lists,
        updated(lists, size=1000),
    ):
        with pytest.raises(MalformedInput):
            signaturelist.update(data)
