"""Where the project's data files lie: in a checkout beside the packages, in an installed wheel inside this one; and
what it keeps for a user."""

from __future__ import annotations

import os
from pathlib import Path

from attest.errors import MalformedInput

_PACKAGE = Path(__file__).resolve().parent


def demo() -> Path:
    """The embedded default: model organism, suites, data and job."""
    return _PACKAGE / "demo"


def images() -> Path:
    """Recipes and pins of the engine and the images."""
    return _data("images")


def policy() -> Path:
    """Seccomp allow-lists, appraisal policies and the published schemas."""
    return _data("policy")


def cache(*parts: str) -> Path:
    """A folder of ours in the user's cache. Nothing is made there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vitrine", *parts)


def inside(path: str) -> Path:
    """Where the resource `demo/...`, `images/...` or `policy/...` lies. Raises `MalformedInput` for other paths."""
    top, *parts = path.split("/")
    folders = {"demo": demo, "images": images, "policy": policy}
    if top not in folders or not parts or any(part in ("", ".", "..") for part in parts):
        raise MalformedInput("resource", f"expected demo/, images/ or policy/ and a file in it, found {path[:200]!r}")
    return folders[top]().joinpath(*parts)


def _data(name: str) -> Path:
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
