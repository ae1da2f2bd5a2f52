"""The software bill of materials of an image, CycloneDX 1.6 as JSON, from the same data that the image is made of.

Debian packages, Python distributions, the engine and this project are components with their package URLs and digests;
models are components of the kind `machine-learning-model`. The serial number follows from the content, and the time is
the recipe's, so that the same image has the same bill.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from urllib.parse import quote

import attest
from appliance.engine.recipe import EngineRecord
from appliance.image import wheels
from appliance.image.lock import Locked, LockedArchitecture
from appliance.image.machine import MachineLock, MachineRecipe
from appliance.image.recipe import Architecture, ImageRecipe
from appliance.image.tree import Entry, Tree
from attest import canonical
from attest.canonical import JSON
from attest.digest import digest_of

NAMESPACE = uuid.UUID("5b7d5c0a-5a0e-5b52-9f8e-3f2f6f0d8c11")
"""Of our serial numbers (UUID version 5)."""
MODEL_SUFFIX = ".gguf"


def dump(
    recipe: ImageRecipe,
    part: LockedArchitecture,
    architecture: Architecture,
    trees: Sequence[tuple[str, Tree]],
    engine: EngineRecord,
    license_of: dict[str, str],
) -> bytes:
    """The bill of an OCI image, canonical JSON. `license_of`: SPDX expressions of Python distributions, by name."""
    image: dict[str, JSON] = {
        "type": "container",
        "bom-ref": "image",
        "name": f"{recipe.name}-{architecture}",
        "version": attest.__version__,
        "properties": [{"name": f"vitrine:layer:{name}:files-digest", "value": one.digest()} for name, one in trees],
    }
    return _bill(image, _components(recipe, part, trees, engine, license_of), recipe.epoch)


def dump_machine(
    machine: MachineRecipe,
    lock: MachineLock,
    recipe: ImageRecipe,
    part: LockedArchitecture,
    trees: Sequence[tuple[str, Tree]],
    engine: EngineRecord,
    license_of: dict[str, str],
) -> bytes:
    """The bill of a measured VM: that of its base image, with kernel, boot stub and `init` beside it."""
    image: dict[str, JSON] = {
        "type": "operating-system",
        "bom-ref": "image",
        "name": machine.name,
        "version": attest.__version__,
        "properties": [{"name": f"vitrine:layer:{name}:files-digest", "value": one.digest()} for name, one in trees],
    }
    reasons = {machine.kernel.package: "the kernel and its modules", machine.stub.package: "the boot stub"}
    components = _components(recipe, part, trees, engine, license_of)
    components += [_locked(item, recipe, reasons[item.name]) for item in lock.files]
    components.append(
        {
            "type": "application",
            "bom-ref": "init",
            "name": f"{machine.name}-init",
            "version": lock.init.digest,
            "description": f"the first program, from {machine.init} by {lock.init.compiler}",
            "hashes": [_sha256(lock.init.digest)],
            "licenses": [{"expression": "Apache-2.0"}],
        }
    )
    return _bill(image, components, machine.epoch)


def _components(
    recipe: ImageRecipe,
    part: LockedArchitecture,
    trees: Sequence[tuple[str, Tree]],
    engine: EngineRecord,
    license_of: dict[str, str],
) -> list[dict[str, JSON]]:
    components = [_package(item, recipe, license_of) for item in part.files]
    components.append(_project(recipe))
    components.append(_engine(engine))
    return components + [
        _model(entry) for _, one in trees for entry in one.entries if entry.path.endswith(MODEL_SUFFIX)
    ]


def _bill(image: dict[str, JSON], components: list[dict[str, JSON]], epoch: int) -> bytes:
    components = sorted(components, key=lambda item: str(item["bom-ref"]))
    serial = uuid.uuid5(NAMESPACE, digest_of(canonical.dumps([image, *components])))
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return canonical.dumps(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{serial}",
            "version": 1,
            "metadata": {"timestamp": created, "component": image},
            "components": components,
            "dependencies": [{"ref": "image", "dependsOn": [str(item["bom-ref"]) for item in components]}],
        }
    )


def licenses(trees: Sequence[tuple[str, Tree]], site: str) -> dict[str, str]:
    """The SPDX expressions that distributions in the image state about themselves, by name."""
    found = {}
    for _, one in trees:
        for entry in one.entries:
            path = PurePosixPath(entry.path)
            if path.name == "METADATA" and path.parent.suffix == ".dist-info" and str(path.parents[1]) == site:
                expression = wheels.license_of(one.read(entry))
                if expression:
                    found[entry.package] = expression
    return found


def purl(item: Locked, recipe: ImageRecipe) -> str:
    """The package URL of a locked package."""
    version = quote(item.version, safe="")
    if item.kind == "deb":
        return f"pkg:deb/debian/{quote(item.name)}@{version}?arch={item.architecture}&distro={recipe.distribution}"
    return f"pkg:pypi/{quote(item.name)}@{version}?file_name={quote(item.filename, safe='')}"


def _package(item: Locked, recipe: ImageRecipe, license_of: dict[str, str]) -> dict[str, JSON]:
    packages = recipe.debian if item.kind == "deb" else recipe.python.packages
    reason = next(package.reason for package in packages if package.name == item.name)
    component = _locked(item, recipe, reason)
    if item.kind != "deb" and item.name in license_of:
        component["licenses"] = [{"expression": license_of[item.name]}]
    return component


def _locked(item: Locked, recipe: ImageRecipe, reason: str) -> dict[str, JSON]:
    url = purl(item, recipe)
    return {
        "type": "library",
        "bom-ref": url,
        "name": item.name,
        "version": item.version,
        "description": reason,
        "hashes": [_sha256(item.digest)],
        "purl": url,
    }


def _project(recipe: ImageRecipe) -> dict[str, JSON]:
    name, version = recipe.project.name, attest.__version__
    return {
        "type": "application",
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        "description": recipe.project.reason,
        "licenses": [{"expression": "Apache-2.0"}],
        "purl": f"pkg:pypi/{name}@{version}",
    }


def _engine(engine: EngineRecord) -> dict[str, JSON]:
    library = engine.libraries[0]
    url = f"pkg:github/ggml-org/llama.cpp@{engine.upstream_commit}"
    return {
        "type": "library",
        "bom-ref": url,
        "name": engine.name,
        "version": f"{engine.upstream_commit}+{engine.profile}",
        "description": "the engine, built from source with the patches of its recipe",
        "hashes": [_sha256(library.digest)],
        "licenses": [{"expression": "MIT"}],
        "purl": url,
        "properties": [
            {"name": "vitrine:engine:recipe-digest", "value": engine.recipe_digest},
            {"name": "vitrine:engine:source-digest", "value": engine.source_digest},
        ],
    }


def _model(entry: Entry) -> dict[str, JSON]:
    path = PurePosixPath(entry.path)
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{entry.path}",
        "name": path.stem,
        "version": f"sha256:{entry.sha256}",
        "description": entry.reason,
        "hashes": [_sha256(f"sha256:{entry.sha256}")],
        "modelCard": {"modelParameters": {"outputs": [{"format": "text"}], "inputs": [{"format": "text"}]}},
        "properties": [
            {"name": "vitrine:path", "value": entry.path},
            {"name": "vitrine:format", "value": "gguf"},
            {"name": "vitrine:size-bytes", "value": str(entry.size_bytes)},
        ],
    }


def _sha256(digest: str) -> dict[str, JSON]:
    return {"alg": "SHA-256", "content": digest.removeprefix("sha256:")}
