"""The kernel's list of measured files (IMA), in its text form, and its replay to register 10.

Templates `ima`, `ima-ng`, `ima-sig`. Each entry's template hash is recomputed from its fields and compared with the
listed one; the register's other banks are extended by the template's hash in their own algorithm (Linux 5.8 and newer).
A violation (a file that was open for writing while it was measured) is listed as zeros and extends ones; it names a
file and says nothing of its contents.

Source: Linux, Documentation/security/IMA-templates.rst, security/integrity/ima/ima_fs.c and ima_template_lib.c.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from attest.errors import MalformedInput, Unsupported
from attest.tpm.layout import SIZES, Hash

WHAT: Final = "IMA list"
REGISTER: Final = 10
MAX_BYTES: Final = 16 << 20
MAX_ENTRIES: Final = 1 << 17
NAME_BYTES: Final = 256
"""To which the `ima` template fills up a path."""
TEMPLATES: Final = (b"ima", b"ima-ng", b"ima-sig")
FUNCTIONS: Final = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}
BY_DIGITS: Final = {2 * size: FUNCTIONS[name] for name, size in SIZES.items()}
"""The hash of which a template hash is, by the number of its digits."""
SHAPES: Final = {
    name.encode(): (2 * size, (len(name) + 2 + size).to_bytes(4, "little") + name.encode() + b":\0")
    for name, size in SIZES.items()
}
"""Of a file's digest: how many digits it has, and what stands before it in what a template hash is over."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that the kernel measured. No model: there are thousands, made here of what was checked."""

    path: str
    """The file, as the kernel saw it: spaces and all; bytes that are not UTF-8 are replaced."""
    digest: str
    """Its digest, `sha256:hex`; zeros for a violation."""
    violation: bool
    """Whether it could change while it was measured: its digest is not known."""


Entry = tuple[File, bytes]
"""A file, and what the template hash of its line is over."""


def parse(data: bytes) -> tuple[Entry, ...]:
    """The entries in `data`, one a line. Raises `MalformedInput`, `Unsupported`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    if not data.endswith(b"\n"):
        raise MalformedInput(WHAT, "expected lines that end, found none, or a last one that is cut")
    lines = data[:-1].split(b"\n")
    if len(lines) > MAX_ENTRIES:
        raise MalformedInput(WHAT, f"expected at most {MAX_ENTRIES} entries, found {len(lines)}")
    return tuple([_entry(number, line) for number, line in enumerate(lines, 1)])


def values(entries: tuple[Entry, ...], bank: Hash) -> Iterator[bytes]:
    """The values of register 10 in `bank`: at the start, and after each entry."""
    function, violation, value = FUNCTIONS[bank], b"\xff" * SIZES[bank], bytes(SIZES[bank])
    yield value
    for file, hashed in entries:
        value = function(value + (violation if file.violation else function(hashed).digest())).digest()
        yield value


def _entry(number: int, line: bytes) -> Entry:
    fields = line.split(b" ", 4)
    if fields[0] != b"10":
        raise _malformed(number, f"expected register {REGISTER}, found {fields[0][:20]!r}")
    if len(fields) != 5:
        raise _malformed(number, "expected register, template hash, template, digest and path")
    _, listed, template, named, path = fields  # a path may hold any byte but a line's end
    if template not in TEMPLATES:
        raise _unsupported(number, f"expected template ima, ima-ng or ima-sig, found {template[:40]!r}")
    signature = b""
    if template == b"ima":
        named = b"sha1:" + named
    elif template == b"ima-sig":
        # The signature follows the path, after a space that stands there also without one.
        path, _, text = path.rpartition(b" ")
        signature = _hex(number, text) if text else b""
    if not path or (template == b"ima" and len(path) >= NAME_BYTES):
        raise _malformed(number, "expected the path of a file")
    head, digest = _digest(number, named)
    if template == b"ima":
        hashed = digest + path.ljust(NAME_BYTES, b"\0")
    else:
        hashed = head + digest + _size(path, 1) + path + b"\0"
    if template == b"ima-sig":
        hashed += _size(signature) + signature
    function = BY_DIGITS.get(len(listed))
    if function is None:
        raise _malformed(number, f"expected a template hash, found {listed[:150]!r}")
    computed = function(hashed).hexdigest().encode()
    violation = computed != listed
    if violation and listed.strip(b"0"):
        raise _malformed(number, f"expected template hash {computed.decode()}, found {listed!r}")
    return File(path.decode("utf-8", "replace"), named.decode("ascii"), violation), hashed


def _size(data: bytes, more: int = 0) -> bytes:
    return (len(data) + more).to_bytes(4, "little")


def _digest(number: int, named: bytes) -> tuple[bytes, bytes]:
    """The digest of a file, `sha256:hex`, as bytes, and what stands before it in what is hashed."""
    name, _, digits = named.partition(b":")
    shape = SHAPES.get(name)
    if shape is None:
        shown = name[:40].decode(errors="backslashreplace")
        raise _unsupported(number, f"expected a digest of SHA-1 or SHA-2, found {shown!r}")
    length, head = shape
    if len(digits) != length:
        raise _malformed(number, f"expected {length} digits of {name.decode()}, found {len(digits)}")
    return head, _hex(number, digits)


def _hex(number: int, text: bytes) -> bytes:
    try:
        data = binascii.unhexlify(text)
    except ValueError:
        data = b""
    if not data or text != text.lower():
        raise _malformed(number, f"expected lower-case hexadecimal digits, found {text[:80]!r}")
    return data


def _malformed(number: int, detail: str) -> MalformedInput:
    return MalformedInput(f"{WHAT}, line {number}", detail)


def _unsupported(number: int, detail: str) -> Unsupported:
    return Unsupported(f"{WHAT}, line {number}", detail)
