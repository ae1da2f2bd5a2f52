"""What an image is made of, and why: the recipe in `images/*.toml`.

Which packages, which files of each, and the reason of every one. Files that no rule keeps stay out, and so nothing
that is not named gets in. The lock beside it (`lock.py`) says which exact packages these are.

Refused: unknown fields, a layer, package or architecture that is named twice or not at all.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from attest.canonical import Model, dump_model, validate
from attest.digest import digest_of
from attest.errors import MalformedInput

Architecture = Literal["amd64", "arm64"]
"""As OCI and Debian name it."""
ARCHITECTURES: tuple[Architecture, ...] = ("amd64", "arm64")
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._+-]{0,63}$")]
Glob = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_*?][A-Za-z0-9_+.*?/-]*$", max_length=200)]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9_+.-]+)+$", max_length=200)]
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=300)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*=[^\x00-\x1f\x7f]*$")]


class Rule(Model):
    """Files of a package, by their path in it."""

    path: Glob
    """`*` is anything but a slash, `**` is anything, `?` is one character but a slash."""
    why: Text
    """Why they are kept, or dropped."""
    only: Architecture | None = None
    """The one architecture whose package has such files; None: those of all have."""


class Package(Model):
    """One package and which of its files are in the image: those that a rule keeps and none drops."""

    name: Name
    """Its name, as Debian or the Python package index has it."""
    layer: Name
    """The layer that its files go into."""
    reason: Text
    """What the image needs it for. Files whose rule gives no other reason bear this one."""
    keep: tuple[Rule, ...] = ()
    """What is kept. For a Python distribution nothing means: all of it."""
    drop: tuple[Rule, ...] = ()
    """What is left out of that."""
    strip: bool = False
    """Whether its libraries lose what is never loaded: symbols for debuggers, and the table of sections."""
    source: bool = False
    """Of a Python distribution: take files from its source distribution, because no wheel fits."""


class LeftOut(Model):
    """A Python distribution that the code names and the image does not have."""

    name: Name
    """Its name."""
    why: Text
    """Why it can be missing."""


class Fixed(Model):
    """One folder, file or link that comes from the recipe itself."""

    path: AbsolutePath
    """Where it is."""
    layer: Name
    """The layer that it goes into."""
    why: Text
    """What it is for."""
    mode: Annotated[str, StringConstraints(pattern=r"^[01]?[0-7]{3}$")] | None = None
    """A folder's permissions, octal; 755 if nothing is said."""
    text: str | None = None
    """A file's content. With neither text nor target it is a folder."""
    target: str | None = None
    """Where a link leads."""


class Machine(Model):
    """What differs between architectures."""

    engine: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]
    """The folder of the engine, below the folder that the build is given."""
    uname: Literal["x86_64", "aarch64"]
    """As `uname -m` names it; the engine's record has to say the same."""
    triplet: Literal["x86_64-linux-gnu", "aarch64-linux-gnu"]
    """The folder of its shared libraries."""
    loader: AbsolutePath
    """The dynamic loader's path."""
    platforms: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Platform tags of wheels that run there, best first."""


class PythonPart(Model):
    """CPython, the distributions, and this project."""

    version: Literal["3.11"]
    """The minor version; its byte code is compiled by the image's own interpreter."""
    interpreter: AbsolutePath
    """Where it is."""
    site: AbsolutePath
    """The folder that distributions are installed into."""
    requirements: Glob
    """The file, beside the recipe's folder, that pins the distributions with their digests."""
    drop: tuple[Rule, ...] = ()
    """What is left out of every distribution. These rules may fit nothing."""
    bytecode: bool = True
    """Whether each source file has its byte code beside it, checked by nobody at run time: the root is read-only."""
    sourceless: tuple[Name, ...] = ()
    """Layers in which the byte code stands in the place of the source files, so that it is also what is measured."""
    packages: tuple[Package, ...] = ()
    """The distributions."""
    left_out: tuple[LeftOut, ...] = ()
    """The distributions that are named by the code or by a distribution, and not here."""


class Project(Model):
    """The files of this project, taken from where it runs: a checkout and an installed wheel give the same."""

    name: Name
    """Its name as a distribution."""
    layer: Name
    """The layer of all that no rule puts elsewhere."""
    reason: Text
    """What it is for."""
    keep: tuple[Rule, ...]
    """Paths in the installed project that are kept, such as `appliance/**.py`."""
    drop: tuple[Rule, ...] = ()
    """What is left out of that."""
    elsewhere: dict[Name, tuple[Glob, ...]] = Field(default_factory=dict)
    """Other layers, and the paths that go there."""


class EnginePart(Model):
    """The engine: one library and its build record."""

    path: AbsolutePath
    """Its folder in the image."""
    layer: Name
    """The layer that it goes into."""
    reason: Text
    """What it is for."""


