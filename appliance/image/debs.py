"""Debian packages: asked of apt by name, fetched by exact version, opened without dpkg.

apt works in a folder of its own, with this host's sources and keys, and checks the archive's signature when it is asked
(`resolve`). Later only the lock counts: `fetch` accepts one file by size and SHA-256, wherever it comes from.

Opened (`files`): an ar archive with `data.tar.xz`. Refused: anything else, devices, set-user-id bits on what is kept.
The old folders /lib, /lib64, /bin, /sbin become those below /usr, as Debian has it since release 12.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.image.recipe import Architecture
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported

AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60
MERGED = ("lib", "lib64", "lib32", "bin", "sbin")
MAX_UNPACKED_BYTES = 512 << 20
TIMEOUT_S = 300


@dataclass(frozen=True)
class Found:
    """What apt says of a package."""

    name: str
    """Its name."""
    version: str
    """The version that apt would install."""
    architecture: str
    """The architecture that it is built for, or `all`."""
    sha256: str
    """SHA-256 of the file, 64 hexadecimal digits."""
    size_bytes: int
    """Its size."""


@dataclass(frozen=True)
class File:
    """One member of a package."""

    path: str
    """Its path, without a slash at the start."""
    mode: int
    """Permissions, as packed."""
    content: bytes | None
    """A file's content; None for a link."""
    target: str | None
    """Where a symbolic link leads; None for a file."""


class Apt:
    """apt for one architecture, in a folder of its own: needs no root, changes nothing on this host.

    `releases`: further ones of the archives that this host takes packages from, such as `bookworm-backports`.
    """

    def __init__(self, folder: Path, architecture: Architecture, releases: Sequence[str] = ()) -> None:
        self._folder, self._releases = folder, releases
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "state" / "status").touch()
        settings = {
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "state" / "status",
            "Dir::Cache": folder / "cache",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "",  # files go to folders that the user _apt may not write to
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        }
        self._options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]

    def update(self) -> None:
        """Take the list of packages anew. Raises `EnvironmentProblem`."""
        self._run("apt-get", "--quiet", "update", "--error-on=any")
        if self._releases:  # which are found by those that the host has
            sources = self._folder / "sources.list"
            sources.write_text(self._own_sources() + "".join(map(self._source, self._releases)), "utf-8")
            self._options += ["-o", f"Dir::Etc::sourcelist={sources}"]
            self._run("apt-get", "--quiet", "update", "--error-on=any")

    def show(self, names: Sequence[str]) -> list[Found]:
        """The candidates of `names`, in their order. Raises `EnvironmentProblem` where apt does not know one."""
        text = self._run("apt-cache", "--no-all-versions", "show", *names)
        found = {item.name: item for item in map(_stanza, text.strip().split("\n\n")) if item}
        if missing := [name for name in names if name not in found]:
            raise EnvironmentProblem(
                f"apt has no packages {missing}: does this host take packages from the release that the recipe names?"
            )
        return [found[name] for name in names]

    def download(self, name: str, version: str, into: Path) -> Path:
        """Download one exact version into the empty folder `into`. Raises `EnvironmentProblem`."""
        self._run("apt-get", "--quiet", "download", f"{name}={version}", cwd=into)
        files = list(into.glob("*.deb"))
        if len(files) != 1:
            raise EnvironmentProblem(f"expected one package from apt for {name}={version}, found {len(files)}")
        return files[0]

    def _own_sources(self) -> str:
        """What this host's list of sources says; its folder of such lists is read anyway."""
        (said,) = shlex.split(self._run("apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f"))
        path = Path(said.removeprefix("LIST="))
        return path.read_text("utf-8") + "\n" if path.is_file() else ""

    def _source(self, release: str) -> str:
        """The line for `NAME-MORE` of the archive that has release NAME; apt knows its key as it knows that one's."""
        told = self._run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)")
        name = release.partition("-")[0]
        for line in told.splitlines():
            address, *rest = line.split()
            if rest == [name, "main"]:
                return f"deb {address} {release} main\n"
        raise EnvironmentProblem(f"expected {name} among this host's package sources, to take {release} from there")

    def _run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        command = [program, *self._options, *arguments]
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {"LC_ALL": "C"}
        environment |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=cwd, check=False, env=environment
            )
        except FileNotFoundError:
            raise EnvironmentProblem(
                f"{program} is not on this host: take Debian packages on a Debian host, or copy its cache folder here"
            ) from None
        except subprocess.TimeoutExpired:
            raise EnvironmentProblem(
                f"{program} did not end within {TIMEOUT_S} s: is the package archive there?"
            ) from None
        if done.returncode != 0:
            said = "\n".join(done.stderr.strip().splitlines()[-6:])
            raise EnvironmentProblem(f"{program} {' '.join(arguments)} failed; it said:\n{said}")
        return done.stdout


