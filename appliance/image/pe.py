"""Portable executables, as far as UEFI boots them: sections, the Authenticode digest, and sections added.

The reader is strict and bounded, because a digest is only worth something where firmware and we agree on which bytes
it covers: PE32+ only, sections in ascending order without overlap, nothing outside the file. The Authenticode digest
is the one that firmware extends into register 4 and that Secure Boot checks signatures over: all bytes but the
checksum, the entry of the certificate table, and the certificates themselves.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from attest.errors import MalformedInput

WHAT = "portable executable"
MAX_SECTIONS = 96
PE32_PLUS = 0x20B
HEADER_BYTES = 24
"""Signature and file header."""
SECTION_BYTES = 40
INITIALIZED_READABLE = 0x40000040
_SECTION = struct.Struct("<8sIIIIIIHHI")
_CERTIFICATES = 4
"""Index of the certificate table among the data directories."""


@dataclass(frozen=True)
class Section:
    """One section: where it lies in the file and in memory."""

    name: str
    """At most eight ASCII characters."""
    size: int
    """Bytes that mean something (`VirtualSize`)."""
    address: int
    """Where it is loaded, from the image's base."""
    stored: int
    """Bytes in the file: `size`, padded to the file alignment."""
    offset: int
    """Where they start in the file."""


@dataclass(frozen=True)
class Executable:
    """A parsed file. Offsets are those of fields in `data`."""

    data: bytes
    """The whole file."""
    sections: tuple[Section, ...]
    """In the order of the file."""
    header: int
    """Offset of the signature `PE`."""
    headers_bytes: int
    """Bytes of all headers together, padded."""
    table: int
    """Offset of the section table."""
    file_alignment: int
    """To which sections are padded in the file."""
    section_alignment: int
    """To which they are aligned in memory."""
    certificates: tuple[int, int]
    """Offset and size of the certificate table; 0, 0 where there is none."""
    directories: int
    """Number of data directories."""

    def section(self, name: str) -> bytes:
        """The content of the section called `name`, without padding. Raises `MalformedInput` where there is none."""
        for section in self.sections:
            if section.name == name:
                body = self.data[section.offset : section.offset + min(section.size, section.stored)]
                return body.ljust(section.size, b"\0")
        raise MalformedInput(WHAT, f"expected a section {name}, found {', '.join(s.name for s in self.sections)}")

    def has(self, name: str) -> bool:
        """Whether there is a section called `name`."""
        return any(section.name == name for section in self.sections)


def parse(data: bytes) -> Executable:
    """The executable in `data`. Raises `MalformedInput` with what was expected where."""
    if len(data) < 0x40 or data[:2] != b"MZ":
        raise MalformedInput(WHAT, "expected it to start with MZ")
    header = _u32(data, 0x3C, "the offset of the PE header")
    if header < 0x40 or data[header : header + 4] != b"PE\0\0":
        raise MalformedInput(WHAT, f"expected the signature PE at offset {header}")
    count, optional_bytes = _u16(data, header + 6, "sections"), _u16(data, header + 20, "optional header")
    optional = header + HEADER_BYTES
    if _u16(data, optional, "the magic") != PE32_PLUS or not 112 <= optional_bytes <= 0x1000:
        raise MalformedInput(WHAT, "expected a PE32+ optional header")
    section_alignment, file_alignment = _u32(data, optional + 32, "alignment"), _u32(data, optional + 36, "alignment")
    if not _power(file_alignment) or not _power(section_alignment) or file_alignment > section_alignment:
        raise MalformedInput(WHAT, f"expected alignments, found {file_alignment} and {section_alignment}")
    headers_bytes, directories = _u32(data, optional + 60, "headers"), _u32(data, optional + 108, "directories")
    if directories > 16 or 112 + 8 * directories > optional_bytes:
        raise MalformedInput(WHAT, f"expected at most 16 data directories, found {directories}")
    table = optional + optional_bytes
    if count > MAX_SECTIONS or not table + count * SECTION_BYTES <= headers_bytes <= len(data):
        raise MalformedInput(WHAT, f"expected {count} sections within {headers_bytes} bytes of headers")
    certificates = (0, 0)
    if directories > _CERTIFICATES:
        offset, size = struct.unpack_from("<II", data, optional + 112 + 8 * _CERTIFICATES)
        if size and (offset < headers_bytes or offset + size != len(data)):
            raise MalformedInput(WHAT, "expected the certificates at the end of the file")
        certificates = (offset, size) if size else (0, 0)
    sections = tuple(_read_section(data, table + SECTION_BYTES * number) for number in range(count))
    _check_order(sections, headers_bytes, len(data) - certificates[1])
    return Executable(
        data, sections, header, headers_bytes, table, file_alignment, section_alignment, certificates, directories
    )


def authenticode(data: bytes) -> bytes:
    """The Authenticode SHA-256 digest of the executable in `data`, 32 bytes. Raises `MalformedInput`."""
    image = parse(data)
    optional = image.header + HEADER_BYTES
    checksum, directory = optional + 64, optional + 112 + 8 * _CERTIFICATES
    state = hashlib.sha256(data[:checksum])
    if image.directories > _CERTIFICATES:
        state.update(data[checksum + 4 : directory])
        state.update(data[directory + 8 : image.headers_bytes])
    else:
        state.update(data[checksum + 4 : image.headers_bytes])
    done = image.headers_bytes
    for section in sorted(image.sections, key=lambda section: section.offset):
        state.update(data[section.offset : section.offset + section.stored])
        done += section.stored
    state.update(data[done : len(data) - image.certificates[1]])
    return state.digest()


