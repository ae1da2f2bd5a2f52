"""Builds an image again in another process, folder and environment, from recipes that tests write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from appliance.image import recipe
from appliance.image.cli import default_cache
from appliance.image.recipe import ImageRecipe
from tests.conftest import ENGINES, ROOT


def toml(value: object) -> str:
    """A value as inline TOML: JSON's spelling but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def write_recipe(made: ImageRecipe, folder: Path) -> Path:
    """A recipe as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    value = made.model_dump(mode="json", exclude_none=True)
    path = folder / "small.toml"
    path.write_text("".join(f"{key} = {toml(item)}\n" for key, item in value.items()))
    assert recipe.load(path) == made
    return path


BUILD = """
import os, sys
os.umask(int(sys.argv[1], 8))
from pathlib import Path
from appliance.image import build
path, out, cache, engines = map(Path, sys.argv[2:])
print(build.build(path, out, architecture="amd64", cache=cache, engines=engines, progress=lambda text: None).digest)
"""


def digests(folder: Path) -> dict[str, str]:
    """Every file of a layout with its digest and mode."""
    return {
        str(path.relative_to(folder)): f"{path.stat().st_mode:o} {sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def checkout(folder: Path) -> Path:
    """A copy of what an image takes from a checkout: nobody edits it while the builds are compared."""
    for name in ("appliance", "attest", "policy"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def build_elsewhere(project: Path, path: Path, out: Path, umask: str, uid: str = "", **environment: str) -> str:
    """Build in another process, from the checkout `project`, as another user where `uid` is; the image's digest."""
    home = out.with_name(f"{out.name}-home")
    home.mkdir(parents=True)
    command = [sys.executable, "-c", BUILD, umask, *map(str, (path, out, default_cache(), ENGINES))]
    if uid and shutil.which("bwrap"):
        user = ["--unshare-user", "--uid", uid, "--gid", uid]
        command = ["bwrap", "--dev-bind", "/", "/", *user, "--", *command]
    environment |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(project), "HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=home, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
