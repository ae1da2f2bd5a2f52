"""Build the pinned llama.cpp engine from source: one recipe in, one `libllama.so` and one record out.

`build` reads a recipe (`images/engine/*.toml`), takes a source distribution whose size and SHA-256 the recipe pins,
applies the recipe's patches, compiles in a scrubbed environment and links one shared library that needs the C library
alone. The same recipe, compiler and C library give the same bytes, in any folder and at any time; the record carries no
clock and no path, so it is reproducible too.

Refused: a source, a patch or an archive member that is not what the recipe says, before anything of it is unpacked or
run; a build option that upstream no longer knows; a library that needs, exports, hides or reports something else than
the recipe says. Assumed: Linux, a C++ compiler with binutils, and that nobody else writes to the output folder.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, StringConstraints, model_validator

from appliance import resources
from attest.canonical import Model, dump_model, parse, validate
from attest.digest import Digest, digest_of
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError, VitrineError

BUILDER_REVISION = 1
"""Raised when a change of this module changes the bytes of a library. Builds of another revision are done again."""

LIBRARY = "libllama.so"
RECORD = "record.json"
TARGETS = ("llama", "ggml")
ARCHIVES = ("src/libllama.a", "ggml/src/libggml.a", "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a")
SYSTEM_LIBRARIES = ("-lpthread", "-lm", "-ldl")
LOG_TAIL_LINES = 15
OPTION_OF = {
    "sse4_2": "GGML_SSE42",
    "avx": "GGML_AVX",
    "avx2": "GGML_AVX2",
    "fma": "GGML_FMA",
    "f16c": "GGML_F16C",
    "bmi2": "GGML_BMI2",
}
"""The instruction sets that a recipe can ask for, as /proc/cpuinfo names them, and the build option of each."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Option = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
Value = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]*$")]
Flag = Annotated[str, StringConstraints(pattern=r"^-[A-Za-z0-9_=,.+-]+$")]
SymbolPattern = Annotated[str, StringConstraints(pattern=r"^[a-z_]+\*?$")]
_PART = "[A-Za-z0-9_][A-Za-z0-9._-]*"
RelativePath = Annotated[str, StringConstraints(pattern=f"^{_PART}(/{_PART})*$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{9,40}$")]

Progress = Callable[[str, float | None], None]
"""Called with what happens now, and how much of the compilation is done (0 to 1), or None where that is unknown."""


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


class EngineRecipe(Model):
    """Everything that decides the bytes of the library, except the toolchain."""

    format: Literal["vitrine/engine-recipe/v1"]
    """The version of this format."""
    name: Name
    """The engine's name."""
    profile: Name
    """Which build of it: `reference` is the one whose results count."""
    architecture: Literal["x86_64"]
    """The machine that it is built on and for."""
    instructions: tuple[Literal["sse4_2", "avx", "avx2", "fma", "f16c", "bmi2"], ...]
    """The instruction sets that its kernels use, as /proc/cpuinfo names them."""
    source: Source
    """What it is built from."""
    patches: tuple[Patch, ...]
    """What is changed in the source first, in this order."""
    definitions: dict[Option, Value]
    """CMake definitions. One that the source does not use fails the build."""
    compile: Compile
    """How it is compiled."""
    link: Link
    """How it is linked."""
    environment: dict[Option, Value]
    """What a process has to set before it loads the library."""

    @model_validator(mode="after")
    def _instructions_match(self) -> Self:
        stated = {name for name, option in OPTION_OF.items() if self.definitions.get(option) == "ON"}
        if stated != set(self.instructions) or self.definitions.get("GGML_NATIVE") != "OFF":
            raise ValueError(f"expected GGML_NATIVE=OFF and definitions that switch on exactly {self.instructions}")
        return self

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


class Tools(NamedTuple):
    """Paths of the programs that a build calls."""

    cc: str
    cxx: str
    strip: str
    readelf: str
    cmake: str
    ninja: str


