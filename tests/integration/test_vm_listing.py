"""The listing on the verified disk against the real thing: the image's own Python measures itself, natively."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from appliance.image import build, environment
from appliance.image import machine as machines
from appliance.image.cli import default_cache
from appliance.image.tree import materialise, merge
from attest.errors import EnvironmentProblem
from tests.conftest import ENGINES
from tests.unit import machine_parts

pytestmark = pytest.mark.slow
MEASURE = (
    "import sys; from appliance.measure import measure_python\n"
    "tree = measure_python()\n"
    "sys.stdout.buffer.write(b'%d\\n' % tree.size_bytes + tree.listing)"
)


def test_the_image_measures_itself_as_it_is_listed(tmp_path: Path) -> None:
    recipe = machine_parts.RECIPE
    try:
        planned = build.plan(
            recipe.parent / machines.load(recipe).base, architecture="amd64", cache=default_cache(), engines=ENGINES,
            progress=lambda _step: None,
        )  # fmt: skip
    except EnvironmentProblem as problem:
        pytest.skip(f"the image cannot be built here: {problem}")
    tree = merge(layer for _, layer in planned.trees)
    materialise(tree, tmp_path)
    enter = ["unshare", "--map-root-user"] if os.geteuid() else []
    done = subprocess.run(
        [*enter, "chroot", str(tmp_path), "/usr/bin/python3", "-I", "-c", MEASURE],
        capture_output=True,
        check=False,
        env={"LANG": "C.UTF-8", "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == tree.read(environment.listing(tree, "test"))
