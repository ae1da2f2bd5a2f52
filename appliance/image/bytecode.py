"""Byte code for the image's Python files, compiled by the image's own interpreter.

Python would otherwise compile everything at each start, because the root is read-only. The compiler is the pinned one,
so the bytes do not depend on the Python that the builder runs: same interpreter, same files, same order, a fixed hash
seed, an empty environment. The files say that nobody is to check them against their source (PEP 552), which holds,
because both are in the same read-only image.

In the layers that the recipe calls sourceless the byte code stands in the place of its source file (`os.pyc` for
`os.py`): half the space, and the file that is measured at boot is the one that runs. The source is in the locked
package, and whoever builds the image compiles it.

The byte code is the same for all architectures; the interpreter that runs is that of the builder's machine.
"""

from __future__ import annotations

import platform
import posixpath
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from appliance.image.recipe import Architecture, ImageRecipe
from appliance.image.tree import Entry, Tree, file, materialise
from attest.errors import EnvironmentProblem, MalformedInput

TIMEOUT_S = 300
HOST: dict[str, Architecture] = {"x86_64": "amd64", "aarch64": "arm64"}
WHY = "byte code of the file above it: the root is read-only, and compiling at each start would take seconds"

_COMPILE = """
import os, py_compile, sys
root, listed = sys.argv[1:]
with open(listed, encoding="utf-8") as file:
    paths = file.read().splitlines()
for path in paths:
    source = root + path
    py_compile.compile(source, source + "c", path, True, 0, py_compile.PycInvalidationMode.UNCHECKED_HASH)
"""


def host_architecture(recipe: ImageRecipe) -> Architecture:
    """The architecture whose interpreter runs on this machine. Raises `EnvironmentProblem`."""
    found = HOST.get(platform.machine())
    if found is None or found not in recipe.architectures or platform.system() != "Linux":
        known = ", ".join(recipe.architectures)
        raise EnvironmentProblem(
            f"byte code is compiled by the image's own Python ({known}), which does not run on this "
            f"{platform.system()} on {platform.machine()}: build on such a machine"
        )
    return found


def compile_all(recipe: ImageRecipe, interpreter: Tree, trees: Sequence[tuple[str, Tree]]) -> dict[str, list[Entry]]:
    """The byte code of every Python file in `trees`, by layer. `interpreter` has the pinned Python of this machine.

    Each layer is compiled by a process of its own, so that its bytes depend on its own files alone. Raises
    `MalformedInput` for a file that does not compile, `EnvironmentProblem` where the interpreter does not run.
    """
    machine = recipe.machine(host_architecture(recipe))
    with tempfile.TemporaryDirectory(prefix="vitrine-") as name:
        root = Path(name) / "root"
        root.mkdir()
        materialise(interpreter, root)
        command = [str(root / machine.loader[1:]), "--library-path", str(root / "usr" / "lib" / machine.triplet)]
        command += [str(root / recipe.python.interpreter[1:]), "-s", "-P", "-S", "-B", "-c", _COMPILE]
        return {
            layer: _compile(recipe, command, tree, Path(name) / f"layer-{layer}", layer in recipe.python.sourceless)
            for layer, tree in trees
        }


def _compile(recipe: ImageRecipe, command: list[str], content: Tree, stage: Path, sourceless: bool) -> list[Entry]:
    """The byte code of one layer's files, compiled in the folder `stage`."""
    sources = [entry for entry in content.entries if entry.kind == "file" and entry.path.endswith(".py")]
    if not sources:
        return []
    for entry in sources:
        at = stage / entry.path[1:]
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(content.read(entry))
    listed = stage / "listed"
    listed.write_text("".join(f"{entry.path}\n" for entry in sources), "utf-8")
    command = [*command, str(stage), str(listed)]
    environment = {"PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentProblem(f"the image's own Python does not run here: {error}") from None
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[-4:])
        raise MalformedInput("image", f"expected Python files that compile; the image's Python said:\n{said}")
    compiled = [(entry, (stage / (entry.path[1:] + "c")).read_bytes()) for entry in sources]
    if sourceless:
        return [file(f"{entry.path}c", code, entry.package, f"{entry.reason}; byte code") for entry, code in compiled]
    return [file(_cached(recipe, entry.path), code, entry.package, WHY) for entry, code in compiled]


def _cached(recipe: ImageRecipe, path: str) -> str:
    folder, name = posixpath.split(path)
    tag = "cpython-" + recipe.python.version.replace(".", "")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"
