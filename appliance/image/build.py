"""Building an image: packages in, an OCI image layout out, the same bytes every time. Making the lock that it needs.

1. read recipe and lock                            appliance.image.recipe, .lock
2. fetch the packages, compare each                appliance.image.store
3. choose their files by the rules: trees          appliance.image.contents
4. compile byte code with the image's own Python   appliance.image.bytecode
5. compare the pinned layers with the lock         here
6. describe: file listing, SBOM                    appliance.image.listing, .sbom
7. write the layout                                appliance.image.oci

Neither clock, user, umask, folder nor this machine's Python have a part in the result.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from appliance.engine.recipe import EngineRecord
from appliance.image import contents, layer, listing, lock, oci, recipe, sbom
from appliance.image.bytecode import host_architecture
from appliance.image.contents import Entries
from appliance.image.lock import ImageLock, Locked, LockedArchitecture, LockedLayer
from appliance.image.recipe import Architecture, ImageRecipe
from appliance.image.spec import FILES_TYPE, SBOM_TYPE
from appliance.image.store import Progress, Store
from appliance.image.tree import Tree, tree
from attest.errors import MalformedInput, VerificationError


@dataclass(frozen=True)
class Source:
    """A recipe with what it needs: read from `images/NAME.toml` and the files beside it."""

    path: Path
    """The recipe's file."""
    recipe: ImageRecipe
    """The recipe."""

    @classmethod
    def load(cls, path: Path) -> Source:
        """The recipe at `path`. Raises `MalformedInput`."""
        return cls(path, recipe.load(path))

    def requirements(self) -> str:
        """The text of its requirements file. Raises `MalformedInput`."""
        path = self.path.parent.parent / self.recipe.python.requirements
        try:
            return path.read_text("utf-8")
        except OSError as error:
            raise MalformedInput("image recipe", f"expected requirements at {path}, found: {error.strerror}") from None


