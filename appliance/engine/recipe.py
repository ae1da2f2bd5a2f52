"""What an engine is built from, and what was built: the recipe in `images/engine`, and the record beside the library.

Refuses a recipe with an unknown field or an option out of form, a record whose libraries are not the ones that it
names, and a CPU that cannot run them.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from appliance import resources
from attest.canonical import Model, dump_model, parse, validate
from attest.digest import Digest, digest_of
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError

LIBRARY = "libllama.so"
RECORD = "record.json"
DEFAULT_PROFILE = "x86-64-v3"
"""The numerics profile of a job that names none."""
OPTION_OF = {
    "sse4_2": "GGML_SSE42",
    "avx": "GGML_AVX",
    "avx2": "GGML_AVX2",
    "fma": "GGML_FMA",
    "f16c": "GGML_F16C",
    "bmi2": "GGML_BMI2",
}
"""The x86 instruction sets that a recipe can switch on, as /proc/cpuinfo names them, and the build option of each."""

Architecture = Literal["x86_64", "aarch64"]
"""A machine that an engine runs on, as `uname -m` names it."""
Instructions = tuple[Literal["sse2", "sse4_2", "avx", "avx2", "fma", "f16c", "bmi2", "fp", "asimd"], ...]
"""Instruction sets, as /proc/cpuinfo names them."""
CPU_LINE: dict[str, str] = {"x86_64": "flags", "aarch64": "Features"}
"""The line of /proc/cpuinfo that lists the instruction sets of a CPU."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Option = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
Value = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]*$")]
Flag = Annotated[str, StringConstraints(pattern=r"^-[A-Za-z0-9_=,.+-]+$")]
SymbolPattern = Annotated[str, StringConstraints(pattern=r"^[a-z_]+\*?$")]
Symbol = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
InstructionPattern = Annotated[str, StringConstraints(pattern=r"^[a-z0-9.*?+()\[\]|-]+$")]
_PART = "[A-Za-z0-9_][A-Za-z0-9._-]*"
RelativePath = Annotated[str, StringConstraints(pattern=f"^{_PART}(/{_PART})*$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{9,40}$")]


class Source(Model):
    """The source distribution that the engine is built from."""

    name: Name
    """Its name in the package index."""
    version: Name
    """Its version there."""
    filename: Name
    """Its file name."""
    digest: Digest
    """SHA-256 of the file."""
    size_bytes: Annotated[int, Field(gt=0)]
    """Size of the file."""
    root: RelativePath
    """The folder inside it that holds the engine's sources."""
    bindings: RelativePath
    """The file inside it that names the functions which the Python bindings look up in the library."""
    upstream_commit: Commit
    """The upstream commit of the engine's sources; the finished library has to report it."""


class Patch(Model):
    """One change to the source."""

    file: RelativePath
    """A unified diff (`-p1`), beside the recipe."""
    digest: Digest
    """SHA-256 of that file."""


class Addition(Patch):
    """One C file of our own that is compiled as the engine is and linked into its library."""

    file: RelativePath
    """The C file, beside the recipe."""


class Compile(Model):
    """How each source file is compiled, beyond what `definitions` say."""

    flags: tuple[Flag, ...]
    """Flags for the C and the C++ compiler."""


class Link(Model):
    """How the one shared library is linked, and what it may look like from outside."""

    flags: tuple[Flag, ...]
    """Flags for the linking compiler."""
    exports: Annotated[tuple[SymbolPattern, ...], Field(min_length=1)]
    """Patterns of the symbols that the library exports. All others stay inside."""
    hidden: tuple[SymbolPattern, ...]
    """Symbols that stay inside although a pattern matches them."""
    needed: tuple[Name, ...]
    """The shared libraries that it may need."""