class ImageRecipe(Model):
    """Everything that decides the bytes of an image, except the packages themselves."""

    format: Literal["vitrine/image-recipe/v1"]
    """The version of this format."""
    name: Name
    """The image's name."""
    epoch: Annotated[int, Field(ge=0, lt=2**33)]
    """The time of every file, and of the image, in seconds since 1970 (SOURCE_DATE_EPOCH)."""
    distribution: Name
    """The Debian release that the packages are of."""
    user: Annotated[int, Field(ge=1, lt=65536)]
    """User and group that the image runs as."""
    entrypoint: Annotated[tuple[str, ...], Field(min_length=1)]
    """What runs."""
    environment: tuple[Variable, ...] = ()
    """The variables that it runs with."""
    layers: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)]
    """The layers, the lowest first."""
    optional: tuple[Name, ...] = ()
    """The layers that a build may be told to leave out."""
    pinned: tuple[Name, ...] = ()
    """The layers that recipe and locked packages alone decide: the lock has their digests."""
    engine: EnginePart
    """The engine's part."""
    architectures: Annotated[dict[Architecture, Machine], Field(min_length=1)]
    """The machines that it is built for."""
    debian: tuple[Package, ...] = ()
    """Debian packages."""
    python: PythonPart
    """CPython's part."""
    project: Project
    """This project's part."""
    fixed: tuple[Fixed, ...] = ()
    """What comes from the recipe."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        packages = [*self.debian, *self.python.packages]
        for what, names in {
            "layer": self.layers,
            "Debian package": [package.name for package in self.debian],
            "distribution": [package.name for package in self.python.packages]
            + [absent.name for absent in self.python.left_out],
            "path": [fixed.path for fixed in self.fixed],
        }.items():
            if twice := sorted({name for name in names if list(names).count(name) > 1}):
                raise ValueError(f"expected each {what} once, found {twice} twice")
        if self.python.sourceless and not self.python.bytecode:
            raise ValueError("expected byte code where there is no source, found bytecode = false")
        used = {package.layer for package in packages} | {fixed.layer for fixed in self.fixed}
        ours = {self.project.layer, *self.project.elsewhere, self.engine.layer}
        if unknown := sorted(
            (used | ours | {*self.optional, *self.pinned, *self.python.sourceless}) - set(self.layers)
        ):
            raise ValueError(f"expected layers out of {list(self.layers)}, found {unknown}")
        if mixed := sorted(ours & set(self.pinned)):
            raise ValueError(
                f"expected pinned layers to have packages only, found the project's or engine's in {mixed}"
            )
        return self

    def digest(self) -> str:
        """The digest of the recipe's canonical JSON: comments and order in the file do not count."""
        return digest_of(dump_model(self))

    def machine(self, architecture: Architecture) -> Machine:
        """What `architecture` needs. Raises `MalformedInput` where the recipe does not have it."""
        if architecture not in self.architectures:
            known = ", ".join(self.architectures)
            raise MalformedInput("image recipe", f"expected one of its architectures ({known}), found {architecture}")
        return self.architectures[architecture]


def load(path: Path) -> ImageRecipe:
    """The recipe in the TOML file at `path`. Raises `MalformedInput`."""
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MalformedInput("image recipe", f"expected a file at {path}, found none") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedInput("image recipe", str(error)) from None
    return validate(ImageRecipe, value, "image recipe")


@cache
def pattern(glob: str) -> re.Pattern[str]:
    """The regular expression of a rule's path."""
    parts = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in re.split(r"(\*\*|\*|\?)", glob)))


class Selection:
    """The rules of one package, at work. Ask `reason` for every file, then `finish`."""

    def __init__(self, package: str, reason: str, keep: tuple[Rule, ...], drop: tuple[Rule, ...], *, on: str) -> None:
        self._package, self._reason = package, reason
        self._keep = [rule for rule in keep if rule.only in (None, on)]
        self._drop = [rule for rule in drop if rule.only in (None, on)]
        self._all = not keep
        self._unused = {rule.path for rule in (*self._keep, *self._drop)}

    def reason(self, path: str) -> str | None:
        """Why the file at `path` of the package is in the image; None where it is not."""
        kept = [rule for rule in self._keep if pattern(rule.path).fullmatch(path)]
        dropped = [rule for rule in self._drop if pattern(rule.path).fullmatch(path)]
        self._unused -= {rule.path for rule in (*kept, *dropped)}
        if dropped or not (kept or self._all):
            return None
        return kept[0].why if kept else self._reason

    def finish(self) -> None:
        """Raises `MalformedInput` for a rule that fitted no file: it is misspelt, or the package has changed."""
        if self._unused:
            expected = "rules that each fit a file of the package"
            raise MalformedInput(
                f"image recipe, package {self._package}", f"expected {expected}, found none for {sorted(self._unused)}"
            )