@dataclass(frozen=True)
class Plan:
    """All that an image will consist of, before anything is written."""

    recipe: ImageRecipe
    """The recipe."""
    architecture: Architecture
    """The machine that it is for."""
    part: LockedArchitecture
    """The locked packages."""
    lock_digest: str
    """The digest of the lock."""
    trees: tuple[tuple[str, Tree], ...]
    """The layers, lowest first, with all their files."""
    engine: EngineRecord
    """The engine in it."""
    license_of: dict[str, str]
    """SPDX expressions of distributions that state one, by name."""

    def describe(self) -> str:
        """The plan for people: layers, files, sizes, digests."""
        lines = [f"{self.recipe.name} for {self.architecture}, lock {self.lock_digest}"]
        for name, one in self.trees:
            lines.append(
                f"  layer {name:<10} {len(one.entries):5d} entries {one.size_bytes:12,d} bytes  {one.digest()}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Built:
    """An image that was written."""

    digest: str
    """The digest of its manifest."""
    plan: Plan
    """What it consists of."""


def build(
    path: Path,
    out: Path,
    *,
    architecture: Architecture,
    cache: Path,
    engines: Path,
    leave_out: Collection[str] = (),
    progress: Progress,
) -> Built:
    """Build the recipe at `path` into the new folder `out`. Raises our errors; nothing is left after one."""
    planned = plan(
        path, architecture=architecture, cache=cache, engines=engines, leave_out=leave_out, progress=progress
    )
    progress("writing")
    artifacts = {
        FILES_TYPE: listing.dump(planned.trees),
        SBOM_TYPE: sbom.dump(
            planned.recipe, planned.part, architecture, planned.trees, planned.engine, planned.license_of
        ),
    }
    return Built(oci.write(out, planned.recipe, architecture, planned.trees, artifacts), planned)


def plan(
    path: Path,
    *,
    architecture: Architecture,
    cache: Path,
    engines: Path,
    leave_out: Collection[str] = (),
    progress: Progress,
) -> Plan:
    """What `build` would write; the measured VM is made of the same. Packages are fetched where they are missing."""
    source = Source.load(path)
    image = source.recipe
    if unknown := sorted(set(leave_out) - set(image.optional)):
        raise MalformedInput(
            "image", f"expected optional layers to leave out ({list(image.optional)}), found {unknown}"
        )
    locked = lock.read(lock.path_of(path), image)
    part = locked.of(architecture)
    with Store(image, cache, progress) as store:
        packages = _Packages(image, locked, store)
        entries = packages.entries(architecture)
        own, record = contents.own_entries(image, architecture, engines)
        for name, more in own.items():
            entries[name] += more
        progress("compiling byte code")
        layers = contents.trees(image, entries, interpreter=packages.interpreter(), leave_out=leave_out)
    _compare_pinned(image, part, layers)
    return Plan(
        image, architecture, part, lock.digest(locked), tuple(layers), record, sbom.licenses(layers, image.python.site)
    )


def make_lock(path: Path, *, cache: Path, progress: Progress) -> ImageLock:
    """The lock of the recipe at `path`, with what apt and the requirements give today. It is not written.

    Raises `EnvironmentProblem` where apt, pip or a package archive cannot be asked.
    """
    source = Source.load(path)
    image = source.recipe
    with Store(image, cache, progress) as store:
        parts = {name: store.resolve(source.requirements(), name) for name in image.architectures}
        draft = ImageLock(recipe_digest=image.digest(), architectures=parts)
        packages = _Packages(image, draft, store)
        finished = {}
        for name, part in parts.items():
            progress(f"building the pinned layers, {name}")
            entries = packages.entries(name)
            pinned = {layer: entries[layer] for layer in image.pinned}
            layers = contents.trees(image, pinned, interpreter=packages.interpreter())
            finished[name] = part.model_copy(update={"layers": tuple(_locked(*one, image) for one in layers)})
    return draft.model_copy(update={"architectures": finished})


class _Packages:
    """The locked packages of one build, opened."""

    def __init__(self, image: ImageRecipe, locked: ImageLock, store: Store) -> None:
        self._image, self._locked, self._store = image, locked, store
        self._interpreter: Tree | None = None

    def entries(self, architecture: Architecture) -> Entries:
        """What the packages and the recipe bring."""
        part = self._locked.of(architecture)
        files: dict[tuple[str, str], Locked] = {
            ("deb" if item.kind == "deb" else "python", item.name): item for item in part.files
        }

        def fetch(kind: str, name: str) -> bytes:
            return self._store.fetch(files[kind, name], architecture)

        return contents.locked_entries(self._image, architecture, part, fetch)

    def interpreter(self) -> Tree | None:
        """The Python of this machine, as its Debian packages bring it; None where no byte code is wanted."""
        if self._interpreter is None and self._image.python.bytecode:
            without = self._image.python.model_copy(update={"packages": ()})
            image = self._image.model_copy(update={"python": without})
            alone = _Packages(image, self._locked, self._store)
            entries = alone.entries(host_architecture(self._image))
            self._interpreter = tree(entry for layer in entries.values() for entry in layer)
        return self._interpreter


def _locked(name: str, one: Tree, image: ImageRecipe) -> LockedLayer:
    written = layer.write(one, _Nowhere(), image.epoch)
    return LockedLayer(name=name, diff_id=written.digest, files_digest=one.digest(), size_bytes=written.size_bytes)


def _compare_pinned(image: ImageRecipe, part: LockedArchitecture, layers: list[tuple[str, Tree]]) -> None:
    """The layers that packages and recipe alone decide have to come out as the lock says."""
    found = {name: one for name, one in layers if name in image.pinned}
    if set(found) != {item.name for item in part.layers}:
        raise MalformedInput("image lock", f"expected digests of the layers {sorted(found)}, found others")
    for item in part.layers:
        made = _locked(item.name, found[item.name], image)
        if made != item:
            raise VerificationError(
                "image",
                "layer",
                expected=f"layer {item.name} with diff id {item.diff_id}",
                found=f"{made.diff_id} ({made.size_bytes} bytes, files {made.files_digest})",
                advice="the packages are the locked ones, so the builder differs from the one that made the lock: "
                "compare releases, and report it",
            )


class _Nowhere(io.BytesIO):
    """Takes bytes and keeps none: a layer that is only hashed."""

    def write(self, data: object) -> int:
        return memoryview(data).nbytes  # type: ignore[arg-type]
