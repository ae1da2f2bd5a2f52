"""The source of an engine: fetched once, compared before it is unpacked, unpacked and patched without surprises.

Refuses a source or a patch that is not the pinned one, an archive member that leads out of its folder, and a patch that
does not apply to the letter.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from appliance.engine.recipe import Patch, Source
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError

LOG_TAIL_LINES = 15

Progress = Callable[[str, float | None], None]
"""Called with what happens now, and how much of the compilation is done (0 to 1), or None where that is unknown."""


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
                f"with --source. pip said:\n{tail(done.stdout.decode(errors='replace'))}"
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


def tail(text: str) -> str:
    """The last lines of a log."""
    return "\n".join(text.rstrip().splitlines()[-LOG_TAIL_LINES:])
