"""Lists of keys and digests that UEFI Secure Boot accepts or refuses (PK, KEK, db, dbx), and updates of them.

No signature is checked: a list counts when a register explains it, an update when its publisher is trusted.
Source: UEFI 2.10, 32.4.1 (EFI_SIGNATURE_LIST), 8.2.2 (EFI_VARIABLE_AUTHENTICATION_2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from attest.digest import sha256
from attest.errors import Unsupported
from attest.tpm.reader import Reader

WHAT: Final = "Secure Boot list"
KINDS: Final[dict[UUID, Literal["x509", "sha256"]]] = {
    UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072"): "x509",
    UUID("c1c41626-504c-4092-aca9-41f936934328"): "sha256",
}
"""EFI_CERT_X509_GUID, EFI_CERT_SHA256_GUID."""
MAX_ENTRIES: Final = 8192
TIME_BYTES: Final = 16


@dataclass(frozen=True)
class Entry:
    """One key or digest."""

    kind: Literal["x509", "sha256"]
    """A certificate, or the Authenticode digest of a program."""
    owner: UUID
    """Who put it there, by its own account."""
    data: bytes
    """DER of the certificate, or the 32 bytes of the digest."""

    @property
    def digest(self) -> bytes:
        """32 bytes that name it: the digest itself, or SHA-256 over the certificate."""
        return self.data if self.kind == "sha256" else sha256(self.data)


def parse(data: bytes) -> tuple[Entry, ...]:
    """The entries of several EFI_SIGNATURE_LISTs, one after the other. Raises `MalformedInput`, `Unsupported`."""
    reader = Reader(data, WHAT, "<")
    entries: list[Entry] = []
    while reader.left:
        kind = UUID(bytes_le=reader.take(16))
        size, header_size, entry_size = reader.numbers("III")
        if kind not in KINDS:
            raise Unsupported(WHAT, f"expected certificates or SHA-256 digests, found {kind}")
        count, over = divmod(size - 28 - header_size, entry_size) if entry_size > 16 else (-1, 0)
        if header_size or over or not 0 <= count <= MAX_ENTRIES - len(entries):
            raise reader.malformed(f"expected entries of {entry_size} bytes in {size} bytes")
        if KINDS[kind] == "sha256" and entry_size != 16 + 32:
            raise reader.malformed(f"expected digests of 32 bytes, found entries of {entry_size}")
        for _ in range(count):
            owner = UUID(bytes_le=reader.take(16))
            entries.append(Entry(KINDS[kind], owner, reader.take(entry_size - 16)))
    return tuple(entries)


def update(data: bytes) -> tuple[Entry, ...]:
    """The entries that an update file (`dbxupdate_x64.bin`) adds. Raises `MalformedInput`, `Unsupported`."""
    reader = Reader(data, WHAT, "<")
    reader.take(TIME_BYTES)
    size, revision, kind = reader.numbers("IHH")
    if (revision, kind) != (0x0200, 0x0EF1) or size < 24:
        raise reader.malformed("expected an update with its PKCS #7 signature (WIN_CERT_TYPE_EFI_GUID)")
    reader.take(size - 8)
    return parse(reader.rest())
