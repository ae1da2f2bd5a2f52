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
from dataclasses import dataclass
from pathlib import Path

from appliance.image import assemble, build, init, listing, lock, machine, measure, sbom
from appliance.image.assemble import Signing
from appliance.image.build import Plan
from appliance.image.debs import Apt
from appliance.image.lock import Locked
from appliance.image.machine import MachineLock, MachineRecipe
from appliance.image.store import Progress, Store
from appliance.image.tree import merge
from attest.canonical import validate
from attest.errors import MalformedInput
from attest.reference import ReferenceValues


@dataclass(frozen=True)
class BuiltMachine:
    """A measured VM's image that was written."""

    values: ReferenceValues
    """What it measures to."""
    recipe: MachineRecipe
    """Its recipe."""
    lock: MachineLock
    """Its lock."""
    plan: Plan
    """The base image, whose files are the root disk."""

    @property
    def digest(self) -> str:
        """SHA-256 of the boot file, which names the root disk."""
        return next(item.digest for item in self.values.files if item.name == measure.BOOT_FILE)


def build_image(
    path: Path,
    out: Path,
    *,
    cache: Path,
    engines: Path,
    leave_out: Collection[str] = (),
    signing: Signing | None = None,
    progress: Progress,
) -> BuiltMachine:
    """Build the recipe at `path` into the new folder `out`, signed for Secure Boot with `signing`.

    Raises our errors; nothing is left after one.
    """
    wanted = machine.load(path)
    locked = machine.read_lock(lock.path_of(path), wanted)
    planned = build.plan(
        path.parent / wanted.base,
        architecture=wanted.architecture,
        cache=cache,
        engines=engines,
        leave_out=leave_out,
        progress=progress,
    )
    items = {item.name: item for item in locked.files}
    with Store(planned.recipe, cache, progress, wanted.releases()) as store:

        def fetch(name: str) -> bytes:
            if name not in items:
                raise MalformedInput("machine lock", f"expected package {name} in it, found {', '.join(items)}")
            return store.fetch(items[name], wanted.architecture)

        progress("writing")
        root = assemble.complete(wanted, merge(layer for _, layer in planned.trees))
        papers = {
            measure.FILES: listing.dump([("root", root)]),
            measure.SBOM: sbom.dump_machine(
                wanted, locked, planned.recipe, planned.part, planned.trees, planned.engine, planned.license_of
            ),
        }
        values = assemble.build(wanted, locked, root, path.parent, fetch, out, papers, signing)
    return BuiltMachine(values, wanted, locked, planned)


def make_lock(path: Path, *, progress: Progress) -> MachineLock:
    """The lock of the recipe at `path`, with what apt and the compiler give today. It is not written.

    Raises `EnvironmentProblem` where apt cannot be asked or the compiler is missing.
    """
    wanted = machine.load(path)
    with tempfile.TemporaryDirectory(prefix="vitrine-apt-") as folder:
        progress("asking apt for its packages")
        apt = Apt(Path(folder), wanted.architecture, wanted.releases())
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