class Gates(Model):
    """What the finished library must not contain, whatever the compiler made of the flags."""

    forbidden_instructions: tuple[InstructionPattern, ...]
    """Regular expressions; an instruction whose whole mnemonic, as objdump prints it, matches one is refused."""
    imports: dict[Name, tuple[Symbol, ...]]
    """For a shared library: the only functions that may be taken from it. One that is not listed is not restricted."""

    @field_validator("forbidden_instructions")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"expected a regular expression, found {pattern!r}: {error}") from None
        return patterns


class EngineRecipe(Model):
    """Everything that decides the bytes of the library, except the toolchain."""

    format: Literal["vitrine/engine-recipe/v1"]
    """The version of this format."""
    name: Name
    """The engine's name."""
    profile: Name
    """Which build of it: `reference` is the one whose results count."""
    architecture: Architecture | Annotated[tuple[Architecture, ...], Field(min_length=1)]
    """The machine that it is built for, or several: then each build is for one of them."""
    instructions: Instructions | dict[Architecture, Instructions]
    """The instruction sets that its kernels use; for several architectures a list for each."""
    source: Source
    """What it is built from."""
    patches: tuple[Patch, ...]
    """What is changed in the source first, in this order."""
    additions: tuple[Addition, ...] | None = None
    """What is linked into the library beside the source. Its functions take the place of the system's."""
    definitions: dict[Option, Value]
    """CMake definitions. One that the source does not use fails the build."""
    compile: Compile
    """How it is compiled."""
    link: Link
    """How it is linked."""
    gates: Gates | None = None
    """What the finished library must not contain; None: nothing beyond what every library is checked for."""
    environment: dict[Option, Value]
    """What a process has to set before it loads the library."""

    @model_validator(mode="after")
    def _instructions_match(self) -> Self:
        if isinstance(self.instructions, dict) and set(self.instructions) != set(self.architectures()):
            raise ValueError(f"expected instructions for {self.architectures()}, found {tuple(self.instructions)}")
        if not isinstance(self.instructions, dict) and len(self.architectures()) > 1:
            raise ValueError("expected a list of instructions for each architecture, found one for all")
        asked = {name for each in self.architectures() for name in self.instructions_of(each)} & OPTION_OF.keys()
        stated = {name for name, option in OPTION_OF.items() if self.definitions.get(option) == "ON"}
        if stated != asked or self.definitions.get("GGML_NATIVE") != "OFF":
            raise ValueError(f"expected GGML_NATIVE=OFF and definitions that switch on exactly {sorted(asked)}")
        return self

    def architectures(self) -> tuple[Architecture, ...]:
        """The machines that it can be built for."""
        return self.architecture if isinstance(self.architecture, tuple) else (self.architecture,)

    def instructions_of(self, architecture: Architecture) -> Instructions:
        """The instruction sets that a build for `architecture` uses."""
        return self.instructions[architecture] if isinstance(self.instructions, dict) else self.instructions

    def digest(self) -> str:
        """The digest of the recipe's canonical JSON: comments and order in the file do not count."""
        return digest_of(dump_model(self))


class Toolchain(Model):
    """What compiled it: first lines of what each tool says about itself."""

    c_compiler: str
    """The C compiler."""
    cxx_compiler: str
    """The C++ compiler, which also links."""
    linker: str
    """The linker that it calls."""
    libc: str
    """The C library whose headers and start files were used."""
    cmake: str
    """CMake, which writes the plan of the build."""
    ninja: str
    """Ninja, which executes it."""


class Library(Model):
    """One file that the build made."""

    name: Name
    """Its file name, beside the record."""
    digest: Digest
    """SHA-256 of the file."""
    size_bytes: Annotated[int, Field(gt=0)]
    """Size of the file."""
    needed: tuple[Name, ...]
    """The shared libraries that it needs, sorted."""


