"""Predicts the launch measurement (MRTD) of a confidential VM under Intel TDX: it covers the firmware alone.

The firmware (TDVF) lists the sections of memory that a trust domain starts with. The TDX module extends MRTD, a SHA-384
over everything in order, by the address of each page that is added (TDH.MEM.PAGE.ADD) and, in sections that ask for it,
by address and content of each 256 bytes (TDH.MR.EXTEND). The boot file is measured later, by the firmware, into RTMRs.

Two orders are in use, and the host's kernel decides: each page is added and then extended (Linux 6.16 and later), or
all pages of a section are added and then all of them extended (some kernels that distributions shipped before).

Sources: Intel TDX Virtual Firmware Design Guide, sections 11.1 and 11.2; Intel TDX Module Base Architecture
Specification, "MRTD: Build-Time Measurement Register".
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from appliance.image import firmware as firmwares
from attest.canonical import validate
from attest.digest import digest_file
from attest.errors import MalformedInput, Unsupported
from attest.reference import TdxLaunch

Order = Literal["page", "section"]

METADATA = "e47a6535-984a-4798-865e-4685a7bf8ec2"
"""GUID of the table's entry that says where the metadata is, in bytes before the firmware's end."""
DESCRIPTOR = struct.Struct("<4sIII")
"""Signature, length, version and number of sections."""
SECTION = struct.Struct("<IIQQII")
"""Offset and size of its content in the file; address and size in memory; type; attributes."""
EXTENDED, AUGMENTED = 1, 2
"""Attributes: the content is measured; the pages are added after the launch and not measured."""
PAGE_BYTES = 4096
CHUNK_BYTES = 256
MAX_SECTIONS = 64
MAX_MEMORY_BYTES = 256 << 20
"""Of all sections together: a few MiB are usual."""
WHAT = "TDX firmware"


@dataclass(frozen=True)
class Section:
    """A part of memory that the trust domain starts with."""

    address: int
    """Where it is, a whole number of pages."""
    pages: int
    """How many pages it has."""
    content: bytes
    """What the file holds for it; the rest of its memory is zeros."""
    extended: bool
    """Whether its content is measured."""

    def page(self, number: int) -> bytes:
        """One page of it, 4,096 bytes."""
        return self.content[number * PAGE_BYTES : (number + 1) * PAGE_BYTES].ljust(PAGE_BYTES, b"\0")


def launch(firmware: Path, *, order: Order = "page") -> TdxLaunch:
    """The MRTD of a trust domain that `firmware` starts, on a host that measures in `order`.

    Raises `Unsupported` for firmware without TDX metadata or of another version, `MalformedInput` for firmware that is
    none, `EnvironmentProblem` without the file or the library that reads its table.
    """
    measured = hashlib.sha384()
    for section in _sections(firmware):
        pages = range(section.pages)
        if order == "page":
            for number in pages:
                measured.update(_added(section, number) + _extended(section, number))
        else:
            for measure in (_added, _extended):
                for number in pages:
                    measured.update(measure(section, number))
    fields = {
        "platform": "tdx",
        "measurement": measured.hexdigest(),
        "firmware": digest_file(firmware),
        "order": order,
    }
    return validate(TdxLaunch, fields, "launch measurement")


def _added(section: Section, number: int) -> bytes:
    """What TDH.MEM.PAGE.ADD extends MRTD by for one page: 128 bytes."""
    return _buffer(b"MEM.PAGE.ADD", section.address + number * PAGE_BYTES)


def _extended(section: Section, number: int) -> bytes:
    """What TDH.MR.EXTEND extends MRTD by for one page: 384 bytes a chunk; nothing where its content is not measured."""
    if not section.extended:
        return b""
    page, address = section.page(number), section.address + number * PAGE_BYTES
    return b"".join(
        _buffer(b"MR.EXTEND", address + offset) + page[offset : offset + CHUNK_BYTES]
        for offset in range(0, PAGE_BYTES, CHUNK_BYTES)
    )


def _buffer(name: bytes, address: int) -> bytes:
    return (name.ljust(16, b"\0") + address.to_bytes(8, "little")).ljust(128, b"\0")


def _sections(path: Path) -> list[Section]:
    """The sections that are part of the launch, in the file's order."""
    found = firmwares.read(path)
    data = found.data()
    try:
        entry = found.table_item(METADATA)
    except KeyError:
        raise Unsupported(WHAT, "expected TDX metadata (a TDVF, such as OVMF built since 2022), found none") from None
    start = len(data) - int.from_bytes(entry[:4], "little")
    if len(entry) != 4 or not 0 <= start <= len(data) - DESCRIPTOR.size:
        raise MalformedInput(WHAT, "expected where the metadata is, found a place outside of the file")
    signature, _, version, count = DESCRIPTOR.unpack_from(data, start)
    if signature != b"TDVF":
        raise MalformedInput(WHAT, f"expected metadata that begins with TDVF, found {signature!r}")
    if version != 1:
        raise Unsupported(WHAT, f"expected metadata of version 1, found {version}")
    start += DESCRIPTOR.size
    if not 1 <= count <= MAX_SECTIONS or start + count * SECTION.size > len(data):
        raise MalformedInput(WHAT, f"expected 1 to {MAX_SECTIONS} sections inside of the file, found {count}")
    fields = list(SECTION.iter_unpack(data[start : start + count * SECTION.size]))
    if (total := sum(size for _, _, _, size, _, _ in fields)) > MAX_MEMORY_BYTES:
        raise MalformedInput(WHAT, f"expected sections of at most {MAX_MEMORY_BYTES} bytes, found {total}")
    return [_section(data, one) for one in fields if not one[-1] & AUGMENTED]


def _section(data: bytes, fields: tuple[int, ...]) -> Section:
    offset, raw_bytes, address, memory_bytes, _, attributes = fields
    if address % PAGE_BYTES or memory_bytes % PAGE_BYTES or address + memory_bytes > 1 << 64:
        raise MalformedInput(WHAT, f"expected sections of whole pages, found {memory_bytes} bytes at {address:#x}")
    if raw_bytes > memory_bytes or offset + raw_bytes > len(data):
        raise MalformedInput(WHAT, f"expected a section's content inside of the file, found {raw_bytes} at {offset}")
    return Section(address, memory_bytes // PAGE_BYTES, data[offset : offset + raw_bytes], bool(attributes & EXTENDED))
