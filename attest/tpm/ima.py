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
from typing import Final, Literal, NamedTuple, get_args

from attest.errors import MalformedInput, Unsupported
from attest.tpm.layout import SIZES, Hash

WHAT: Final = "IMA list"
REGISTER: Final = 10
REGISTER_TEXT: Final = b"10"
MAX_BYTES: Final = 16 << 20
MAX_ENTRIES: Final = 1 << 17
NAME_BYTES: Final = 256
"""To which the `ima` template fills up a path."""
Template = Literal["ima", "ima-ng", "ima-sig"]
TEMPLATES: Final[dict[bytes, Template]] = {name.encode(): name for name in get_args(Template)}
HASHES: Final[dict[bytes, Hash]] = {name.encode(): name for name in get_args(Hash)}
FUNCTIONS: Final = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}
BY_SIZE: Final = {size: FUNCTIONS[name] for name, size in SIZES.items()}


class Entry(NamedTuple):
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
    hashed: bytes
    """What the entry's template hash is over."""


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
    function, violation, value = FUNCTIONS[bank], b"\xff" * SIZES[bank], bytes(SIZES[bank])
    yield value
    for entry in entries:
        value = function(value + (violation if entry.violation else function(entry.hashed).digest())).digest()
        yield value


def _entry(number: int, line: bytes) -> Entry:
    what = f"{WHAT}, line {number}"
    # A path may hold any byte but a line's end; it is kept as Python keeps paths.
    register, template_hash, template, rest = [*line.split(b" ", 3), b"", b"", b""][:4]
    if register != REGISTER_TEXT:
        raise MalformedInput(what, f"expected register {REGISTER}, found {register[:20]!r}")
    kind = TEMPLATES.get(template)
    if kind is None:
        raise Unsupported(what, f"expected template {', '.join(TEMPLATES.values())}, found {template[:40]!r}")
    listed = _hex(what, template_hash)
    named, _, path = rest.partition(b" ")
    signature = b""
    if kind == "ima-sig":
        # The signature follows the path, after a space that stands there also without one.
        path, _, text = path.rpartition(b" ")
        signature = _hex(what, text) if text else b""
    hash_, digest = _digest(what, named, kind)
    if not path or (kind == "ima" and len(path) >= NAME_BYTES):
        raise MalformedInput(what, "expected the path of a file")
    if len(listed) not in BY_SIZE:
        raise MalformedInput(what, f"expected a template hash, found one of {len(listed)} bytes")
    if kind == "ima":
        hashed = digest + path.ljust(NAME_BYTES, b"\0")
    else:
        hashed = _field(b"%s:\0%s" % (hash_.encode(), digest)) + _field(path + b"\0")
        hashed += _field(signature) if kind == "ima-sig" else b""
    violation, computed = not any(listed), BY_SIZE[len(listed)](hashed).digest()
    if not violation and computed != listed:
        raise MalformedInput(what, f"expected template hash {computed.hex()}, found {listed.hex()}")
    name = path.decode("utf-8", "surrogateescape")
    return Entry(kind, hash_, digest, name, signature, violation, hashed)


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _digest(what: str, text: bytes, template: str) -> tuple[Hash, bytes]:
    name, _, digits = (b"sha1", b"", text) if template == "ima" else text.rpartition(b":")
    hash_ = HASHES.get(name)
    if hash_ is None:
        shown = name[:40].decode(errors="backslashreplace")
        raise Unsupported(what, f"expected a digest of SHA-1 or SHA-2, found {shown!r}")
    digest = _hex(what, digits)
    if len(digest) != SIZES[hash_]:
        raise MalformedInput(what, f"expected {SIZES[hash_]} bytes of {hash_}, found {len(digest)}")
    return hash_, digest


def _hex(what: str, text: bytes) -> bytes:
    try:
        data = binascii.unhexlify(text)
    except ValueError:
        data = b""
    if not data or binascii.hexlify(data) != text:
        raise MalformedInput(what, f"expected lower-case hexadecimal digits, found {text[:80]!r}")
    return data
