"""What a sealed worker may read: the Python installation that runs it, so that late imports keep working.

Shared libraries are not among it, because a sealed worker can map no code: engines and extension modules are loaded
before the seal.
"""

from __future__ import annotations

import site
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from attest.sealplan import ReadOnlyPath


def interpreter_paths() -> tuple[ReadOnlyPath, ...]:
    """The standard library, the installed packages and this project, as the running interpreter finds them."""
    sites = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    found = [("python-site", path) for path in dict.fromkeys(sites) if Path(path).is_dir()]
    found += [("vitrine", path) for name in ("appliance", "attest") for path in _package(name)]
    return (*library_paths(), *(ReadOnlyPath(role=role, path=path) for role, path in found))


def library_paths() -> tuple[ReadOnlyPath, ...]:
    """The standard library alone."""
    return (ReadOnlyPath(role="python-stdlib", path=sysconfig.get_path("stdlib")),)


def _package(name: str) -> list[str]:
    spec = find_spec(name)
    return list(spec.submodule_search_locations or []) if spec else []
