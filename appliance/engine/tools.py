"""The programs that an engine build calls: found by name, run with nothing of the caller's environment but `PATH`.

A build for another architecture takes the cross compiler of that name (`aarch64-linux-gnu-gcc`) and runs what it made
under `qemu-aarch64`. Refuses to start with a tool missing, and names all that are.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from appliance.engine.recipe import Architecture, EngineRecipe, Toolchain
from appliance.engine.source import tail
from attest.errors import EnvironmentProblem, Unsupported

COMPILERS = ("cc", "c++")
BINUTILS = ("strip", "readelf", "objdump")
CROSS_NAMES = {"cc": "gcc", "c++": "g++"}
"""What the cross compilers for Debian's `<architecture>-linux-gnu` are called."""


class Tools(NamedTuple):
    """Paths of the programs that a build calls."""

    cc: str
    cxx: str
    strip: str
    readelf: str
    objdump: str
    cmake: str
    ninja: str
    emulator: str | None
    """Runs programs of the target where that is another machine; None where it is this one."""


def find_tools(recipe: EngineRecipe, target: Architecture | None) -> tuple[Architecture, Tools]:
    """The architecture that `recipe` is built for, `target` or else this machine's, and the programs that it takes.

    Raises `EnvironmentProblem` that names all missing programs, `Unsupported` for a target that the recipe has not.
    """
    here = platform.machine()
    if target is not None and target not in recipe.architectures():
        known = ", ".join(recipe.architectures())
        raise Unsupported("engine target", f"the {recipe.profile} engine can be built for {known}, found {target}")
    chosen = target or next((name for name in recipe.architectures() if name == here), None)
    if chosen is None or sys.platform != "linux":
        known = " or ".join(recipe.architectures())
        raise EnvironmentProblem(
            f"the {recipe.profile} engine is built for Linux {known}, this is {sys.platform} {here}: build it there, "
            "in a container of that architecture, or with --target and a cross compiler"
        )
    search = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
    cross = chosen != here
    prefix = f"{chosen}-linux-gnu-" if cross else ""
    names = [prefix + (CROSS_NAMES.get(name, name) if cross else name) for name in (*COMPILERS, *BINUTILS)]
    names += ["cmake", "ninja", *([f"qemu-{chosen}"] if cross else [])]
    found = {name: shutil.which(name, path=search) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        advice = []
        if set(names[:5]) & set(missing):
            package = f"g++-{chosen.replace('_', '-')}-linux-gnu" if cross else "g++"
            advice.append(f"install a C++ compiler with binutils (Debian: `apt install {package}`)")
        if {"cmake", "ninja"} & set(missing):
            advice.append("install the Python packages `cmake` and `ninja` (`pip install cmake ninja`)")
        if cross and names[-1] in missing:
            advice.append("install an emulator, in which the library is loaded once (Debian: `apt install qemu-user`)")
        raise EnvironmentProblem(f"the engine build needs {', '.join(missing)}, not found: {'; '.join(advice)}")
    paths = [str(found[name]) for name in names]
    return chosen, Tools._make([*paths[:7], paths[7] if cross else None])


class Shell:
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

    def run(
        self,
        step: str,
        command: list[str],
        each_line: Callable[[str], None] | None = None,
        *,
        logged: bool = True,
    ) -> str:
        """What `command` prints, which also goes to the log unless `logged` is false.

        Raises `EnvironmentProblem` with the last lines of it if it fails. An interruption of this process stops the
        command before it goes on.
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
                        if logged:
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


def describe(tools: Tools, shell: Shell) -> Toolchain:
    """What the tools say about themselves, and the version of the C library that they link to."""

    def first_line(*command: str) -> str:
        return shell.run(f"{Path(command[0]).name} --version", list(command)).partition("\n")[0].strip()

    # From the headers, not from this process: a cross compiler has a C library of its own.
    names = ["-E", "-dM", "-include", "features.h", "-xc", "/dev/null"]
    macros = shell.run("reading the C library's version", [tools.cc, *names], logged=False)
    libc = dict(re.findall(r"#define (__GLIBC__|__GLIBC_MINOR__) (\d+)", macros))
    return Toolchain(
        c_compiler=first_line(tools.cc, "--version"),
        cxx_compiler=first_line(tools.cxx, "--version"),
        linker=first_line(first_line(tools.cxx, "-print-prog-name=ld"), "--version"),
        libc=f"glibc {libc['__GLIBC__']}.{libc['__GLIBC_MINOR__']}" if len(libc) == 2 else "unknown",
        cmake=first_line(tools.cmake, "--version"),
        ninja=first_line(tools.ninja, "--version"),
    )
