"""The kernel's list of measured files (IMA), in its text form, and its replay to register 10.

Templates `ima`, `ima-ng`, `ima-sig`. Each entry's template hash is recomputed from its fields and compared with the
listed one; the register's other banks are extended by the template's hash in their own algorithm (Linux 5.8 and newer).
A violation (a file that was open for writing while it was measured) is listed as zeros and extends ones; it names a
file and says nothing of its contents.

Source: Linux, Documentation/security/IMA-templates.rst, security/integrity/ima/ima_fs.c and ima_template_lib.c.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from attest.errors import MalformedInput, Unsupported
from attest.tpm.layout import SIZES, Hash

WHAT: Final = "IMA list"
REGISTER: Final = 10
MAX_BYTES: Final = 16 << 20
MAX_ENTRIES: Final = 1 << 17
NAME_BYTES: Final = 256
"""To which the `ima` template fills up a path."""
Template = Literal["ima", "ima-ng", "ima-sig"]
FIELDS: Final = {"ima": 2, "ima-ng": 2, "ima-sig": 3}


@dataclass(frozen=True)
class Entry:
    """One measured file."""

    template: Template
    """The form of the entry."""
    hash: Hash
    """With which hash the file was hashed."""
    digest: bytes
    """The file's digest; zeros for a violation."""
    path: str
    """The file, as the kernel saw it: spaces and all."""
    signature: bytes
    """The signature in the file's `security.ima`; empty without one. Not verified."""
    violation: bool
    """Whether the file could change while it was measured: its digest is not known."""


def parse(data: bytes) -> tuple[Entry, ...]:
    """The entries in `data`, one a line. Raises `MalformedInput`, `Unsupported`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    if not data.endswith(b"\n"):
        raise MalformedInput(WHAT, "expected lines that end, found none, or a last one that is cut")
    lines = data[:-1].split(b"\n")
    if len(lines) > MAX_ENTRIES:
        raise MalformedInput(WHAT, f"expected at most {MAX_ENTRIES} entries, found {len(lines)}")
    return tuple(_entry(number, line) for number, line in enumerate(lines, 1))


def values(entries: tuple[Entry, ...], bank: Hash) -> Iterator[bytes]:
    """The values of register 10 in `bank`: at the start, and after each entry."""
    value = bytes(SIZES[bank])
    yield value
    for entry in entries:
        extended = b"\xff" * SIZES[bank] if entry.violation else hashlib.new(bank, template_data(entry)).digest()
        value = hashlib.new(bank, value + extended).digest()
        yield value


def template_data(entry: Entry) -> bytes:
    """What an entry's template hash is over."""
    path = entry.path.encode("utf-8", "surrogateescape")
    if entry.template == "ima":
        return entry.digest + path.ljust(NAME_BYTES, b"\0")
    fields = [entry.hash.encode() + b":\0" + entry.digest, path + b"\0"]
    if entry.template == "ima-sig":
        fields.append(entry.signature)
    return b"".join(struct.pack("<I", len(field)) + field for field in fields)


def _entry(number: int, line: bytes) -> Entry:
    what = f"{WHAT}, line {number}"
    # A path may hold any byte but a line's end; it is kept as Python keeps paths, and goes back to the same bytes.
    register, template_hash, template, *rest = [*line.decode("utf-8", "surrogateescape").split(" ", 3), "", "", ""][:4]
    if register != str(REGISTER):
        raise MalformedInput(what, f"expected register {REGISTER}, found {register[:20]!r}")
    if template not in FIELDS:
        raise Unsupported(what, f"expected template {', '.join(FIELDS)}, found {template[:40]!r}")
    listed = _hex(what, template_hash)
    named, _, path = rest[0].partition(" ")
    signature = b""
    if template == "ima-sig":
        # The signature follows the path, after a space that stands there also without one.
        path, _, text = path.rpartition(" ")
        signature = _hex(what, text) if text else b""
    hash_, digest = _digest(what, named, template)
    violation = not any(listed)
    entry = Entry(cast("Template", template), hash_, digest, path, signature, violation)
    if not path or (template == "ima" and len(path.encode("utf-8", "surrogateescape")) >= NAME_BYTES):
        raise MalformedInput(what, "expected the path of a file")
    by_size = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}.get(len(listed))
    if by_size is None:
        raise MalformedInput(what, f"expected a template hash, found one of {len(listed)} bytes")
    computed = hashlib.new(by_size, template_data(entry)).digest()
    if not violation and not hmac.compare_digest(computed, listed):
        raise MalformedInput(what, f"expected template hash {computed.hex()}, found {listed.hex()}")
    return entry


def _digest(what: str, text: str, template: str) -> tuple[Hash, bytes]:
    name, _, digits = text.rpartition(":")
    if template == "ima":
        name, digits = "sha1", text
    if name not in get_args(Hash):
        raise Unsupported(what, f"expected a digest of SHA-1 or SHA-2, found {name[:40]!r}")
    hash_, digest = cast("Hash", name), _hex(what, digits)
    if len(digest) != SIZES[hash_]:
        raise MalformedInput(what, f"expected {SIZES[hash_]} bytes of {hash_}, found {len(digest)}")
    return hash_, digest


def _hex(what: str, text: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if not data or data.hex() != text:
        raise MalformedInput(what, f"expected lower-case hexadecimal digits, found {text[:80]!r}")
    return data
