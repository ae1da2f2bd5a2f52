"""The proof that a log grew from one tree to another, as a file: the request of C2SP tlog-witness (add-checkpoint).

    old 17
    <hash, base64>                 the RFC 6962 consistency proof, none to 63 lines

    <signed checkpoint>            of the grown tree

Refused by `check`: a proof from another size than that of the tree that was kept, a checkpoint that no trusted log
signed, a tree that is smaller, and one that does not begin with the kept tree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from attest import merkle
from attest.checkpoint import (
    LAYER,
    MAX_NOTE_CHARS,
    Checkpoint,
    TrustedLog,
    check_consistency,
    check_cosigned,
    check_order,
)
from attest.dsse import b64decode, b64encode
from attest.errors import MalformedInput, VerificationError

WHAT = "proof of growth"
MAX_HASHES = 63
MAX_BYTES = 4 * MAX_NOTE_CHARS


@dataclass(frozen=True)
class Growth:
    """A proof whose form is right."""

    old_size: int
    """Leaves of the tree that it starts from."""
    hashes: tuple[bytes, ...]
    """The proof, 32 bytes each."""
    note: str
    """The signed checkpoint of the grown tree, as received."""


def parse(data: bytes) -> Growth:
    """The proof in `data`. Raises `MalformedInput`."""
    try:
        text = data[: MAX_BYTES + 1].decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedInput(WHAT, "expected UTF-8, found other bytes") from None
    head, blank, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    size = re.fullmatch(r"old (0|[1-9][0-9]{0,15})", first)
    if len(data) > MAX_BYTES or not size or not blank or len(lines) > MAX_HASHES:
        raise MalformedInput(WHAT, f"expected 'old SIZE', at most {MAX_HASHES} hashes, a blank line and a checkpoint")
    try:
        hashes = tuple(b64decode(line) for line in lines)
    except ValueError as error:
        raise MalformedInput(WHAT, str(error)) from None
    if any(len(one) != merkle.HASH_BYTES for one in hashes):
        raise MalformedInput(WHAT, f"expected hashes of {merkle.HASH_BYTES} bytes")
    return Growth(int(size[1]), hashes, note)


def write(growth: Growth) -> bytes:
    """The bytes of the file."""
    lines = [f"old {growth.old_size}", *(b64encode(one) for one in growth.hashes)]
    return ("\n".join(lines) + "\n\n" + growth.note).encode()


def check(growth: Growth, old: Checkpoint, new: Checkpoint, logs: Sequence[TrustedLog]) -> None:
    """`new` extends `old`, by this proof. Both were checked before; the proof's own checkpoint is that of `new`.

    Raises `VerificationError` (layer `log`), `MalformedInput`.
    """
    check_order(old, new)
    proven = check_cosigned(growth.note, logs)
    for code, expected, found, what in (
        ("proof-start", old.size, growth.old_size, f"--old {old.size}"),
        ("proof-end", new.note.text, proven.note.text, "--new, and the checkpoint that it is about"),
    ):
        if expected != found:
            advice = f"ask the lab for another: appliance log prove {what}"
            raise VerificationError(LAYER, code, expected=expected, found=found, advice=advice)
    check_consistency(old, new, growth.hashes)