def files(data: bytes, what: str) -> Iterator[File]:
    """The files and links of a package. Raises `MalformedInput`, `Unsupported`."""
    name, packed = _data_member(data, what)
    if name != "data.tar.xz":
        raise Unsupported(what, f"expected data.tar.xz in the package, found {name}")
    unpacked = unxz(packed, MAX_UNPACKED_BYTES, what)
    try:
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
            for member in archive:
                if not member.isdir():
                    yield _file(archive, member, what)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise MalformedInput(what, f"expected a package that can be unpacked: {error}") from None


def unxz(packed: bytes, limit: int, what: str) -> bytes:
    """The content of an xz file, of at most `limit` bytes. Raises `MalformedInput`."""
    import lzma  # not in the image itself, whose command line imports this module

    unpacker = lzma.LZMADecompressor(memlimit=256 << 20)
    try:
        unpacked = unpacker.decompress(packed, limit + 1)
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise MalformedInput(what, f"expected bytes that xz can unpack: {error}") from None
    if len(unpacked) > limit or not unpacker.eof:
        raise MalformedInput(what, f"expected at most {limit} bytes in it, found more, or half of them")
    return unpacked


def usr(path: str) -> str:
    """`path` of a package, with the old top folders below usr. Raises `MalformedInput` for one that leads out."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise MalformedInput("Debian package", f"expected paths that stay in the package, found {path[:200]!r}")
    return "/".join(["usr", *parts] if parts[0] in MERGED else parts)


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo, what: str) -> File:
    path = usr(member.name)
    if member.issym():
        target = member.linkname
        if target.startswith("/"):
            target = posixpath.relpath("/" + usr(target), posixpath.dirname("/" + path))
        return File(path, 0o777, None, target)
    content = archive.extractfile(member) if member.isreg() or member.islnk() else None
    if content is None:
        raise MalformedInput(what, f"expected files, folders and links, found type {member.type!r} at {path[:200]!r}")
    return File(path, member.mode, content.read(), None)


def _data_member(data: bytes, what: str) -> tuple[str, bytes]:
    """Name and bytes of the ar member that holds the files."""
    if not data.startswith(AR_MAGIC):
        raise MalformedInput(what, "expected a Debian package (an ar archive), found other bytes")
    at = len(AR_MAGIC)
    while at + AR_HEADER <= len(data):
        header = data[at : at + AR_HEADER]
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
        if header[58:] != b"`\n" or not re.fullmatch(rb"[0-9]+", size):
            raise MalformedInput(what, f"expected an ar header at offset {at}, found other bytes")
        start, length = at + AR_HEADER, int(size)
        if start + length > len(data):
            raise MalformedInput(what, f"expected {length} bytes of {name}, found the end of the file")
        if name.startswith("data.tar"):
            return name, data[start : start + length]
        at = start + length + length % 2
    raise MalformedInput(what, "expected data.tar.xz in the package, found none")


def _stanza(text: str) -> Found | None:
    fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", text, re.MULTILINE))
    try:
        return Found(
            fields["Package"], fields["Version"], fields["Architecture"], fields["SHA256"].lower(), int(fields["Size"])
        )
    except (KeyError, ValueError):
        return None
