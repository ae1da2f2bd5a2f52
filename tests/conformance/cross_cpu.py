"""Compute the same logits on several processors and architectures, and compare every bit.

The demo's model decodes a fixed sequence of tokens, prefilled, in chunks on two threads, and token by token:

1. with the fast engine, natively and on an emulated Haswell;
2. with the portable engine on x86-64, natively, on an emulated Haswell and on one with SSE2 and little more;
3. with the portable engine built for aarch64, emulated.

Within 1, and within 2 and 3 together, every SHA-256 of the float32 logits has to be the same. As a control, that of 1
and 2 has to differ: the two engines add in other orders. The portable engine's own mathematical functions are compared
between the architectures on numbers of every magnitude, too. An engine that is not there yet is built first.

    python -m tests.conformance.cross_cpu [--source SDIST] [--engines build/engine] [--positions 320]

Needs an x86-64 machine and, on Debian, `apt install g++ g++-aarch64-linux-gnu qemu-user`. Exit code 0 when everything
is identical, 1 when not or when something is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from appliance import resources
from appliance.engine.build import build
from appliance.engine.recipe import RECORD, Architecture, EngineRecipe, load_recipe, load_record, recipe_path
from appliance.engine.source import fetch, read_source
from appliance.engine.tools import Tools, find_tools
from attest.errors import EnvironmentProblem, VitrineError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FAST_PROFILES = ("x86-64-v3", "reference")
"""The engine whose results count, and what stands in where it has not been built."""
MODES = (("prefilled", "all", "1"), ("chunks of 64, 2 threads", "64", "2"), ("token by token", "1", "1"))


@dataclass(frozen=True)
class Machine:
    """A processor that runs programs: this one, or an emulated one."""

    name: str
    command: tuple[str, ...]
    """What comes before the program."""


@dataclass(frozen=True)
class Setting:
    """An engine, its driver, and the processors that it has to give the same logits on."""

    name: str
    engine: Path
    driver: Path
    machines: tuple[Machine, ...]


def main() -> int:
    """Build what is missing, compute, compare, and say what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, help="the source distribution; without it, it is downloaded")
    parser.add_argument("--engines", type=Path, default=ROOT / "build" / "engine", help="where the engines are")
    parser.add_argument("--positions", type=int, default=320)
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="cross-cpu-") as folder:
            return run(options.engines.resolve(), options.source, options.positions, Path(folder))
    except VitrineError as problem:
        say(str(problem))
        return 1


def run(engines: Path, source: Path | None, positions: int, work: Path) -> int:
    """0 when everything is identical, 1 when not."""
    if platform.machine() != "x86_64":
        raise EnvironmentProblem(f"expected an x86-64 machine, found {platform.machine()}")
    recipe = load_recipe(recipe_path("portable"))
    here, there = find_tools(recipe, None)[1], find_tools(recipe, "aarch64")[1]
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        raise EnvironmentProblem("the comparison needs qemu-x86_64, not found (Debian: `apt install qemu-user`)")
    native = Machine("this processor", ())
    haswell = Machine("Haswell", (emulator, "-cpu", "Haswell"))
    oldest = Machine("SSE2 only", (emulator, "-cpu", "qemu64"))
    arm = Machine("aarch64", (str(there.emulator), "-L", str(sysroot(there.cc))))

    # 1. The engines, and the headers of the very source that they were built from.
    archive = source or fetch(recipe.source, engines / "source", lambda text, fraction: say(text))
    fast = next((engines / name for name in FAST_PROFILES if (engines / name / RECORD).exists()), None)
    if fast is None:
        raise EnvironmentProblem(f"expected an engine in {engines / FAST_PROFILES[0]}: run `make engine`")
    made = {name: engine(engines, name, archive, target) for name, target in PORTABLE.items()}
    headers = unpack_headers(recipe, archive, work)

    # 2. The library's own mathematical functions.
    outcome = compare_libm(recipe, {native: here, arm: there}, work)

    # 3. Logits.
    settings = [
        Setting(f"the {fast.name} engine", fast, driver(fast, here, headers, work), (native, haswell)),
        Setting(
            "the portable engine for x86-64", made["portable"], driver(made["portable"], here, headers, work),
            (native, haswell, oldest),
        ),
        Setting(
            "the portable engine for aarch64", made["portable-aarch64"],
            driver(made["portable-aarch64"], there, headers, work), (arm,),
        ),
    ]  # fmt: skip
    found = [fingerprints(setting, positions) for setting in settings]
    groups = {settings[0].name: found[0], "the portable engine": found[1] | found[2]}
    for name, digests in groups.items():
        say(f"{name}: {'identical' if len(digests) == 1 else 'DIFFERENT'} {' '.join(sorted(digests))}")
        outcome |= len(digests) != 1
    if found[0] & found[1]:
        say("control: DIFFERENT logits were expected of the two engines, found the same")
        outcome = 1
    return outcome


