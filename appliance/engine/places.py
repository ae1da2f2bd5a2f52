"""Where engines lie: in the checkout that one was built in, or in the user's cache."""

from __future__ import annotations

from pathlib import Path

from appliance import resources
from appliance.lock import RECORD
from attest.errors import EnvironmentProblem


def cached(name: str) -> Path:
    """The folder in the user's cache for the engine called `name`: its profile, and where it is for another
    architecture, that."""
    return resources.cache("engine", name)


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
