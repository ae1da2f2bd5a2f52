"""The transcript: JSON lines, hash-chained as they are written; samples are leaves of a salted RFC 6962 tree.

One line is the canonical JSON of `{"kind", "prev", "record", "seq"}`:

- `kind` is `open`, `sample` or `close`; exactly one `open` comes first, and at most one `close` comes last;
- `prev` is the digest of the line before (of `GENESIS` for the first), without its newline;
- `record` is the canonical JSON of what happened; `seq` counts from 0.

The writer puts a line together from bytes and never parses `record`; the reader here is strict about all of it.
A sample's leaf is `salt || record`, with `salt = HMAC-SHA-256(salt key, label || index)`, so that one sample can be
opened or withheld later without giving away its neighbours.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from attest import canonical, merkle
from attest.canonical import JSON, MAX_DEPTH, Model
from attest.digest import Hex32, digest_of
from attest.errors import MalformedInput, VerificationError, VitrineError

GENESIS = b"vitrine/transcript/v1"
SALT_LABEL = b"vitrine/leaf-salt/v1"
SALT_BYTES = 32
MAX_LINE_BYTES = 16 << 20
Kind = Literal["open", "sample", "close"]
BEGINNINGS: dict[bytes, Kind] = {b'{"kind":"%s"' % kind.encode(): kind for kind in get_args(Kind)}
"""How the lines of each kind begin."""


class Disclosure(Model):
    """What opens all samples at once. It travels beside the signed manifest, not in it, and can be held back."""

    format: Literal["vitrine/disclosure/v1"] = "vitrine/disclosure/v1"
    """The format's name and version."""
    salt_key: Hex32
    """The key of the leaves' salts."""


class Line(NamedTuple):
    """One line of a transcript that was read and found in its place in the chain."""

    kind: Kind
    raw_record: bytes
    """The record, canonical JSON, exactly as it stands in the line."""

    @property
    def record(self) -> JSON:
        """The record's value, made of its bytes anew: all at once would take several times their memory."""
        return canonical.loads(self.raw_record, "transcript record")


@dataclass(frozen=True)
class Transcript:
    """A whole transcript whose chain holds."""

    lines: tuple[Line, ...]
    head: str
    """The digest of the last line."""

    @property
    def samples(self) -> list[Line]:
        """The samples, in the order in which they were written."""
        return [line for line in self.lines if line.kind == "sample"]

    @property
    def opening(self) -> JSON:
        """The record of the `open` line."""
        return self.lines[0].record

    @property
    def closing(self) -> JSON | None:
        """The record of the `close` line, or None for a transcript that was cut off."""
        return self.lines[-1].record if self.lines[-1].kind == "close" else None


def frame_line(kind: Kind, prev: str, record: bytes, seq: int) -> bytes:
    """One line without its newline. `record` is canonical JSON already, and is not looked into.

    Raises `MalformedInput` when it cannot stand in one bounded line.
    """
    if b"\n" in record or b"\r" in record or not record:
        raise MalformedInput("transcript record", "expected one line of JSON, found none or several")
    line = b'{"kind":"%s","prev":"%s","record":%s,"seq":%d}' % (kind.encode(), prev.encode(), record, seq)
    if len(line) > MAX_LINE_BYTES:
        raise MalformedInput("transcript record", f"expected at most {MAX_LINE_BYTES} bytes, found {len(line)}")
    return line


def line_digest(kind: Kind, prev: str, record: bytes, seq: int) -> str:
    """The digest of one line: the chain's head after it."""
    return digest_of(frame_line(kind, prev, record, seq))


def genesis() -> str:
    """What the first line's `prev` holds."""
    return digest_of(GENESIS)


def read(data: bytes) -> Transcript:
    """The transcript in `data`. Raises `MalformedInput` for its form and `VerificationError` for its chain."""
    if not data.endswith(b"\n"):
        raise MalformedInput("transcript", "expected a newline at its end, found a line cut short")
    prev = genesis()
    lines: list[Line] = []
    for seq, raw in enumerate(data[:-1].split(b"\n")):
        line = _read_line(raw, prev, seq)
        if (line.kind == "open") != (seq == 0) or (lines and lines[-1].kind == "close"):
            raise MalformedInput("transcript", f"line {seq}: {line.kind!r} is out of place")
        lines.append(line)
        prev = digest_of(raw)
    return Transcript(tuple(lines), prev)


def read_prefix(data: bytes) -> Transcript:
    """The lines of `data` up to where it was cut off: a last line without its end, and a `close`, are left out.

    Raises `MalformedInput` and `VerificationError` as `read` does, and for a transcript without its first line.
    """
    whole, _, _ = data.rpartition(b"\n")
    found = read(whole + b"\n")
    if found.closing is None:
        return found
    return Transcript(found.lines[:-1], digest_of(whole.split(b"\n")[-2]))


def _read_line(raw: bytes, prev: str, seq: int) -> Line:
    what = f"transcript line {seq}"
    if len(raw) > MAX_LINE_BYTES:
        raise MalformedInput(what, f"expected at most {MAX_LINE_BYTES} bytes, found {len(raw)}")
    # All of a line but its record is known beforehand, byte for byte.
    beginning, link, rest = raw.partition(b',"prev":"%s","record":' % prev.encode())
    kind, end = BEGINNINGS.get(beginning), b',"seq":%d}' % seq
    if kind is None or not link or not rest.endswith(end):
        raise _misplaced(raw, prev, seq, what)
    record = rest[: -len(end)]
    canonical.loads_canonical(record, what, levels=MAX_DEPTH - 1)
    return Line(kind, record)


def _misplaced(raw: bytes, prev: str, seq: int, what: str) -> VitrineError:
    """What is wrong with a line that is not the one after `prev`: its form, or its place."""
    value = canonical.loads_canonical(raw, what)
    known = isinstance(value, dict) and set(value) == {"kind", "prev", "record", "seq"}
    if not known or value["kind"] not in get_args(Kind) or isinstance(value["seq"], bool):
        return MalformedInput(what, "expected an object of kind, prev, record and seq")
    return VerificationError("transcript", "chain", expected=f"line {seq} after {prev}", found=value["prev"])


def salt(key: bytes, index: int) -> bytes:
    """The 32 bytes that blind sample `index`; `key` is the run's 32-byte salt key."""
    return hmac.digest(key, SALT_LABEL + index.to_bytes(8, "big"), "sha256")


def leaves(records: Iterable[bytes], key: bytes) -> Iterator[bytes]:
    """The leaf of each sample record, in order."""
    for index, record in enumerate(records):
        yield salt(key, index) + record


def root(records: Iterable[bytes], key: bytes) -> str:
    """The root of the tree over all sample records, as `sha256:hex`."""
    return "sha256:" + merkle.root([merkle.leaf_hash(leaf) for leaf in leaves(records, key)]).hex()