def recipe_path(profile: str = "reference") -> Path:
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

    Raises `EnvironmentProblem` that names the missing instruction sets.
    """
    match = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    present = set(match[1].split()) if match else set()
    missing = [name for name in record.instructions if name not in present]
    if missing:
        raise EnvironmentProblem(
            f"the {record.profile} engine needs a CPU with {', '.join(missing)}, this one lacks that"
        )


def build(recipe_path: Path, out: Path, *, source: Path | None, jobs: int, progress: Progress) -> EngineRecord:
    """Build the engine that the recipe at `recipe_path` describes into `out`, or reuse what was built there before.

    `source` is the source distribution; None takes it from the folder `source` beside `out`, and downloads it there
    first if needed. `jobs` compilations run side by side. Everything happens in a hidden sibling of `out`, and only the
    finished files are moved in, the record last: an interrupted build leaves no engine, never half of one. The
    compiler's output stays in `<out>.log`.

    Raises `MalformedInput` for a recipe, source or patch that cannot be read, `VerificationError` for one that is not
    what was pinned and for a library that fails a gate, `EnvironmentProblem` for a missing tool or a failed compiler.
    """
    recipe = load_recipe(recipe_path)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with _locked(out, progress):
        # 1. A finished build of this recipe is the result.
        if (finished := _finished(recipe, out, progress)) is not None:
            progress(f"the {recipe.profile} engine is up to date", 1.0)
            return finished
        # 2. What is needed, before anything is downloaded: the tools, then the patches.
        tools = find_tools(recipe)
        patches = [read_patch(recipe_path.parent, patch) for patch in recipe.patches]
        # 3. The source, read once: what is unpacked is what was hashed.
        data = read_source(source or fetch(recipe.source, out.parent / "source", progress), recipe.source)
        work = out.with_name(f".{out.name}.building")
        shutil.rmtree(work, ignore_errors=True)
        try:
            progress("unpacking the source", None)
            unpack(data, recipe.source, work / "source")
            tree = work / "source" / recipe.source.root
            for patch, text in zip(recipe.patches, patches, strict=True):
                apply_patch(tree, text, patch.file)
            # 4. Compile and link, in an environment that holds nothing of the caller's.
            shell = _Shell(work, out.with_name(f"{out.name}.log"))
            toolchain = _describe(tools, shell)
            _compile(recipe, tools, shell, tree, jobs=jobs, progress=progress)
            library = _link(recipe, tools, shell)
            # 5. The gates: what the library needs, exports, contains and reports.
            progress("checking the library", None)
            needed = _check_library_form(recipe, tools, shell, library, work / "source" / recipe.source.bindings)
            system_info = _check_loads(recipe, shell, library)
            # 6. The record, and the move into place.
            record = _record(recipe, toolchain, library, needed, system_info)
            _install(out, library, record)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    progress(f"the {recipe.profile} engine is built", 1.0)
    return record


def find_tools(recipe: EngineRecipe) -> Tools:
    """The programs that a build of `recipe` calls. Raises `EnvironmentProblem` that names all that are missing."""
    if platform.machine() != recipe.architecture or sys.platform != "linux":
        raise EnvironmentProblem(
            f"the {recipe.profile} engine is built on Linux {recipe.architecture}, this is {sys.platform} "
            f"{platform.machine()}: build it there, or in a container of that architecture"
        )
    here = sysconfig.get_path("scripts")
    search = os.pathsep.join((here, os.environ.get("PATH", os.defpath)))
    found = {name: shutil.which(name, path=search) for name in ("cc", "c++", "strip", "readelf", "cmake", "ninja")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        advice = []
        if {"cc", "c++", "strip", "readelf"} & set(missing):
            advice.append("install a C++ compiler with binutils (Debian: `apt install g++`)")
        if {"cmake", "ninja"} & set(missing):
            advice.append("install the Python packages `cmake` and `ninja` (`pip install cmake ninja`)")
        raise EnvironmentProblem(f"the engine build needs {', '.join(missing)}, not found: {'; '.join(advice)}")
    return Tools(*(str(path) for path in found.values()))


def fetch(source: Source, cache: Path, progress: Progress) -> Path:
    """The source distribution in the folder `cache`, downloaded with pip first if it is not there.

    pip checks the pinned hash before it looks inside. Raises `EnvironmentProblem` when the download fails.
    """
    path = cache / source.filename
    if path.is_file():
        return path
    progress(f"downloading {source.filename}", None)
    cache.mkdir(parents=True, exist_ok=True)
    incoming = cache / ".incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    try:
        requirements = incoming / "requirements.txt"
        requirements.write_text(f"{source.name}=={source.version} --hash={source.digest}\n", "utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", source.name]
        command += ["--require-hashes", "--disable-pip-version-check", "-r", str(requirements), "-d", str(incoming)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0 or not (incoming / source.filename).is_file():
            raise EnvironmentProblem(
                f"cannot download {source.filename}; without a network put it at {path}, {source.digest}, or name it "
                f"with --source. pip said:\n{_tail(done.stdout.decode(errors='replace'))}"
            )
        (incoming / source.filename).replace(path)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return path


def read_source(path: Path, source: Source) -> bytes:
    """The bytes of the source distribution at `path`. Raises `VerificationError` unless they are the pinned ones."""
    advice = f"delete {path} to have it downloaded again"
    try:
        with path.open("rb") as file:
            data = file.read(source.size_bytes + 1)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise EnvironmentProblem(f"cannot read the engine source: {error}") from None
    if len(data) != source.size_bytes:
        raise VerificationError(
            "engine", "source-size", expected=f"{source.size_bytes} bytes", found=f"{size} bytes", advice=advice
        )
    if (found := digest_of(data)) != source.digest:
        raise VerificationError("engine", "source-digest", expected=source.digest, found=found, advice=advice)
    return data


def read_patch(folder: Path, patch: Patch) -> bytes:
    """The bytes of a patch in the recipe's `folder`. Raises `VerificationError` unless they are the pinned ones."""
    try:
        data = (folder / patch.file).read_bytes()
    except OSError as error:
        raise MalformedInput("engine recipe", f"cannot read its patch: {error}") from None
    if (found := digest_of(data)) != patch.digest:
        raise VerificationError("engine", "patch-digest", expected=f"{patch.file} {patch.digest}", found=found)
    return data


