"""From packages to trees: which file of which package is in which layer, by the recipe's rules.

What a recipe and locked packages decide (`locked_trees`) is apart from what this checkout and an engine bring
(`own_entries`). Each Python distribution gets a `RECORD` of the files that are in the image.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import appliance
import attest
from appliance import resources
from appliance.engine.recipe import RECORD, EngineRecord, load_record
from appliance.image import debs, elf, wheels
from appliance.image.bytecode import compile_all
from appliance.image.lock import LockedArchitecture
from appliance.image.recipe import Architecture, Fixed, ImageRecipe, Package, Rule, Selection, pattern
from appliance.image.tree import Entry, Tree, file, folder, is_executable, link, tree
from attest.errors import MalformedInput, VerificationError

Fetch = Callable[[str, str], bytes]
"""The bytes of the locked file of a kind (`deb` or `python`) and a package's name."""
RECIPE = "recipe"
"""The package of what the recipe itself brings."""
STREAMED = (".gguf",)
"""Files that stay on the disk until they are written: models may be larger than memory."""
CACHE = "/__pycache__/"
WHY_RECORD = "the files of this distribution that are in the image, each with its SHA-256"

Entries = dict[str, list[Entry]]
"""Entries by layer."""


def locked_entries(recipe: ImageRecipe, architecture: Architecture, part: LockedArchitecture, fetch: Fetch) -> Entries:
    """What the recipe and the locked packages bring. Raises `MalformedInput` where recipe and packages disagree."""
    machine = recipe.machine(architecture)
    versions = {("deb" if item.kind == "deb" else "python", item.name): item for item in part.files}
    entries: Entries = {name: [] for name in recipe.layers}
    for fixed in recipe.fixed:
        entries[fixed.layer].append(_fixed(fixed))
    for package in recipe.debian:
        if ("deb", package.name) not in versions:
            raise MalformedInput("image lock", f"expected the Debian package {package.name}, found none")
        entries[package.layer] += _debian(package, architecture, fetch("deb", package.name))
    for package in recipe.python.packages:
        item = versions.get(("python", package.name))
        if item is None:
            raise MalformedInput("image lock", f"expected the distribution {package.name}, found none")
        data = fetch("python", package.name)
        entries[package.layer] += _distribution(package, recipe, architecture, data, item.filename)
    loader = machine.loader
    if not any(entry.path == loader for entries_of in entries.values() for entry in entries_of):
        raise MalformedInput("image recipe", f"expected the dynamic loader at {loader}, found none")
    return entries


def own_entries(recipe: ImageRecipe, architecture: Architecture, engines: Path) -> tuple[Entries, EngineRecord]:
    """What this project and the engine bring, and the engine's record."""
    entries: Entries = {name: [] for name in recipe.layers}
    project = recipe.project
    selection = Selection(project.name, project.reason, project.keep, project.drop, on=architecture)
    site = recipe.python.site
    for path, source in project_files():
        why = selection.reason(path)
        if why is None:
            continue
        layer = _layer_of(path, recipe)
        content: Path | bytes = source if path.endswith(STREAMED) else source.read_bytes()
        entries[layer].append(file(f"{site}/{path}", content, project.name, why))
    selection.finish()
    info = f"{project.name}-{attest.__version__}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {project.name}\nVersion: {attest.__version__}\n".encode()
    entries[project.layer].append(file(f"{site}/{info}/METADATA", metadata, project.name, "name and version"))
    engine, engine_record = _engine(recipe, architecture, engines)
    entries[recipe.engine.layer] += engine
    return entries, engine_record


def trees(
    recipe: ImageRecipe, entries: Entries, *, interpreter: Tree | None, leave_out: Collection[str] = ()
) -> list[tuple[str, Tree]]:
    """The layers' trees in their order, with byte code where the recipe wants it; empty layers are left out.

    `interpreter`: the tree of the layers that hold this machine's pinned Python.
    """
    plain = [(name, tree(entries[name])) for name in recipe.layers if entries.get(name) and name not in leave_out]
    if recipe.python.bytecode and interpreter is not None:
        compiled = compile_all(recipe, interpreter, plain)
        sources = {name: recipe.python.sourceless.count(name) == 0 for name, _ in plain}
        plain = [(name, tree([*_without_code(one, sources[name]), *compiled[name]])) for name, one in plain]
    return [(name, tree([*one.entries, *_records(one, recipe.python.site)])) for name, one in plain]


def _without_code(one: Tree, sources: bool) -> Iterable[Entry]:
    """The entries of a layer, without source files where those do not stay."""
    return (entry for entry in one.entries if sources or not entry.path.endswith(".py"))