class EngineRecord(Model):
    """What was built, from what, and with what. No clock, no path: the same build gives the same bytes of record."""

    format: Literal["vitrine/engine-record/v1"]
    """The version of this format."""
    builder_revision: int
    """The revision of the build procedure."""
    name: Name
    """The engine's name."""
    profile: Name
    """Which build of it."""
    recipe_digest: Digest
    """The digest of the recipe's canonical JSON."""
    source_digest: Digest
    """SHA-256 of the source distribution."""
    upstream_commit: Commit
    """The upstream commit, as the library itself reports it."""
    patch_digests: tuple[Digest, ...]
    """SHA-256 of each patch, in the order of application."""
    addition_digests: tuple[Digest, ...] | None = None
    """SHA-256 of each file that was linked in beside the source."""
    toolchain: Toolchain
    """What compiled it."""
    definitions: dict[Option, Value]
    """The CMake definitions."""
    compile_flags: tuple[str, ...]
    """Flags for the compilers."""
    link_flags: tuple[str, ...]
    """Flags for the linking compiler."""
    architecture: str
    """The machine that it runs on."""
    instructions: tuple[str, ...]
    """The instruction sets that its kernels use, as /proc/cpuinfo names them."""
    system_info: str
    """What the library reports about its own kernels (`llama_print_system_info`)."""
    environment: dict[Option, Value]
    """What a process has to set before it loads the library."""
    libraries: Annotated[tuple[Library, ...], Field(min_length=1)]
    """The files that the build made."""


def recipe_path(profile: str = DEFAULT_PROFILE) -> Path:
    """The recipe of `profile` that came with this release."""
    return resources.images() / "engine" / f"{profile}.toml"


def load_recipe(path: Path) -> EngineRecipe:
    """The recipe in the TOML file at `path`. Raises `MalformedInput`."""
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MalformedInput("engine recipe", f"expected a file at {path}, found none") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedInput("engine recipe", str(error)) from None
    return validate(EngineRecipe, value, "engine recipe")


def load_record(folder: Path) -> EngineRecord:
    """The record of the finished engine in `folder`, once every library there is what the record says.

    Raises `EnvironmentProblem` if no engine was built there, `MalformedInput`, or `VerificationError`. A process that
    goes on to load a library must hash the bytes that it loads: this check is about the files of now.
    """
    try:
        data = (folder / RECORD).read_bytes()
    except FileNotFoundError:
        raise EnvironmentProblem(f"no engine in {folder}: build it with `appliance engine build`") from None
    record = parse(EngineRecord, data, "engine record")
    if dump_model(record) != data:
        raise MalformedInput("engine record", "expected canonical JSON (RFC 8785), found another form")
    for library in record.libraries:
        _check_library(folder, library)
    return record


def require_cpu(record: EngineRecord, cpuinfo: str) -> None:
    """Refuse a CPU on which the engine would stop at an illegal instruction. `cpuinfo` is the text of /proc/cpuinfo.

    Raises `EnvironmentProblem` that names the missing instruction sets, or the architecture.
    """
    line = CPU_LINE.get(record.architecture, "flags")
    match = re.search(rf"^{line}\s*:(.*)$", cpuinfo, re.MULTILINE)
    if match is None:
        raise EnvironmentProblem(
            f"this {record.profile} engine is built for {record.architecture}, and /proc/cpuinfo has no line {line!r} "
            "as there: build the engine on this machine with `appliance engine build`"
        )
    present = set(match[1].split())
    missing = [name for name in record.instructions if name not in present]
    if missing:
        raise EnvironmentProblem(
            f"the {record.profile} engine needs a CPU with {', '.join(missing)}, this one lacks that"
        )


def _check_library(folder: Path, library: Library) -> None:
    try:
        data = (folder / library.name).read_bytes()
    except OSError:
        raise VerificationError("engine", "library-missing", expected=library.name, found="none") from None
    if (found := digest_of(data)) != library.digest or len(data) != library.size_bytes:
        raise VerificationError(
            "engine", "library-digest", expected=f"{library.name} {library.digest}", found=found,
            advice="the library changed after it was built: find out why, then build it again",
        )  # fmt: skip