def unpack(data: bytes, source: Source, into: Path) -> None:
    """Unpack the engine's sources and the bindings' declarations from the tar archive `data` into the folder `into`.

    Every member is checked, the unneeded ones too. Raises `VerificationError` for a link, a device or a name that
    leaves the archive's one top folder, `MalformedInput` for an archive that cannot be read.
    """
    if not hasattr(tarfile, "data_filter"):
        raise EnvironmentProblem("this Python unpacks archives without safety filters: use 3.11.4 or newer")
    top = source.root.partition("/")[0]
    into.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                parts = member.name.split("/")
                plain = member.isreg() or member.isdir()
                if not plain or parts[0] != top or any(part in ("", ".", "..") for part in parts):
                    expected = f"files and folders below {top}/"
                    raise VerificationError("engine", "source-member", expected=expected, found=repr(member.name))
                if member.name.startswith(f"{source.root}/") or member.name == source.bindings:
                    archive.extract(member, into, filter="data")
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise MalformedInput("engine source", f"expected a tar.gz archive: {error}") from None
    for wanted in (source.root, source.bindings):
        if not (into / wanted).exists():
            raise MalformedInput("engine source", f"expected {wanted} in it, found none")


def apply_patch(tree: Path, patch: bytes, what: str) -> None:
    """Apply the unified diff `patch`, called `what`, to the files below `tree`, as `patch -p1` with no fuzz would.

    It may only change existing files, at exactly the lines that it names. Raises `VerificationError` where the file
    reads otherwise, `MalformedInput` for a diff that cannot be read.
    """
    lines = patch.splitlines(keepends=True)
    at = next((number for number, line in enumerate(lines) if line.startswith(b"--- ")), len(lines))
    if at == len(lines):
        raise MalformedInput(what, "expected a unified diff, found no `---` line")
    while at < len(lines):
        target = tree / _patched_path(lines[at : at + 2], what)
        if not target.resolve().is_relative_to(tree.resolve()) or not target.is_file():
            raise VerificationError("engine", "patch-file", expected=f"a file {target.name} to change", found="none")
        at, text = _apply_hunks(target.read_bytes().splitlines(keepends=True), lines, at + 2, what)
        target.write_bytes(text)


