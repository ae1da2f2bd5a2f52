"""The lock of an image: the exact packages, by SHA-256, and what the layers that they make must come out as.

    images/NAME.lock.json      beside the recipe images/NAME.toml, indented for reviewers

No mirror and no address is in it: any place that has the bytes will do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from appliance.image.recipe import Architecture, ImageRecipe, Name
from attest import canonical
from attest.canonical import Model, dump_model
from attest.digest import Digest, digest_of
from attest.errors import MalformedInput, VerificationError

MAX_LOCK_BYTES = 4 << 20
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.+:~-]{1,100}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~%-]{0,199}$")]


class Locked(Model):
    """One file that the image is made of."""

    kind: Literal["deb", "wheel", "sdist"]
    """A Debian package, a wheel, or a source distribution."""
    name: Name
    """The package's name."""
    version: Version
    """Its version."""
    architecture: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$")]
    """Of a Debian package, as it says itself; `any` for the rest, whose file name says it."""
    filename: FileName
    """The file's name in the cache."""
    digest: Digest
    """SHA-256 of the file."""
    size_bytes: Annotated[int, Field(gt=0)]
    """Its size."""


class LockedLayer(Model):
    """What a layer that packages and recipe alone decide has to come out as."""

    name: Name
    """The layer's name."""
    diff_id: Digest
    """SHA-256 of the uncompressed layer."""
    files_digest: Digest
    """SHA-256 over the listing of its files, each with mode and SHA-256."""
    size_bytes: Annotated[int, Field(gt=0)]
    """Size of the layer."""


class LockedArchitecture(Model):
    """One architecture's part."""

    files: tuple[Locked, ...]
    """The files, sorted by kind and name."""
    layers: tuple[LockedLayer, ...] = ()
    """The pinned layers, lowest first; none in a lock that is being made."""


class ImageLock(Model):
    """A lock."""

    format: Literal["vitrine/image-lock/v1"] = "vitrine/image-lock/v1"
    """Format and version."""
    recipe_digest: Digest
    """The digest of the recipe that it is of."""
    architectures: dict[Architecture, LockedArchitecture]
    """By architecture."""

    def of(self, architecture: Architecture) -> LockedArchitecture:
        """One architecture's part. Raises `MalformedInput` where the lock has none."""
        if architecture not in self.architectures:
            known = ", ".join(self.architectures)
            raise MalformedInput("image lock", f"expected one of its architectures ({known}), found {architecture}")
        return self.architectures[architecture]


def path_of(recipe: Path) -> Path:
    """Where the lock of the recipe at `recipe` lies."""
    return recipe.with_suffix(".lock.json")


def write(lock: ImageLock) -> bytes:
    """The lock's text: indented, keys sorted."""
    value = lock.model_dump(mode="json", exclude_none=True)
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def read(path: Path, recipe: ImageRecipe) -> ImageLock:
    """The lock at `path`, if it is of `recipe`. Raises `MalformedInput`, `VerificationError`."""
    lock = canonical.parse(ImageLock, read_bytes(path, "image lock"), "image lock")
    check_recipe(lock.recipe_digest, recipe.digest())
    return lock


def read_bytes(path: Path, what: str) -> bytes:
    """A lock's bytes. Raises `MalformedInput` where there are none, or too many."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LOCK_BYTES + 1)
    except OSError as error:
        problem = f"expected a file {path}, found: {error.strerror}; make it with `appliance image lock`"
        raise MalformedInput(what, problem) from None
    if len(data) > MAX_LOCK_BYTES:
        raise MalformedInput(what, f"expected at most {MAX_LOCK_BYTES} bytes, found more")
    return data


def check_recipe(locked: str, found: str) -> None:
    """Raises `VerificationError` unless the recipe's digest is the one that its lock is of."""
    if found != locked:
        raise VerificationError(
            "image", "recipe", expected=f"recipe {locked}, which the lock is of", found=found,
            advice="the recipe has changed: make the lock again with `appliance image lock`, and review it",
        )  # fmt: skip


def digest(lock: ImageLock) -> str:
    """The digest of the lock's canonical JSON."""
    return digest_of(dump_model(lock))


def locked(kind: Literal["deb", "wheel", "sdist"], name: str, version: str, **fields: str | int) -> Locked:
    """One entry of a lock, checked. `fields` are the other ones. Raises `MalformedInput`."""
    value = {"kind": kind, "name": name, "version": version, "architecture": "any"}
    return canonical.validate(Locked, value | fields, f"package {name}")
