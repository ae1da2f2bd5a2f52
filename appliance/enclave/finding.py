"""One thing that a host was examined for, as data: what was found, what needs it, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from attest.canonical import Model

State = Literal["ok", "missing", "unusable"]
"""`ok`: there, and tried where a trial is cheap. `missing`: not there. `unusable`: there, but it does not do."""

Need = Literal["process", "container", "vm", "attestation", "engine", "secrecy", "building"]
"""What needs a thing: a wall, evidence by hardware, an engine, keeping secrets, or building images."""

MAX_FOUND_CHARS = 300


class Finding(Model):
    """What became of looking for one thing."""

    id: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    """Names it for programs; it never changes."""
    name: str
    """What it is, for people."""
    state: State
    """Whether it can be used."""
    found: str = Field(max_length=MAX_FOUND_CHARS)
    """What was found: a version, a size, an error."""
    needed_for: tuple[Need, ...]
    """What needs it."""
    advice: str = ""
    """What its absence means, and the command or setting that gives it; empty where the state is `ok`."""


def ok(identifier: str, name: str, found: str, needed_for: Iterable[Need]) -> Finding:
    """A thing that can be used."""
    return _make(identifier, name, "ok", found, needed_for, "")


def missing(identifier: str, name: str, found: str, needed_for: Iterable[Need], advice: str) -> Finding:
    """A thing that is not there."""
    return _make(identifier, name, "missing", found, needed_for, advice)


def unusable(identifier: str, name: str, found: str, needed_for: Iterable[Need], advice: str) -> Finding:
    """A thing that is there and does not do."""
    return _make(identifier, name, "unusable", found, needed_for, advice)


def _make(identifier: str, name: str, state: State, found: str, needed_for: Iterable[Need], advice: str) -> Finding:
    text = "".join(char if char.isprintable() else " " for char in found).strip()
    return Finding(
        id=identifier,
        name=name,
        state=state,
        found=text if len(text) <= MAX_FOUND_CHARS else text[: MAX_FOUND_CHARS - 3] + "...",
        needed_for=tuple(needed_for),
        advice=advice,
    )