def _patched_path(header: list[bytes], what: str) -> str:
    match = re.fullmatch(rb"--- a/([\w./+-]+)\n\+\+\+ b/([\w./+-]+)\n", b"".join(header))
    if match is None or match[1] != match[2]:
        raise MalformedInput(what, "expected `--- a/FILE` and `+++ b/FILE` with one and the same FILE")
    return match[1].decode("ascii", "replace")


def _apply_hunks(old: list[bytes], lines: list[bytes], at: int, what: str) -> tuple[int, bytes]:
    """The text that the hunks from line `at` of the diff make of `old`, and the line after the last of them."""
    new: list[bytes] = []
    used = 0
    while at < len(lines) and (match := re.match(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", lines[at])):
        first, removed, added = int(match[1]) - 1, int(match[2] or 1), int(match[4] or 1)
        if first < used or int(match[3]) - 1 != len(new) + first - used:
            raise MalformedInput(what, f"line {at + 1}: expected hunks in order, with consistent line numbers")
        new += old[used:first]
        used, at = first, at + 1
        while removed or added:
            tag, line = (lines[at][:1], lines[at][1:]) if at < len(lines) else (b"", b"")
            if tag not in (b" ", b"-", b"+"):
                raise MalformedInput(what, f"line {at + 1}: expected a line of the hunk, found something else")
            if tag != b"+":
                if used >= len(old) or old[used] != line:
                    found = old[used] if used < len(old) else b"the end of the file"
                    raise VerificationError("engine", "patch-context", expected=line, found=found)
                used, removed = used + 1, removed - 1
            if tag != b"-":
                new.append(line)
                added -= 1
            at += 1
    if not new or (at < len(lines) and not lines[at].startswith(b"--- ")):
        raise MalformedInput(what, f"line {at + 1}: expected a hunk")
    return at, b"".join(new + old[used:])


class _Shell:
    """Runs programs in the folder of the build, with an environment that holds nothing of the caller's but PATH."""

    def __init__(self, work: Path, log: Path) -> None:
        self.work = work
        self.log = log
        log.write_bytes(b"")
        (work / "home").mkdir()
        self.environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(work / "home"),
            "TMPDIR": str(work / "home"),
            "LC_ALL": "C",
            "TZ": "UTC",
            "SOURCE_DATE_EPOCH": "0",
            "GIT_CEILING_DIRECTORIES": str(work),
        }

    def run(self, step: str, command: list[str], each_line: Callable[[str], None] | None = None) -> str:
        """What `command` prints. Raises `EnvironmentProblem` with the last lines of it if it fails.

        An interruption of this process stops the command before it goes on.
        """
        lines: list[str] = []
        with self.log.open("a", buffering=1, encoding="utf-8") as log:
            log.write(f"$ {shlex.join(command)}\n")
            with subprocess.Popen(
                command, cwd=self.work, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", umask=0o022,
            ) as process:  # fmt: skip
                try:
                    for line in process.stdout or ():
                        lines.append(line)
                        log.write(line)
                        if each_line is not None:
                            each_line(line)
                    code = process.wait()
                except BaseException:
                    process.terminate()
                    raise
        text = "".join(lines)
        if code != 0:
            raise EnvironmentProblem(f"{step} failed with status {code}, see {self.log}:\n{_tail(text)}")
        return text


def _describe(tools: Tools, shell: _Shell) -> Toolchain:
    def first_line(*command: str) -> str:
        return shell.run(f"{Path(command[0]).name} --version", list(command)).partition("\n")[0].strip()

    return Toolchain(
        c_compiler=first_line(tools.cc, "--version"),
        cxx_compiler=first_line(tools.cxx, "--version"),
        linker=first_line(first_line(tools.cxx, "-print-prog-name=ld"), "--version"),
        libc=os.confstr("CS_GNU_LIBC_VERSION") or "unknown",
        cmake=first_line(tools.cmake, "--version"),
        ninja=first_line(tools.ninja, "--version"),
    )


def _compile(recipe: EngineRecipe, tools: Tools, shell: _Shell, tree: Path, *, jobs: int, progress: Progress) -> None:
    # No path of this machine may reach the library: asserts and unity builds carry file names.
    flags = shlex.join([f"-ffile-prefix-map={shell.work}=.", *recipe.compile.flags])
    objects = str(shell.work / "objects")
    command = [tools.cmake, "-S", str(tree), "-B", objects, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools.ninja}"]
    command += [f"-DCMAKE_C_COMPILER={tools.cc}", f"-DCMAKE_CXX_COMPILER={tools.cxx}"]
    command += [f"-DCMAKE_C_FLAGS={flags}", f"-DCMAKE_CXX_FLAGS={flags}"]
    command += [f"-D{name}={value}" for name, value in sorted(recipe.definitions.items())]
    progress("configuring", None)
    text = shell.run("configuring the engine", command)
    if unused := re.search(r"Manually-specified variables were not used by the project:\s+((?:\s+\w+\n)+)", text):
        found = ", ".join(unused[1].split())
        raise VerificationError("engine", "definition-unused", expected="known build options", found=found)

    def each_line(line: str) -> None:
        if step := re.match(r"\[(\d+)/(\d+)\] (.*)", line):
            progress(f"compiling {step[3].rpartition('/')[2].removesuffix('.o')}", int(step[1]) / int(step[2]))

    shell.run("compiling the engine", [tools.ninja, "-C", objects, f"-j{jobs}", *TARGETS], each_line)


def _link(recipe: EngineRecipe, tools: Tools, shell: _Shell) -> Path:
    exports = "exports.map"
    (shell.work / exports).write_text(
        f"{{ global: {' '.join(f'{pattern};' for pattern in recipe.link.exports)}"
        f" local: {' '.join(f'{name};' for name in recipe.link.hidden)} *; }};\n",
        "ascii",
    )
    command = [tools.cxx, "-shared", "-o", LIBRARY, f"-Wl,-soname,{LIBRARY}", f"-Wl,--version-script={exports}"]
    command += recipe.link.flags
    command += ["-Wl,--whole-archive", *(f"objects/{name}" for name in ARCHIVES), "-Wl,--no-whole-archive"]
    shell.run("linking the engine", [*command, *SYSTEM_LIBRARIES])
    shell.run("stripping the engine", [tools.strip, "--strip-unneeded", LIBRARY])
    return shell.work / LIBRARY


def _check_library_form(
    recipe: EngineRecipe, tools: Tools, shell: _Shell, library: Path, bindings: Path
) -> tuple[str, ...]:
    """What the library needs, once that and its symbols are what the recipe says."""

    def refuse(code: str, expected: object, found: object) -> None:
        raise VerificationError("engine", code, expected=expected, found=found)

    # 1. Needed libraries; no search path, no relocation of code.
    dynamic = shell.run("reading the library", [tools.readelf, "-dW", str(library)])
    needed = tuple(sorted(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)))
    if not set(needed) <= set(recipe.link.needed):
        refuse("library-needed", recipe.link.needed, needed)
    if unwanted := re.findall(r"\((RPATH|RUNPATH|TEXTREL)\)", dynamic):
        refuse("library-dynamic", "none of RPATH, RUNPATH, TEXTREL", unwanted)
    # 2. Exported symbols: nothing but the patterns, nothing hidden, all that the bindings look up.
    table = shell.run("reading the library", [tools.readelf, "--dyn-syms", "-W", str(library)])
    rows = [line.split() for line in table.splitlines() if re.match(r"\s*\d+:", line)]
    exported = {row[7].partition("@")[0] for row in rows if len(row) > 7 and row[6] != "UND"}
    stray = {name for name in exported if not any(fnmatchcase(name, pattern) for pattern in recipe.link.exports)}
    if stray or exported & set(recipe.link.hidden):
        refuse("library-exports", recipe.link.exports, sorted(stray | exported & set(recipe.link.hidden))[:5])
    bound = set(re.findall(r"@ctypes_function\(\s*\"(\w+)\"", bindings.read_text("utf-8")))
    if not bound or bound - exported:
        refuse("library-bindings", "every function that the bindings look up", sorted(bound - exported)[:5])
    # 3. No path of this machine.
    if str(shell.work).encode() in library.read_bytes():
        refuse("library-path", "no path of the build in the library", shell.work)
    return needed


