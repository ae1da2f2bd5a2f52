"""The other side of the ratios: upstream's own programs, built from the same pinned source distribution.

`python -m tests.bench.stock_tools` builds llama-bench, llama-batched-bench and llama-server into
`build/bench/stock-tools/bin`, with shared libraries that llama-cpp-python can load too. The source is the one of
`images/engine/stock.toml`, compared by size and SHA-256 before it is unpacked; the kernels are upstream's defaults
(llamafile and repack on) for the same instruction set as ours, and OpenMP is off on both sides. No flag of ours that
hardens or patches the engine is in it. An interrupted build goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from appliance.engine.recipe import EngineRecipe, load_recipe
from appliance.engine.source import fetch, read_source, unpack
from attest.digest import digest_of
from attest.errors import EnvironmentProblem

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "build" / "bench" / "stock-tools"
BIN = HOME / "bin"
PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-server")
TOOLS = {
    "BUILD_SHARED_LIBS": "ON",
    "LLAMA_BUILD_COMMON": "ON",
    "LLAMA_BUILD_TOOLS": "ON",
    "LLAMA_BUILD_SERVER": "ON",
    "LLAMA_BUILD_UI": "OFF",
    # Programs and libraries find each other wherever the folder lies.
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
}
"""What differs from the stock recipe: its library is for Python alone."""


def definitions(recipe: EngineRecipe) -> dict[str, str]:
    """The CMake definitions of the build."""
    return {**recipe.definitions, **TOOLS}


def environment() -> dict[str, str]:
    """The caller's environment without what would steer the programs, for every stock side."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GGML_", "LLAMA_"))}


def ensure(jobs: int = 2) -> Path:
    """The folder of the programs, built now if it is not there. Raises `EnvironmentProblem`."""
    recipe = load_recipe(ROOT / "images" / "engine" / "stock.toml")
    wanted = digest_of(json.dumps([recipe.source.digest, definitions(recipe)], sort_keys=True).encode())
    stamp = HOME / "ready"
    if stamp.is_file() and stamp.read_text() == wanted and all((BIN / name).is_file() for name in PROGRAMS):
        return BIN
    tree = HOME / "source" / recipe.source.digest.removeprefix("sha256:")[:16]
    if not tree.is_dir():
        data = read_source(fetch(recipe.source, ROOT / "build" / "engine" / "source", _say), recipe.source)
        shutil.rmtree(HOME / "source", ignore_errors=True)
        partial = HOME / "source" / "partial"
        partial.parent.mkdir(parents=True)
        unpack(data, recipe.source, partial)
        partial.rename(tree)
    objects = HOME / "objects"
    configure = ["cmake", "-S", str(tree / recipe.source.root), "-B", str(objects), "-G", "Ninja"]
    configure += [f"-D{name}={value}" for name, value in sorted(definitions(recipe).items())]
    _run("configuring the stock tools", configure)
    _run("compiling the stock tools", ["ninja", "-C", str(objects), f"-j{jobs}", *PROGRAMS])
    if not BIN.exists():
        BIN.symlink_to("objects/bin")
    stamp.write_text(wanted)
    return BIN


def _run(step: str, command: list[str]) -> None:
    """Run a build step with its output in `build.log`; it is the same compiler that builds ours."""
    _say(f"{step}, see {HOME / 'build.log'}", None)
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
    started = time.monotonic()
    with (HOME / "build.log").open("ab") as log:
        done = subprocess.run(
            command, env={**environment(), "PATH": path}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    if done.returncode != 0:
        raise EnvironmentProblem(f"{step} failed with status {done.returncode}, see {HOME / 'build.log'}")
    _say(f"{step}: {time.monotonic() - started:.0f} s", None)


def _say(what: str, _part: float | None) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Build the programs and print their folder."""
    parser = argparse.ArgumentParser(description="build upstream's own programs for the benchmarks")
    parser.add_argument("--jobs", type=int, default=2)
    print(ensure(parser.parse_args().jobs))


if __name__ == "__main__":
    main()
