"""Lists the Python environment of a tree as `appliance.measure` lists that of a process: the same names, lines, bytes.

The verified root disk carries this listing, so that the machine need not hash ninety megabytes that the kernel compares
with their hashes anyway as it reads them. What is listed and what is on the disk come from the same entries, and both
are below the one root hash.
"""

from __future__ import annotations

import posixpath
import re

from appliance.image.tree import Entry, Tree, file
from appliance.measure import LISTING, LOCK_NAME, listing_line
from attest.errors import MalformedInput

WHY = "the digests of the Python environment, which the verified disk makes needless to compute again"
PLACES = (
    (re.compile(r"/usr/local/lib/python3\.\d+/dist-packages/(?P<rest>(?:appliance|attest)/.+)"), "project"),
    (re.compile(r"/usr/local/lib/python3\.\d+/dist-packages/(?P<rest>.+)"), "site"),
    (re.compile(r"/usr/lib/python3\.\d+/(?!(?:.+/)?(?:site|dist)-packages/)(?P<rest>.+)"), "stdlib"),
    (re.compile(r"/usr/bin/(?P<rest>python3\.\d+)"), "python"),
)
"""Where a Debian Python has its files, and the prefix that they bear in a listing."""


def listing(content: Tree, package: str) -> Entry:
    """The file with the listing of the environment in `content`. Raises `MalformedInput` where there is none."""
    wanted = {name: entry for entry in content.entries if (name := _name(entry.path)) and entry.kind != "dir"}
    found = {name: _followed(content, entry) for name, entry in wanted.items()}
    if "python/interpreter" not in found:
        raise MalformedInput("Python environment", "expected an interpreter /usr/bin/python3.N, found none")
    size = sum(entry.size_bytes for entry in found.values())
    lines = (listing_line(name, entry.sha256) for name, entry in sorted(found.items()))
    return file(str(LISTING), b"%d\n" % size + b"".join(lines), package, WHY)


def _followed(content: Tree, entry: Entry) -> Entry:
    """The file that `entry` is, or that it leads to, because a process that measures reads through a link."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.target or entry.path))
    at = content.by_path.get(path)
    if at is None or at.kind != "file":
        raise MalformedInput("Python environment", f"expected files, and links to files, found {entry.path}")
    return at


def _name(path: str) -> str:
    """The name of the file `path` in a listing; empty where it is not part of the environment."""
    if "/__pycache__/" in path:
        return ""
    for place, prefix in PLACES:
        if match := place.fullmatch(path):
            if prefix == "python":
                return "python/interpreter"
            return "" if prefix == "project" and path.endswith(f"/{LOCK_NAME}") else f"{prefix}/{match['rest']}"
    return ""
