"""What a measured virtual machine is made of: the recipe in `images/vm.toml`, and the lock beside it.

The recipe names the image whose files become the root disk, two Debian packages (kernel and boot stub), the kernel
modules, the command line and the program that runs. The lock pins the packages and the compiled `init` by SHA-256.

Refused: unknown fields, a command line that already names a root disk, a lock of another recipe.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from appliance.image import lock as lock_file
from appliance.image.lock import Locked
from appliance.image.recipe import AbsolutePath, Glob, Name, Text
from attest import canonical
from attest.canonical import Model, dump_model, validate
from attest.digest import Digest, digest_of
from attest.errors import MalformedInput
from attest.rollback import IMAGE_ARGUMENT

FORMAT = "vitrine/machine-recipe/v1"
ROOT_ARGUMENT = "vitrine.root="
Argument = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]
Path_ = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_+.-]*(/[A-Za-z0-9_+.-]+)*$", max_length=200)]


class Source(Model):
    """A file of a Debian package."""

    package: Name
    """The package."""
    path: Path_
    """The file's path in it, without a slash at the start."""
    release: Annotated[str, StringConstraints(pattern=r"^[a-z]+-[a-z]+$", max_length=64)] | None = None
    """The release of the archive that has the package, `bookworm-backports`; None: one that the host has anyway."""


class Modules(Model):
    """The kernel modules of the initramfs, all from the kernel's package."""

    folder: Path_
    """The folder that they are under."""
    load: Annotated[tuple[Path_, ...], Field(min_length=1, max_length=64)]
    """Their paths below it, in the order of loading: each after those that it needs. The build unpacks `.ko.xz`."""


class Flag(Model):
    """One argument of the kernel's command line."""

    argument: Argument
    """The argument."""
    why: Text
    """What it is for."""


class Folder(Model):
    """A folder of the root disk that something is mounted on."""

    path: AbsolutePath
    """Where."""
    why: Text
    """What for."""


class MachineRecipe(Model):
    """Everything that decides the bytes of a machine's image, except packages and compiler."""

    format: Literal["vitrine/machine-recipe/v1"]
    """The version of this format."""
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,15}$")]
    """The machine's name; also that of its root disk's volume."""
    base: Glob
    """The recipe, in the same folder, of the image whose files are the root disk."""
    architecture: Literal["amd64"]
    """The processor."""
    epoch: Annotated[int, Field(ge=0, lt=2**33)]
    """The time of every file of the root disk, in seconds since 1970."""
    kernel: Source
    """The kernel: an executable that UEFI can start."""
    stub: Source
    """The boot stub."""
    init: Glob
    """The source of the first program, in the recipe's folder."""
    modules: Modules
    """The modules that it loads."""
    flags: tuple[Flag, ...]
    """The kernel's command line, without the root disk."""
    command: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=30)]
    """What runs in the root, with its arguments."""
    folders: tuple[Folder, ...]
    """Folders that the root disk needs beside those of the base image."""

    @model_validator(mode="after")
    def _no_root_yet(self) -> Self:
        own = (ROOT_ARGUMENT, IMAGE_ARGUMENT)
        if any(flag.argument.startswith(own) for flag in self.flags):
            raise ValueError(f"expected a command line without {' and '.join(own)}, which the build adds")
        return self

    def packages(self) -> tuple[str, ...]:
        """The Debian packages that the build takes files from, each once."""
        return tuple(sorted({self.kernel.package, self.stub.package}))

    def releases(self) -> tuple[str, ...]:
        """The releases that the packages are from, beside those that the host takes packages from."""
        return tuple(sorted({source.release for source in (self.kernel, self.stub) if source.release}))

    def digest(self) -> str:
        """The digest of the recipe's canonical JSON: comments and order in the file do not count."""
        return digest_of(dump_model(self))


class LockedInit(Model):
    """The first program, compiled."""

    source: Digest
    """SHA-256 of its source."""
    digest: Digest
    """SHA-256 of the program."""
    compiler: Text
    """The compiler that gives these bytes, by its first line of `--version`."""


class MachineLock(Model):
    """A lock of a machine's image."""

    format: Literal["vitrine/machine-lock/v1"] = "vitrine/machine-lock/v1"
    """Format and version."""
    recipe_digest: Digest
    """The digest of the recipe that it is of."""
    files: Annotated[tuple[Locked, ...], Field(min_length=1, max_length=8)]
    """The Debian packages, sorted by name."""
    init: LockedInit
    """The first program."""


def is_machine(path: Path) -> bool:
    """Whether the TOML file at `path` says that it is a machine's recipe. Never raises: `load` says what is wrong."""
    try:
        return tomllib.loads(path.read_text("utf-8")).get("format") == FORMAT
    except (OSError, ValueError):
        return False


def load(path: Path) -> MachineRecipe:
    """The recipe in the TOML file at `path`. Raises `MalformedInput`."""
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise MalformedInput("machine recipe", f"expected a file at {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedInput("machine recipe", str(error)) from None
    return validate(MachineRecipe, value, "machine recipe")


def write_lock(lock: MachineLock) -> bytes:
    """The lock's text: indented, keys sorted."""
    return (json.dumps(lock.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()


def read_lock(path: Path, recipe: MachineRecipe) -> MachineLock:
    """The lock at `path`, if it is of `recipe`. Raises `MalformedInput`, `VerificationError`."""
    lock = canonical.parse(MachineLock, lock_file.read_bytes(path, "machine lock"), "machine lock")
    lock_file.check_recipe(lock.recipe_digest, recipe.digest())
    return lock