def _records(one: Tree, site: str) -> Iterable[Entry]:
    """A `RECORD` for each distribution whose metadata is in a layer (PEP 376): its files there, sorted."""
    for metadata in one.entries:
        folder_, _, name = metadata.path.rpartition("/")
        if name != "METADATA" or not folder_.startswith(f"{site}/"):
            continue
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        for entry in one.entries:
            path = entry.path.removeprefix(f"{site}/")
            if entry.package == metadata.package and entry.kind == "file" and path != entry.path and CACHE not in path:
                digest = base64.urlsafe_b64encode(bytes.fromhex(entry.sha256)).rstrip(b"=").decode()
                lines.writerow((path, f"sha256={digest}", entry.size_bytes))
        lines.writerow((f"{folder_.removeprefix(f'{site}/')}/RECORD", "", ""))
        yield file(f"{folder_}/RECORD", text.getvalue().encode(), metadata.package, WHY_RECORD)


def project_files() -> Iterable[tuple[str, Path]]:
    """The files of this project under the paths that they have where it is installed, sorted.

    A checkout keeps `policy` beside the packages, a wheel inside of one; here it is always as in a wheel.
    """
    roots: Mapping[str, Path] = {
        "appliance": Path(appliance.__path__[0]),
        "attest": Path(attest.__path__[0]),
        "appliance/_data/policy": resources.policy(),
    }
    found = {}
    for prefix, root in roots.items():
        for path in root.rglob("*"):
            name = f"{prefix}/{path.relative_to(root).as_posix()}"
            if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
                found[name] = path
    return sorted(found.items())


def _layer_of(path: str, recipe: ImageRecipe) -> str:
    for layer, globs in recipe.project.elsewhere.items():
        if any(pattern(glob).fullmatch(path) for glob in globs):
            return layer
    return recipe.project.layer


def _fixed(item: Fixed) -> Entry:
    if item.target is not None:
        return link(item.path, item.target, RECIPE, item.why)
    if item.text is not None:
        return file(item.path, item.text.encode(), RECIPE, item.why)
    return folder(item.path, RECIPE, item.why, int(item.mode or "755", 8))


def _debian(package: Package, architecture: Architecture, data: bytes) -> list[Entry]:
    selection = Selection(package.name, package.reason, package.keep, package.drop, on=architecture)
    entries = []
    for item in debs.files(data, f"Debian package {package.name}"):
        why = selection.reason(item.path)
        if why is None:
            continue
        path = f"/{item.path}"
        if item.content is None:
            entries.append(link(path, str(item.target), package.name, why))
        else:
            if item.mode & 0o7000:
                expected = "a file without set-user-id, set-group-id and sticky bits"
                raise MalformedInput(
                    f"Debian package {package.name}", f"expected {expected} at {path}, found {item.mode:o}"
                )
            entries.append(file(path, item.content, package.name, why, executable=is_executable(item.mode)))
    selection.finish()
    return entries


def _distribution(
    package: Package, recipe: ImageRecipe, architecture: Architecture, data: bytes, filename: str
) -> list[Entry]:
    selection = Selection(package.name, package.reason, package.keep, package.drop, on=architecture)
    entries = []
    for item in wheels.files(data, filename):
        if _dropped(recipe.python.drop, item.path) or (why := selection.reason(item.path)) is None:
            continue
        content = elf.stripped(item.content) if package.strip and elf.is_elf(item.content) else item.content
        entries.append(file(f"{recipe.python.site}/{item.path}", content, package.name, why))
    selection.finish()
    return entries


def _dropped(rules: Iterable[Rule], path: str) -> bool:
    return any(pattern(rule.path).fullmatch(path) for rule in rules)


def _engine(recipe: ImageRecipe, architecture: Architecture, engines: Path) -> tuple[list[Entry], EngineRecord]:
    machine, part = recipe.machine(architecture), recipe.engine
    source = engines / machine.engine
    record = load_record(source)
    if record.architecture != machine.uname:
        raise VerificationError(
            "image", "engine", expected=f"an engine for {machine.uname} in {source}", found=record.architecture,
            advice="build it with `appliance engine build --target`",
        )  # fmt: skip
    names = [RECORD, *(library.name for library in record.libraries)]
    package = f"{record.name}-{record.profile}"
    entries = [file(f"{part.path}/{name}", (source / name).read_bytes(), package, part.reason) for name in names]
    digests = {f"{part.path}/{library.name}": library.digest for library in record.libraries}
    for entry in entries:
        if entry.path in digests and f"sha256:{entry.sha256}" != digests[entry.path]:
            raise VerificationError("image", "engine", expected=digests[entry.path], found=f"sha256:{entry.sha256}")
    return entries, record