_PROBE = """
import ctypes, json, sys
library = ctypes.CDLL(sys.argv[1])
def text(name):
    function = getattr(library, name)
    function.restype = ctypes.c_char_p
    return function().decode()
print(json.dumps({"commit": text("ggml_commit"), "system_info": text("llama_print_system_info")}))
"""


def _check_loads(recipe: EngineRecipe, shell: _Shell, library: Path) -> str:
    """What the library reports about its kernels, loaded in a process of its own that then ends."""
    text = shell.run("loading the engine", [sys.executable, "-I", "-c", _PROBE, str(library)])
    report = json.loads(text.splitlines()[-1])
    if report["commit"] != recipe.source.upstream_commit:
        raise VerificationError(
            "engine", "library-commit", expected=recipe.source.upstream_commit, found=report["commit"]
        )
    return str(report["system_info"]).strip(" |\n")


def _record(
    recipe: EngineRecipe, toolchain: Toolchain, library: Path, needed: tuple[str, ...], system_info: str
) -> EngineRecord:
    data = library.read_bytes()
    return EngineRecord(
        format="vitrine/engine-record/v1",
        builder_revision=BUILDER_REVISION,
        name=recipe.name,
        profile=recipe.profile,
        recipe_digest=recipe.digest(),
        source_digest=recipe.source.digest,
        upstream_commit=recipe.source.upstream_commit,
        patch_digests=tuple(patch.digest for patch in recipe.patches),
        toolchain=toolchain,
        definitions=recipe.definitions,
        compile_flags=recipe.compile.flags,
        link_flags=recipe.link.flags,
        architecture=recipe.architecture,
        instructions=recipe.instructions,
        system_info=system_info,
        environment=recipe.environment,
        libraries=(Library(name=library.name, digest=digest_of(data), size_bytes=len(data), needed=needed),),
    )


def _install(out: Path, library: Path, record: EngineRecord) -> None:
    """Move the finished files into `out`. The record goes first and comes last: without one there is no engine."""
    staged = library.with_name(RECORD)
    staged.write_bytes(dump_model(record))
    library.chmod(0o755)
    staged.chmod(0o644)
    out.mkdir(exist_ok=True)
    (out / RECORD).unlink(missing_ok=True)
    library.replace(out / library.name)
    staged.replace(out / RECORD)


def _finished(recipe: EngineRecipe, out: Path, progress: Progress) -> EngineRecord | None:
    try:
        record = load_record(out)
    except EnvironmentProblem:
        return None
    except VitrineError as problem:
        progress(f"building again, because {problem}", None)
        return None
    same = record.recipe_digest == recipe.digest() and record.builder_revision == BUILDER_REVISION
    return record if same else None


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


@contextmanager
def _locked(out: Path, progress: Progress) -> Iterator[None]:
    """One build of `out` at a time. The lock ends with the process, whatever ends that."""
    with out.with_name(f".{out.name}.lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build of this engine", None)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _tail(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-LOG_TAIL_LINES:])
