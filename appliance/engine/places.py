"""Where engines are: the checkout's `build/engine`, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.lock import RECORD
from attest.errors import EnvironmentProblem


def cached(profile: str) -> Path:
    """The folder of a profile's engine in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "vitrine" / "engine" / profile


def find(given: Path | None, profile: str) -> Path:
    """The folder of the engine of `profile`: the one given, the checkout's, or the user's cache.

    Raises `EnvironmentProblem` where there is none.
    """
    places = [given] if given else [Path("build/engine") / profile, cached(profile)]
    for place in places:
        if (place / RECORD).exists():
            return place
    raise EnvironmentProblem(
        f"expected an engine in {' or '.join(map(str, places))}, found none: build it with `appliance engine build "
        f"--profile {profile}` (2 to 12 minutes, needs a C++ compiler), or name its folder with --engine"
    )
