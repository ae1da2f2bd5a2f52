"""Compiles the first program of the virtual machine: one C file, no library, a few kilobytes.

What counts is the SHA-256 of the result, which the lock pins: the compiler is taken from the host, and another version
of it that makes other bytes is refused by name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from appliance.image.machine import LockedInit
from attest.canonical import validate
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, VerificationError

COMPILER = "x86_64-linux-gnu-gcc"
FLAGS = (
    "-std=gnu11", "-Os", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-ffreestanding", "-fno-builtin", "-nostdlib",
    "-static", "-fno-pie", "-no-pie", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none",
    "-fno-tree-loop-distribute-patterns", "-fno-ident", "-Wl,--build-id=none,-z,noexecstack,-z,norelro", "-s",
)  # fmt: skip
"""No standard library, no unwinding, nothing that says when or where it was compiled."""
TIMEOUT_S = 120


def compile_init(source: bytes) -> tuple[bytes, LockedInit]:
    """The program that `source` makes, and what a lock says of it. Raises `EnvironmentProblem` without a compiler."""
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise EnvironmentProblem(f"{COMPILER} is not on this host: install it (Debian: `apt install gcc`)")
    with tempfile.TemporaryDirectory(prefix="vitrine-init-") as folder:
        work = Path(folder)
        (work / "init.c").write_bytes(source)
        _run([compiler, *FLAGS, "-o", "init", "init.c"], work)
        program = (work / "init").read_bytes()
        banner = _run([compiler, "--version"], work).partition("\n")[0].strip()
    fields = {"source": digest_of(source), "digest": digest_of(program), "compiler": banner}
    return program, validate(LockedInit, fields, "compiled init")


def compile_locked(source: bytes, lock: LockedInit) -> bytes:
    """The program that `source` makes, if it is the one in the lock. Raises `VerificationError`."""
    if digest_of(source) != lock.source:
        raise VerificationError(
            "image", "init-source", expected=lock.source, found=digest_of(source),
            advice="the source has changed: make the lock again and review it",
        )  # fmt: skip
    program, found = compile_init(source)
    if found.digest != lock.digest:
        raise VerificationError(
            "image", "init", expected=f"{lock.digest}, made by {lock.compiler}",
            found=f"{found.digest}, made by {found.compiler}", advice="compile it with the compiler of the lock",
        )  # fmt: skip
    return program


def _run(command: list[str], work: Path) -> str:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TMPDIR": str(work)}
    try:
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentProblem(f"{command[0]} did not end within {TIMEOUT_S} s") from None
    if done.returncode:
        raise EnvironmentProblem(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout
