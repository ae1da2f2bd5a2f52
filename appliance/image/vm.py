"""Building the measured virtual machine from its recipe, and making the lock that it needs.

1. read recipe and lock                                appliance.image.machine
2. plan the base image: all files of the OCI image     appliance.image.build
3. fetch kernel and boot stub, compare                 appliance.image.store
4. compile init, compare with the lock                 appliance.image.init
5. write root disk, boot file and reference values     appliance.image.assemble, .measure
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from appliance.image import assemble, build, init, lock, machine, recipe
from appliance.image.assemble import Signing
from appliance.image.debs import Apt
from appliance.image.lock import Locked
from appliance.image.machine import MachineLock, MachineRecipe
from appliance.image.store import Progress, Store
from appliance.image.tree import Tree, merge
from attest.canonical import validate
from attest.errors import MalformedInput
from attest.reference import ReferenceValues


def build_image(
    path: Path,
    out: Path,
    *,
    cache: Path,
    engines: Path,
    leave_out: Collection[str] = (),
    signing: Signing | None = None,
    progress: Progress,
) -> ReferenceValues:
    """Build the recipe at `path` into the new folder `out`, signed for Secure Boot with `signing`.

    Raises our errors; nothing is left after one.
    """
    wanted = machine.load(path)
    locked = machine.read_lock(lock.path_of(path), wanted)
    root = base_tree(path, wanted, cache=cache, engines=engines, leave_out=leave_out, progress=progress)
    items = {item.name: item for item in locked.files}
    with Store(recipe.load(path.parent / wanted.base), cache, progress) as store:

        def fetch(name: str) -> bytes:
            if name not in items:
                raise MalformedInput("machine lock", f"expected package {name} in it, found {', '.join(items)}")
            return store.fetch(items[name], wanted.architecture)

        progress("writing")
        return assemble.build(wanted, locked, root, path.parent, fetch, out, signing)


def base_tree(
    path: Path,
    wanted: MachineRecipe,
    *,
    cache: Path,
    engines: Path,
    leave_out: Collection[str] = (),
    progress: Progress,
) -> Tree:
    """The files of the base image of the recipe at `path`: all of its layers, in one tree."""
    planned = build.plan(
        path.parent / wanted.base,
        architecture=wanted.architecture,
        cache=cache,
        engines=engines,
        leave_out=leave_out,
        progress=progress,
    )
    return merge(layer for _, layer in planned.trees)


def make_lock(path: Path, *, progress: Progress) -> MachineLock:
    """The lock of the recipe at `path`, with what apt and the compiler give today. It is not written.

    Raises `EnvironmentProblem` where apt cannot be asked or the compiler is missing.
    """
    wanted = machine.load(path)
    with tempfile.TemporaryDirectory(prefix="vitrine-apt-") as folder:
        progress("asking apt for its packages")
        apt = Apt(Path(folder), wanted.architecture)
        apt.update()
        found = apt.show(wanted.packages())
    files = tuple(
        validate(
            Locked,
            {
                "kind": "deb",
                "name": item.name,
                "version": item.version,
                "architecture": item.architecture,
                "filename": f"{item.name}_{item.version.replace(':', '%3a')}_{item.architecture}.deb",
                "digest": f"sha256:{item.sha256}",
                "size_bytes": item.size_bytes,
            },
            f"package {item.name}",
        )
        for item in found
    )
    progress("compiling init")
    _, compiled = init.compile_init((path.parent / wanted.init).read_bytes())
    return MachineLock(recipe_digest=wanted.digest(), files=files, init=compiled)