def append(stub: bytes, added: Sequence[tuple[str, bytes]]) -> bytes:
    """The executable `stub` with the sections of `added` behind its own; timestamp and checksum are zero.

    A symbol table behind the stub's sections, which firmware does not read, is left out. Raises `MalformedInput` for a
    stub that is signed, has names in a table of strings, or no room in front of its first section.
    """
    image = parse(stub)
    if image.certificates[1] or any(section.name.startswith("/") for section in image.sections):
        raise MalformedInput(WHAT, "expected a stub without signature, and with short section names")
    end = max((section.offset + section.stored for section in image.sections), default=image.headers_bytes)
    symbols, count = struct.unpack_from("<II", stub, image.header + 12)
    if len(stub) != end and not (symbols == end and count):
        raise MalformedInput(WHAT, f"expected symbols behind the stub's sections, found {len(stub) - end} other bytes")
    table_end = image.table + SECTION_BYTES * (len(image.sections) + len(added))
    headers = _up(max(table_end, image.headers_bytes), image.file_alignment)
    if len(image.sections) + len(added) > MAX_SECTIONS or headers > min(s.address for s in image.sections):
        raise MalformedInput(WHAT, f"expected room for {len(added)} more sections in the stub's headers")
    shift = headers - image.headers_bytes
    head = bytearray(stub[: image.table + SECTION_BYTES * len(image.sections)])
    for number, section in enumerate(image.sections):
        if section.stored:
            struct.pack_into("<I", head, image.table + SECTION_BYTES * number + 20, section.offset + shift)
    body = bytearray(stub[image.headers_bytes : end])
    address = max(section.address + max(section.size, section.stored) for section in image.sections)
    initialized = _u32(stub, image.header + HEADER_BYTES + 8, "initialized data")
    for name, content in added:
        if image.has(name) or not content or len(name) > 8:
            raise MalformedInput(WHAT, f"expected a new section with content, found {name!r} of {len(content)} bytes")
        address = _up(address, image.section_alignment)
        stored = _up(len(content), image.file_alignment)
        fields = (len(content), address, stored, headers + len(body), 0, 0, 0, 0, INITIALIZED_READABLE)
        head += _SECTION.pack(name.encode("ascii"), *fields)
        body += content + bytes(stored - len(content))
        address += len(content)
        initialized += stored
    optional = image.header + HEADER_BYTES
    struct.pack_into("<H", head, image.header + 6, len(image.sections) + len(added))
    struct.pack_into("<III", head, image.header + 8, 0, 0, 0)  # the time of the link, and the symbol table
    struct.pack_into("<I", head, optional + 8, initialized)
    struct.pack_into("<II", head, optional + 56, _up(address, image.section_alignment), headers)
    struct.pack_into("<I", head, optional + 64, 0)  # the checksum, which UEFI does not read
    return bytes(head.ljust(headers, b"\0") + body)


def attach(image: bytes, table: bytes) -> bytes:
    """The executable `image` with the certificate table `table` at its end, on a border of eight bytes.

    Raises `MalformedInput` for an executable that has one already, or no place to say where it is.
    """
    executable = parse(image)
    if executable.certificates[1] or executable.directories <= _CERTIFICATES or len(image) % 8:
        raise MalformedInput(WHAT, "expected whole sections, room for a signature, and none yet")
    entry = executable.header + HEADER_BYTES + 112 + 8 * _CERTIFICATES
    return image[:entry] + struct.pack("<II", len(image), len(table)) + image[entry + 8 :] + table


def _read_section(data: bytes, at: int) -> Section:
    name, size, address, stored, offset, *_ = _SECTION.unpack_from(data, at)
    try:
        text = name.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise MalformedInput(WHAT, f"expected an ASCII section name, found {name!r}") from None
    return Section(text, size, address, stored, offset if stored else 0)


def _check_order(sections: Sequence[Section], start: int, end: int) -> None:
    """Firmware hashes sections in the order of the file; one that overlaps another would be hashed twice."""
    position = start
    for section in sorted((s for s in sections if s.stored), key=lambda section: section.offset):
        if section.offset != position:
            found = f"{section.name or 'one'} at {section.offset}"
            raise MalformedInput(WHAT, f"expected the next section at offset {position}, found {found}")
        position += section.stored
    if position > end:
        raise MalformedInput(WHAT, f"expected sections within {end} bytes, found them up to {position}")
    if len({section.name for section in sections}) != len(sections):
        raise MalformedInput(WHAT, "expected each section once")


def _power(value: int) -> bool:
    return 0 < value <= 1 << 16 and value & (value - 1) == 0


def _up(value: int, alignment: int) -> int:
    return (value + alignment - 1) // alignment * alignment


def _u16(data: bytes, at: int, what: str) -> int:
    return _number(data, at, 2, what)


def _u32(data: bytes, at: int, what: str) -> int:
    return _number(data, at, 4, what)


def _number(data: bytes, at: int, size: int, what: str) -> int:
    if at + size > len(data):
        raise MalformedInput(WHAT, f"expected {what} at offset {at}, found the end of the file")
    return int.from_bytes(data[at : at + size], "little")
