"""A tree of files, as data: what an image consists of, before any archive or file system is made of it.

Every entry says which package it is of, and why it is there. Owner and group are always 0, the time of every entry is
the recipe's; neither is part of a tree. Entries are sorted by path, which puts parents before what is in them.

Refused (`MalformedInput`): a path that is not absolute and normal, two entries with one path, an entry whose parent is
missing or no folder, a mode beyond read, write and execute (a folder may be sticky), a link that leads out.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import re
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal

from attest import canonical
from attest.digest import digest_of
from attest.errors import MalformedInput

Kind = Literal["dir", "file", "link"]
PATH = re.compile(r"(/[^/\x00-\x1f\x7f]+)+")
MAX_PATH_BYTES = 255
"""Of a path: so much fits into a plain tar header, and into every file system."""
WRITABLE_BY_ALL = 0o002
STICKY = 0o1000


@dataclass(frozen=True)
class Entry:
    """One folder, file or symbolic link."""

    path: str
    """Absolute and normal, such as `/usr/bin/python3`."""
    kind: Kind
    """What it is."""
    mode: int
    """Its permissions; 0o777 for a link."""
    source: Path | bytes | None
    """A file's content, or the file that holds it; None for the rest."""
    target: str | None
    """Where a link leads: relative to its folder; None for the rest."""
    package: str
    """The package that it is of, such as `libc6` or `numpy`."""
    reason: str
    """Why it is there."""

    @property
    def size_bytes(self) -> int:
        """Size of a file; 0 for the rest."""
        if self.source is None:
            return 0
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of a file's content as 64 hexadecimal digits; empty for the rest."""
        if self.source is None:
            return ""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).hexdigest()
        with self.source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Tree:
    """A checked set of entries, parents before children. `tree` makes one."""

    entries: tuple[Entry, ...]
    """Sorted by path."""

    def read(self, entry: Entry) -> bytes:
        """The content of a file. Raises `OSError`."""
        with open_content(entry) as content:
            return content.read()

    @cached_property
    def by_path(self) -> dict[str, Entry]:
        """The entries by their path."""
        return {entry.path: entry for entry in self.entries}

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.size_bytes for entry in self.entries)

    def listing(self) -> bytes:
        """One line of canonical JSON for each entry: path, kind, mode, and digest or target. No package, no reason."""
        lines = []
        for entry in self.entries:
            line: dict[str, str] = {"path": entry.path, "kind": entry.kind, "mode": f"{entry.mode:04o}"}
            if entry.kind == "file":
                line["sha256"] = entry.sha256
            elif entry.target is not None:
                line["target"] = entry.target
            lines.append(canonical.dumps(line) + b"\n")
        return b"".join(lines)

    def digest(self) -> str:
        """SHA-256 over the listing: what the files are, not why."""
        return digest_of(self.listing())


def tree(entries: Iterable[Entry]) -> Tree:
    """The tree of `entries`; folders that are missing above them are added, mode 0755. Raises `MalformedInput`."""
    found: dict[str, Entry] = {}
    for entry in entries:
        check(entry)
        other = found.get(entry.path)
        if other is None:
            found[entry.path] = entry
        elif not (entry.kind == other.kind == "dir" and entry.mode == other.mode):
            problem = f"expected {entry.path} once, found it of {other.package} and of {entry.package}"
            raise MalformedInput("tree", problem)
    for entry in list(found.values()):
        for parent in _parents(entry.path):
            above = found.setdefault(parent, folder(parent, entry.package, entry.reason))
            if above.kind != "dir":
                raise MalformedInput("tree", f"expected {parent} to be a folder for {entry.path}, found a {above.kind}")
    return Tree(tuple(found[path] for path in sorted(found)))


def merge(trees: Iterable[Tree]) -> Tree:
    """One tree of several: folders may be in more than one, nothing else may. Raises `MalformedInput`."""
    return tree(entry for one in trees for entry in one.entries)


