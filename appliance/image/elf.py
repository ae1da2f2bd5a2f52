"""Leaves of a program or library what is loaded: symbols for debuggers and the table of sections stay out.

What the kernel and the dynamic loader read lies in segments; what follows the last of them, only linkers, debuggers
and `objdump` read. Cutting there is a few lines and the same bytes everywhere, where a tool would be one more version.

Source: System V ABI, ELF-64 object file format; `elf.h`.
"""

from __future__ import annotations

import struct

from attest.errors import MalformedInput

MAGIC = b"\x7fELF\x02\x01"
"""64 bits, little-endian."""
HEADER_BYTES, SEGMENT_BYTES, SECTION_BYTES = 64, 56, 64
_SEGMENTS = struct.Struct("<Q")
_HEADER_END = struct.Struct("<HHHHHH")
"""Bytes of the header; bytes and number of segments; bytes, number and names of sections."""


def is_elf(data: bytes) -> bool:
    """Whether `data` is such a file."""
    return data.startswith(MAGIC)


def stripped(data: bytes) -> bytes:
    """The file `data` up to the end of its last segment, without a table of sections. Raises `MalformedInput`."""
    if not is_elf(data) or len(data) < HEADER_BYTES:
        raise MalformedInput("ELF file", "expected a 64-bit file, found another")
    [first] = _SEGMENTS.unpack_from(data, 32)
    size, each, count, *_ = _HEADER_END.unpack_from(data, 52)
    if size != HEADER_BYTES or each != SEGMENT_BYTES or not count or first + count * each > len(data):
        raise MalformedInput("ELF file", f"expected {count} segments at offset {first}, found the end of the file")
    ends = [first + count * each]
    for number in range(count):
        offset, _, _, stored = struct.unpack_from("<QQQQ", data, first + number * each + 8)
        ends.append(offset + stored)
    end = max(ends)
    if end > len(data):
        raise MalformedInput("ELF file", f"expected segments of {end} bytes, found {len(data)}")
    header = bytearray(data[:HEADER_BYTES])
    struct.pack_into("<Q", header, 40, 0)  # where the sections are
    _HEADER_END.pack_into(header, 52, size, each, count, SECTION_BYTES, 0, 0)
    return bytes(header) + data[HEADER_BYTES:end]
