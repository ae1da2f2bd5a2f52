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
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from appliance.engine.recipe import (
    LIBRARY,
    RECORD,
    EngineRecipe,
    EngineRecord,
    Library,
    Toolchain,
    load_recipe,
    load_record,
)
from appliance.engine.source import Progress, apply_patch, fetch, read_patch, read_source, tail, unpack
from attest.canonical import dump_model
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, VerificationError, VitrineError

BUILDER_REVISION = 1
"""Raised when a change of this package changes the bytes of a library. Builds of another revision are done again."""

TARGETS = ("llama", "ggml")
ARCHIVES = ("src/libllama.a", "ggml/src/libggml.a", "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a")
SYSTEM_LIBRARIES = ("-lpthread", "-lm", "-ldl")


class Tools(NamedTuple):
    """Paths of the programs that a build calls."""

    cc: str
    cxx: str
    strip: str
    readelf: str
    cmake: str
    ninja: str


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
            raise EnvironmentProblem(f"{step} failed with status {code}, see {self.log}:\n{tail(text)}")
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