PORTABLE: dict[str, Architecture] = {"portable": "x86_64", "portable-aarch64": "aarch64"}
"""Folder and architecture of the portable engine's builds."""


def engine(engines: Path, name: str, archive: Path, target: Architecture) -> Path:
    """The folder of the portable engine for `target`, built if it is not there or not of this recipe."""
    shown: set[int] = set()

    def progress(text: str, fraction: float | None) -> None:
        tenth = -1 if fraction is None else int(fraction * 10)
        if fraction in (None, 1.0) or tenth not in shown:
            say(f"{name}: {text}" if fraction in (None, 1.0) else f"{name}: {tenth * 10} %")
        shown.add(tenth)

    out = engines / name
    build(recipe_path("portable"), out, source=archive, jobs=os.cpu_count() or 1, progress=progress, target=target)
    return out


def unpack_headers(recipe: EngineRecipe, archive: Path, work: Path) -> list[Path]:
    """The two folders of the C interface, out of the hash-pinned source distribution."""
    folders = [f"{recipe.source.root}/include/", f"{recipe.source.root}/ggml/include/"]
    with tarfile.open(fileobj=io.BytesIO(read_source(archive, recipe.source)), mode="r:gz") as tar:
        for member in tar:
            if member.isreg() and member.name.startswith(tuple(folders)):
                tar.extract(member, work, filter="data")
    return [work / folder for folder in folders]


def driver(folder: Path, tools: Tools, headers: list[Path], work: Path) -> Path:
    """The program of `logits.c`, linked with the engine in `folder`."""
    out = work / f"logits-{folder.name}"
    include = [f"-I{header}" for header in headers]
    link = [f"-L{folder}", "-l:libllama.so", f"-Wl,-rpath,{folder}"]
    compile_with(tools, [*include, str(HERE / "logits.c"), "-o", str(out), *link])
    return out


def compare_libm(recipe: EngineRecipe, machines: dict[Machine, Tools], work: Path) -> int:
    """Whether the mathematical functions give other bits on another architecture."""
    digests = set()
    for machine, tools in machines.items():
        out = work / f"libm-{machine.name}"
        files = [str(recipe_path("portable").parent / addition.file) for addition in recipe.additions or ()]
        # Without builtins: the functions of the file are meant, not what the compiler knows of them.
        flags = ["-std=c11", "-fno-builtin", *recipe.compile.flags]
        compile_with(tools, [*flags, *files, str(HERE / "libm.c"), "-o", str(out)])
        done = subprocess.run([*machine.command, out], env={}, stdout=subprocess.PIPE, check=True)
        digests.add(hashlib.sha256(done.stdout).hexdigest())
        say(f"mathematical functions, {machine.name}: {len(done.stdout)} bytes of results")
    say(f"mathematical functions: {'identical' if len(digests) == 1 else 'DIFFERENT'} {' '.join(sorted(digests))}")
    return int(len(digests) != 1)


def fingerprints(setting: Setting, positions: int) -> set[str]:
    """The SHA-256 of the float32 logits of every position, on each machine and in each mode."""
    record = load_record(setting.engine)
    model = resources.demo() / "organism-q8_0.gguf"
    digests = set()
    for machine in setting.machines:
        for mode, chunk, threads in MODES:
            arguments = [str(model), str(positions), str(positions) if chunk == "all" else chunk, threads]
            command = [*machine.command, str(setting.driver), *arguments]
            done = subprocess.run(command, env=record.environment, capture_output=True, check=False)
            if done.returncode != 0 or not done.stdout:
                raise EnvironmentProblem(f"{' '.join(command)} failed: {done.stderr.decode(errors='replace')[-600:]}")
            digests.add(digest := hashlib.sha256(done.stdout).hexdigest())
            seconds = done.stderr.decode(errors="replace").split()[-1]
            say(f"{setting.name}, {machine.name}, {mode}: {digest[:16]} ({seconds} CPU seconds)")
    return digests


def compile_with(tools: Tools, arguments: list[str]) -> None:
    """Compile, or raise `EnvironmentProblem` with what the compiler says."""
    done = subprocess.run([tools.cc, "-O2", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvironmentProblem(f"{tools.cc} failed:\n{done.stderr[-2000:]}")


def sysroot(compiler: str) -> Path:
    """The folder of a cross compiler's C library, which stands in for the root folder under emulation."""
    done = subprocess.run([compiler, "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()).resolve().parents[1]


def say(line: str) -> None:
    """One line to whoever waits."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
