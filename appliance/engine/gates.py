"""The gates that a built library passes before it becomes an engine.

Refused, with `VerificationError`: a library that needs, exports, contains, imports or reports something else than the
recipe says. The library is read with binutils and loaded once, in a process of its own.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

from appliance.engine.recipe import EngineRecipe, Gates
from appliance.engine.tools import Shell, Tools
from attest.errors import VerificationError

SHOWN = 5
"""How many offenders a refusal names."""


def check_form(recipe: EngineRecipe, tools: Tools, shell: Shell, library: Path, bindings: Path) -> tuple[str, ...]:
    """What the library needs, sorted, once that, its symbols and its code are what the recipe says.

    `bindings` names the functions that the Python bindings look up in it.
    """
    # 1. Needed libraries; no search path, no relocation of code.
    dynamic = shell.run("reading the library", [tools.readelf, "-dW", str(library)])
    needed = tuple(sorted(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)))
    if not set(needed) <= set(recipe.link.needed):
        _refuse("library-needed", recipe.link.needed, needed)
    if unwanted := re.findall(r"\((RPATH|RUNPATH|TEXTREL)\)", dynamic):
        _refuse("library-dynamic", "none of RPATH, RUNPATH, TEXTREL", unwanted)
    # 2. Exported symbols: nothing but the patterns, nothing hidden, all that the bindings look up.
    table = shell.run("reading the library", [tools.readelf, "--dyn-syms", "-V", "-W", str(library)])
    symbols = [line.split() for line in table.splitlines() if re.match(r"\s*\d+: [0-9a-f]{16} ", line)]
    outside = [row for row in symbols if len(row) > 7 and row[4] != "LOCAL"]
    exported = {row[7].partition("@")[0] for row in outside if row[6] != "UND"}
    stray = {name for name in exported if not any(fnmatchcase(name, pattern) for pattern in recipe.link.exports)}
    if stray or exported & set(recipe.link.hidden):
        _refuse("library-exports", recipe.link.exports, sorted(stray | exported & set(recipe.link.hidden))[:SHOWN])
    bound = set(re.findall(r"@ctypes_function\(\s*\"(\w+)\"", bindings.read_text("utf-8")))
    if not bound or bound - exported:
        _refuse("library-bindings", "every function that the bindings look up", sorted(bound - exported)[:SHOWN])
    # 3. No path of this machine.
    if str(shell.work).encode() in library.read_bytes():
        _refuse("library-path", "no path of the build in the library", shell.work)
    # 4. What this recipe forbids: functions of other libraries, and instructions.
    if recipe.gates is not None:
        _check_imports(recipe.gates, outside, table)
        _check_instructions(recipe.gates, tools, shell, library)
    return needed


def _check_imports(gates: Gates, symbols: list[list[str]], table: str) -> None:
    """Refuse a function that is taken from a library, and is not one of those that may be taken from there."""
    # The table of needed versions names a library, then a number for each version; symbols carry the number.
    library, library_of = "", {}
    for name, number in re.findall(r"File: (\S+)|Name: \S+ +Flags: .* +Version: (\d+)", table):
        if name:
            library = name
        else:
            library_of[f"({number})"] = library
    stray = []
    for row in symbols:
        if row[6] == "UND" and row[4] != "WEAK":
            origin = library_of.get(row[8]) if len(row) > 8 else None
            name = row[7].partition("@")[0]
            if origin is None or name not in gates.imports.get(origin, (name,)):
                stray.append(f"{name} of {origin or 'an unnamed library'}")
    if stray:
        _refuse("library-imports", {k: " ".join(v) for k, v in gates.imports.items()}, sorted(stray)[:SHOWN])


def _check_instructions(gates: Gates, tools: Tools, shell: Shell, library: Path) -> None:
    """Refuse a forbidden instruction anywhere in the library, in what the compiler's own libraries added to it too."""
    if not gates.forbidden_instructions:
        return
    forbidden = re.compile(rf"(?:{'|'.join(gates.forbidden_instructions)})(?![\w.])")
    command = [tools.objdump, "-d", "-w", "--no-show-raw-insn", str(library)]
    function, found, instructions = "", [], 0
    for line in shell.run("disassembling the library", command, logged=False).splitlines():
        if line.endswith(">:"):
            function = line.partition("<")[2][:-2]
        elif "\t" in line:
            instructions += 1
            mnemonic = line.partition("\t")[2]
            if forbidden.match(mnemonic):
                found.append(f"{mnemonic.split()[0]} in {function}")
    if found or not instructions:
        expected = f"none of {', '.join(gates.forbidden_instructions)}"
        _refuse("library-instructions", expected, f"{len(found)} of {instructions} instructions: {found[:SHOWN]}")


_PROBE = """
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char ** arguments) {
    void * library = dlopen(arguments[1], RTLD_NOW);
    if (library == NULL) {
        puts(dlerror());
        return 1;
    }
    const char * names[] = {"ggml_commit", "llama_print_system_info"};
    for (int i = 0; i < 2; ++i) {
        const char * (*report)(void) = (const char * (*)(void)) dlsym(library, names[i]);
        puts(report == NULL ? names[i] : report());
    }
    return 0;
}
"""


def check_loads(recipe: EngineRecipe, tools: Tools, shell: Shell, library: Path) -> str:
    """What the library reports about its kernels, loaded by a small program of its own architecture."""
    (shell.work / "probe.c").write_text(_PROBE, "ascii")
    shell.run("compiling the probe", [tools.cc, "-o", "probe", "probe.c", "-ldl"])
    command = [str(shell.work / "probe"), str(library)]
    if tools.emulator is not None:
        libc = shell.run("finding the C library", [tools.cc, "-print-file-name=libc.so.6"]).strip()
        command = [tools.emulator, "-L", str(Path(libc).resolve().parents[1]), *command]
    commit, _, system_info = shell.run("loading the engine", command).partition("\n")
    if commit != recipe.source.upstream_commit:
        _refuse("library-commit", recipe.source.upstream_commit, commit)
    return system_info.strip(" |\n")


def _refuse(code: str, expected: object, found: object) -> None:
    raise VerificationError("engine", code, expected=expected, found=found)
