"""Python distributions: fetched by exact digest with pip, opened without installing.

A wheel is a zip archive whose files go into one folder as they are; scripts and data folders stay out. A source
distribution gives the Python files below its package's folder (llama-cpp-python has no wheel without a library of its
own). `RECORD` is written anew by the build, for the files that are in the image.

Refused: a digest that the requirements do not name, members that lead out, archives that cannot be read.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from attest.errors import EnvironmentProblem, MalformedInput

TIMEOUT_S = 600
MAX_FILE_BYTES = 256 << 20
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Requirement:
    """One pinned distribution."""

    name: str
    """Its normal name."""
    version: str
    """Its version."""
    digests: frozenset[str]
    """SHA-256 of every file that may stand for it, as `sha256:hex`."""


@dataclass(frozen=True)
class File:
    """One file of a distribution."""

    path: str
    """Its path in the folder that it is installed into."""
    content: bytes
    """Its bytes."""


def normal(name: str) -> str:
    """A distribution's name in its one spelling (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(text: str, python: str) -> dict[str, Requirement]:
    """The pins in a requirements file with hashes, for Python `python`, by normal name. Raises `MalformedInput`."""
    found: dict[str, Requirement] = {}
    current: tuple[str, str] | None = None
    digests: set[str] = set()
    for line in [*map(str.strip, text.splitlines()), "end==0"]:
        digests |= {"sha256:" + digest for digest in HASH.findall(line)}
        if match := PINNED.match(line):
            if current:
                found[normal(current[0])] = Requirement(normal(current[0]), current[1], frozenset(digests))
            current, digests = ((match[1], match[2]) if _applies(match[3], python) else None), set()
            digests |= {"sha256:" + digest for digest in HASH.findall(line)}
        elif line and not line.startswith(("#", "--hash")):
            raise MalformedInput("requirements", f"expected NAME==VERSION and hashes, found {line[:120]!r}")
    return found


def download(
    name: str, version: str, digests: Sequence[str], *, python: str, platforms: Sequence[str], source: bool, into: Path
) -> Path:
    """Download the one file of a distribution into `into`; pip compares its digest. Raises `EnvironmentProblem`.

    `source`: its source distribution, in place of a wheel for Python `python` on one of `platforms`.
    """
    number = python.replace(".", "")
    kind = ["--no-binary", name] if source else ["--only-binary", ":all:"]
    if not source:
        kind += ["--python-version", python, "--implementation", "cp", "--abi", f"cp{number}", "--abi", "abi3"]
        kind += ["--abi", "none", *(part for tag in platforms for part in ("--platform", tag))]
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        listed = Path(folder) / "requirements.txt"
        hashes = " ".join(f"--hash={digest}" for digest in sorted(digests))
        listed.write_text(f"{name}=={version} {hashes}\n", "utf-8")
        incoming = Path(folder) / "incoming"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", *kind, "-r", str(listed), "-d", str(incoming)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise EnvironmentProblem(f"pip did not end within {TIMEOUT_S} s: is the package index there?") from None
        files = list(incoming.iterdir()) if incoming.is_dir() else []
        if done.returncode != 0 or len(files) != 1:
            said = "\n".join(done.stderr.strip().splitlines()[-6:])
            raise EnvironmentProblem(f"cannot download {name}=={version}; pip said:\n{said}")
        return Path(shutil.move(files[0], into))


def files(data: bytes, filename: str) -> Iterator[File]:
    """What would be installed of a wheel, or of a source distribution's packages. Raises `MalformedInput`."""
    return _sdist_files(data, filename) if filename.endswith(".tar.gz") else _wheel_files(data, filename)


def _wheel_files(data: bytes, filename: str) -> Iterator[File]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                path = _safe(info.filename, filename)
                if info.file_size > MAX_FILE_BYTES:
                    raise MalformedInput(filename, f"expected at most {MAX_FILE_BYTES} bytes in {path}, found more")
                top, _, rest = path.partition("/")
                if top.endswith(".data"):
                    place, _, path = rest.partition("/")
                    if place not in ("purelib", "platlib"):
                        continue  # scripts, headers, data: nothing that the image runs
                yield File(path, archive.read(info))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise MalformedInput(filename, f"expected a wheel: {error}") from None


def _sdist_files(data: bytes, filename: str) -> Iterator[File]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                path = _safe(member.name, filename).partition("/")[2]
                if member.isreg() and path and member.size <= MAX_FILE_BYTES:
                    content = archive.extractfile(member)
                    assert content is not None
                    yield File(path, content.read())
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise MalformedInput(filename, f"expected a source distribution: {error}") from None


def license_of(metadata: bytes) -> str | None:
    """The SPDX expression in a distribution's METADATA, where it has one."""
    return HeaderParser().parsestr(metadata.decode("utf-8", "replace")).get("License-Expression")


def _safe(path: str, filename: str) -> str:
    parts = path.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path:
        raise MalformedInput(filename, f"expected members that stay in the archive, found {path[:200]!r}")
    return "/".join(parts)


def _applies(marker: str | None, python: str) -> bool:
    """Whether an environment marker of our own requirements files holds for CPython `python`. Others are refused."""
    if marker is None:
        return True
    truths = []
    for clause in marker.split(" and "):
        match = re.fullmatch(r"(\w+) (==|!=|<|>=) '([^']*)'", clause.strip())
        if match is None:
            raise MalformedInput("requirements", f"expected simple markers, found {marker!r}")
        name, operator, value = match.groups()
        if name in ("platform_python_implementation", "implementation_name"):
            truths.append((value.lower() == "cpython") == (operator == "=="))
        elif name in ("python_full_version", "python_version") and operator in ("<", ">="):
            here, there = ([int(part) for part in text.split(".")[:2]] for text in (python, value))
            truths.append((here < there) == (operator == "<"))
        else:
            raise MalformedInput("requirements", f"expected simple markers, found {marker!r}")
    return all(truths)
