"""The file listing of an image: for every entry where it is, what it is, which package it is of, and why it is there.

JSON lines, canonical, layer by layer in their order, attached to the image. The layers themselves carry no package and
no reason, so a reader compares the two (`inspect.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from appliance.image.recipe import Name
from appliance.image.tree import Tree
from attest import canonical
from attest.canonical import Model, dump_model
from attest.digest import Hex32
from attest.errors import MalformedInput

MAX_LINES = 200_000


class Line(Model):
    """One entry."""

    layer: Name
    """The layer that it is in."""
    path: Annotated[str, Field(pattern=r"^/", max_length=255)]
    """Where it is."""
    kind: Literal["dir", "file", "link"]
    """What it is."""
    mode: Annotated[str, Field(pattern=r"^[01][0-7]{3}$")]
    """Permissions, octal."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Size of a file, 0 for the rest."""
    sha256: Hex32 | None = None
    """SHA-256 of a file."""
    target: str | None = None
    """Where a link leads."""
    package: str
    """The package that it is of; `recipe` for what the recipe itself brings."""
    why: str
    """Why it is there."""


def dump(trees: Iterable[tuple[str, Tree]]) -> bytes:
    """The listing of an image's layers."""
    lines = []
    for layer, one in trees:
        for entry in one.entries:
            line = Line(
                layer=layer,
                path=entry.path,
                kind=entry.kind,
                mode=f"{entry.mode:04o}",
                size_bytes=entry.size_bytes,
                sha256=entry.sha256 or None,
                target=entry.target,
                package=entry.package,
                why=entry.reason,
            )
            lines.append(dump_model(line) + b"\n")
    return b"".join(lines)


def read(data: bytes) -> Sequence[Line]:
    """The lines of a listing. Raises `MalformedInput`."""
    lines = data.split(b"\n")
    if lines.pop() != b"" or len(lines) > MAX_LINES:
        raise MalformedInput("file listing", f"expected at most {MAX_LINES} whole lines, found others")
    return [canonical.parse(Line, line, f"file listing, line {number}") for number, line in enumerate(lines, 1)]