def folder(path: str, package: str, reason: str, mode: int = 0o755) -> Entry:
    """A folder."""
    return Entry(path, "dir", mode, None, None, package, reason)


def file(path: str, content: Path | bytes, package: str, reason: str, *, executable: bool = False) -> Entry:
    """A file, mode 0644 or 0755."""
    return Entry(path, "file", 0o755 if executable else 0o644, content, None, package, reason)


def link(path: str, target: str, package: str, reason: str) -> Entry:
    """A symbolic link; an absolute `target` is made relative, so that it holds wherever the tree is unpacked."""
    if target.startswith("/"):
        target = posixpath.relpath(target, posixpath.dirname(path))
    return Entry(path, "link", 0o777, None, target, package, reason)


def open_content(entry: Entry) -> BinaryIO:
    """A file's content as a stream: models are too large for memory. Raises `OSError`."""
    if entry.source is None:
        raise ValueError(f"expected a file, found the {entry.kind} {entry.path}")
    return io.BytesIO(entry.source) if isinstance(entry.source, bytes) else entry.source.open("rb")


def check(entry: Entry) -> None:
    """Raises `MalformedInput` unless the entry alone is sound."""
    path = entry.path
    if not PATH.fullmatch(path) or posixpath.normpath(path) != path or len(path.encode()) > MAX_PATH_BYTES:
        expected = f"an absolute, normal path of at most {MAX_PATH_BYTES} bytes"
        raise MalformedInput("tree", f"expected {expected}, found {path[:300]!r}")
    allowed = 0o777 | (STICKY if entry.kind == "dir" else 0)
    open_to_all = entry.kind != "link" and entry.mode & WRITABLE_BY_ALL and not entry.mode & STICKY
    if entry.mode & ~allowed or open_to_all:
        expected = "permissions without set-user-id or set-group-id that not everybody may write"
        raise MalformedInput("tree", f"{path}: expected {expected}, found {entry.mode:04o}")
    if (entry.kind == "file") != (entry.source is not None) or (entry.kind == "link") != bool(entry.target):
        raise MalformedInput("tree", f"{path}: expected a {entry.kind} with what belongs to it, and nothing else")
    if entry.target is not None:
        _check_target(path, entry.target)


def materialise(content: Tree, into: Path, *, seconds: int = 0) -> None:
    """Write the tree below the folder `into`, which has to exist and be empty; times are `seconds`. Raises `OSError`.

    Modes do not depend on the umask. Owner is whoever calls. Nothing is written through a link.
    """
    for entry in content.entries:
        at = into / entry.path[1:]
        if entry.kind == "dir":
            at.mkdir(mode=0o700)
        elif entry.kind == "link":
            at.symlink_to(str(entry.target))
        else:
            descriptor = os.open(at, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                with open_content(entry) as source:
                    shutil.copyfileobj(source, out)
                os.fchmod(descriptor, entry.mode)
    # Folders last, from the inside out: what is in them no longer changes their times, or needs to be writable.
    for entry in reversed(content.entries):
        at = into / entry.path[1:]
        if entry.kind == "dir":
            at.chmod(entry.mode)
        os.utime(at, (seconds, seconds), follow_symlinks=False)


def is_executable(bits: int) -> bool:
    """Whether a file with these permissions is executable for anybody."""
    return bool(bits & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH))


def _parents(path: str) -> list[str]:
    parts = path.split("/")[1:-1]
    return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]


def _check_target(path: str, target: str) -> None:
    """A link may lead anywhere in the tree, and nowhere else, as long as no folder on its way is a link."""
    depth = path.count("/") - 1
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            raise MalformedInput("tree", f"{path}: expected a link that stays in the image, found {target[:300]!r}")
    if target.startswith("/") or re.search(r"[\x00-\x1f\x7f]", target):
        raise MalformedInput("tree", f"{path}: expected a relative link, found {target[:300]!r}")
