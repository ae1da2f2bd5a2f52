"""Build the pinned llama.cpp engine from source: one recipe in, one `libllama.so` and one record out.

`build` reads a recipe (`images/engine/*.toml`), takes a source distribution whose size and SHA-256 the recipe pins,
applies the recipe's patches, compiles in a scrubbed environment and links one shared library that needs the C library
alone. The same recipe, compiler and C library give the same bytes, in any folder and at any time; the record carries no
clock and no path, so it is reproducible too.

A recipe for several architectures is built for one of them at a time: for this machine, or with a cross compiler.

Refused: a source, a patch or an archive member that is not what the recipe says, before anything of it is unpacked or
run; a build option that upstream no longer knows; a library that does not pass the gates of `gates.py`. Assumed: Linux,
a C++ compiler with binutils, and that nobody else writes to the output folder.
"""

from __future__ import annotations

import fcntl
import platform
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.engine.gates import check_form, check_loads
from appliance.engine.recipe import (
    LIBRARY,
    RECORD,
    Architecture,
    EngineRecipe,
    EngineRecord,
    Library,
    Toolchain,
    load_recipe,
    load_record,
)
from appliance.engine.source import Progress, apply_patch, fetch, read_patch, read_source, unpack
from appliance.engine.tools import Shell, Tools, describe, find_tools
from attest.canonical import dump_model
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, VerificationError, VitrineError

BUILDER_REVISION = 1
"""Raised when a change of this package changes the bytes of a library. Builds of another revision are done again."""

TARGETS = ("llama", "ggml")
ARCHIVES = ("src/libllama.a", "ggml/src/libggml.a", "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a")
SYSTEM_LIBRARIES = ("-lpthread", "-lm", "-ldl")


def build(
    recipe_path: Path,
    out: Path,
    *,
    source: Path | None,
    jobs: int,
    progress: Progress,
    target: Architecture | None = None,
) -> EngineRecord:
    """Build the engine that the recipe at `recipe_path` describes into `out`, or reuse what was built there before.

    `source` is the source distribution; None takes it from the folder `source` beside `out`, and downloads it there
    first if needed. `jobs` compilations run side by side. `target` is one of the recipe's architectures; None is that
    of this machine, another one needs its cross compiler and `qemu-<architecture>`. Everything happens in a hidden
    sibling of `out`, and only the finished files are moved in, the record last: an interrupted build leaves no engine,
    never half of one. The compiler's output stays in `<out>.log`.

    Raises `MalformedInput` for a recipe, source or patch that cannot be read, `VerificationError` for one that is not
    what was pinned and for a library that fails a gate, `Unsupported` for a target that the recipe has not,
    `EnvironmentProblem` for a missing tool or a failed compiler.
    """
    recipe = load_recipe(recipe_path)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with _locked(out, progress):
        # 1. A finished build of this recipe is the result.
        if (finished := _finished(recipe, out, target, progress)) is not None:
            progress(f"the {recipe.profile} engine is up to date", 1.0)
            return finished
        # 2. What is needed, before anything is downloaded: the tools, then the patches and additions.
        architecture, tools = find_tools(recipe, target)
        patches = [read_patch(recipe_path.parent, patch) for patch in recipe.patches]
        additions = [read_patch(recipe_path.parent, addition) for addition in recipe.additions or ()]
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
            shell = Shell(work, out.with_name(f"{out.name}.log"))
            toolchain = describe(tools, shell)
            _compile(recipe, architecture, tools, shell, tree, jobs=jobs, progress=progress)
            objects = _compile_additions(recipe, tools, shell, additions)
            library = _link(recipe, tools, shell, objects)
            # 5. The gates: what the library needs, exports, contains and reports.
            progress("checking the library", None)
            needed = check_form(recipe, tools, shell, library, work / "source" / recipe.source.bindings)
            system_info = check_loads(recipe, tools, shell, library)
            # 6. The record, and the move into place.
            record = _record(recipe, architecture, toolchain, library, needed, system_info)
            _install(out, library, record)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    progress(f"the {recipe.profile} engine is built", 1.0)
    return record


