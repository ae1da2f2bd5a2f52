"""The one identity of everything pinned: `sha256:` and 64 lower-case hexadecimal digits over the content's bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
HEX_PATTERN = r"^[0-9a-f]{64}$"

Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]
"""`sha256:` and 64 lower-case hexadecimal digits."""

Hex32 = Annotated[str, StringConstraints(pattern=HEX_PATTERN)]
"""32 bytes as 64 lower-case hexadecimal digits, where the algorithm is fixed by the format (in-toto digest sets)."""


def sha256(first: bytes | memoryview = b"", *more: bytes | memoryview) -> bytes:
    """32 bytes: SHA-256 over the concatenation of the parts."""
    state = hashlib.sha256(first)
    for part in more:
        state.update(part)
    return state.digest()


def digest_of(data: bytes | memoryview) -> str:
    """The digest of `data`, as `sha256:hex`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of_several(digests: Sequence[str]) -> str:
    """One digest for several, in order: a single one stands for itself, else SHA-256 over the 32 bytes of each."""
    return digests[0] if len(digests) == 1 else digest_of(b"".join(raw(digest) for digest in digests))


def digest_file(path: Path) -> str:
    """The digest of the file at `path`, as `sha256:hex`. Raises `OSError`."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def raw(digest: str) -> bytes:
    """The 32 bytes of a `sha256:hex` digest that was validated before."""
    return bytes.fromhex(digest.removeprefix("sha256:"))