def _compile(
    recipe: EngineRecipe,
    architecture: Architecture,
    tools: Tools,
    shell: Shell,
    tree: Path,
    *,
    jobs: int,
    progress: Progress,
) -> None:
    flags = shlex.join(_flags(recipe, shell))
    objects = str(shell.work / "objects")
    command = [tools.cmake, "-S", str(tree), "-B", objects, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools.ninja}"]
    command += [f"-DCMAKE_C_COMPILER={tools.cc}", f"-DCMAKE_CXX_COMPILER={tools.cxx}"]
    command += [f"-DCMAKE_C_FLAGS={flags}", f"-DCMAKE_CXX_FLAGS={flags}"]
    if tools.emulator is not None:
        command += [
            f"-D{name}={value}" for name, value in _cross(architecture).items() if name not in recipe.definitions
        ]
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


def _flags(recipe: EngineRecipe, shell: Shell) -> list[str]:
    # No path of this machine may reach the library: asserts and unity builds carry file names.
    return [f"-ffile-prefix-map={shell.work}=.", *recipe.compile.flags]


def _cross(architecture: Architecture) -> dict[str, str]:
    """What CMake has to know of a machine that is not this one, unless the recipe says it."""
    return {"CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": architecture}


def _compile_additions(recipe: EngineRecipe, tools: Tools, shell: Shell, additions: list[bytes]) -> list[str]:
    """The object files of the recipe's own C files, named by their place: no two collide."""
    objects = []
    for number, text in enumerate(additions):
        (shell.work / f"addition-{number}.c").write_bytes(text)
        objects.append(f"addition-{number}.o")
        command = [tools.cc, "-std=c11", "-O2", "-fPIC", "-fno-builtin", *_flags(recipe, shell)]
        shell.run("compiling an addition", [*command, "-c", f"addition-{number}.c", "-o", objects[-1]])
    return objects


def _link(recipe: EngineRecipe, tools: Tools, shell: Shell, objects: list[str]) -> Path:
    exports = "exports.map"
    (shell.work / exports).write_text(
        f"{{ global: {' '.join(f'{pattern};' for pattern in recipe.link.exports)}"
        f" local: {' '.join(f'{name};' for name in recipe.link.hidden)} *; }};\n",
        "ascii",
    )
    command = [tools.cxx, "-shared", "-o", LIBRARY, f"-Wl,-soname,{LIBRARY}", f"-Wl,--version-script={exports}"]
    # The additions come first: their functions are found before those of the system's libraries.
    command += [*recipe.link.flags, *objects]
    command += ["-Wl,--whole-archive", *(f"objects/{name}" for name in ARCHIVES), "-Wl,--no-whole-archive"]
    shell.run("linking the engine", [*command, *SYSTEM_LIBRARIES])
    shell.run("stripping the engine", [tools.strip, "--strip-unneeded", LIBRARY])
    return shell.work / LIBRARY


def _record(
    recipe: EngineRecipe,
    architecture: Architecture,
    toolchain: Toolchain,
    library: Path,
    needed: tuple[str, ...],
    system_info: str,
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
        addition_digests=tuple(each.digest for each in recipe.additions) if recipe.additions else None,
        toolchain=toolchain,
        definitions=recipe.definitions,
        compile_flags=recipe.compile.flags,
        link_flags=recipe.link.flags,
        architecture=architecture,
        instructions=recipe.instructions_of(architecture),
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


def _finished(recipe: EngineRecipe, out: Path, target: Architecture | None, progress: Progress) -> EngineRecord | None:
    try:
        record = load_record(out)
    except EnvironmentProblem:
        return None
    except VitrineError as problem:
        progress(f"building again, because {problem}", None)
        return None
    same = record.recipe_digest == recipe.digest() and record.builder_revision == BUILDER_REVISION
    return record if same and record.architecture == (target or platform.machine()) else None


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
