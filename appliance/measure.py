"""Measures what a lock pins: files, models of several shards, and the Python environment that all of it runs in.

The digest of the environment is SHA-256 over a listing: one line of canonical JSON, `{"name", "sha256"}`, for each
file, sorted by name. Names start with what they belong to:

- `python/` the interpreter, and the library it is linked to where there is one
- `stdlib/` the standard library
- `site/` all installed distributions of this environment (`site-1/` and so on where there are more such folders)
- `project/` the packages `appliance` and `attest`, wherever they are installed from, without their lock files

Left out are `__pycache__` folders, because their content differs between hosts. Python would run it in place of the
source, so start every process with `-X pycache_prefix=FOLDER` and a folder that was empty. Not covered at all: system
libraries, the kernel, and whatever `uncovered` names. Permissions and times are not part of the listing.

The environment is measured, not sealed: files could change after the measurement. A read-only verified image closes
that gap; on a plain host it stays. On a verified disk the kernel compares each block with its hash as it is read, so
there the listing is taken that the image's builder wrote onto the same disk, and nothing is hashed twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import site
import stat
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NoReturn

import appliance
import attest
from appliance.memfd import Progress, no_progress, open_regular, threads
from attest import canonical, merkle
from attest.canonical import JSON
from attest.digest import digest_of, digest_of_several
from attest.errors import EnvironmentProblem, MalformedInput
from attest.eventlog import Kind
from attest.lockfile import Artifact, Layout
from attest.merkle import PIECE_BYTES

CHUNK_BYTES = 4 << 20
"""Read at a time, where nothing else says how much."""
BATCH = 256
CACHES = frozenset({"__pycache__"})
SITE = frozenset({"site-packages", "dist-packages"})
LOCK_NAME = "appliance.lock"
LISTING = Path("/usr/share/vitrine/python.listing")
"""On a verified disk, the listing of the environment on it."""
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Tree:
    """A measured set of files."""

    listing: bytes
    """One line of canonical JSON for each file, sorted by name. Keep it to find out later what differs."""
    files: int
    """Number of files."""
    size_bytes: int
    """Size of all files together."""
    uncovered: tuple[str, ...] = ()
    """Folders on the import path that the listing does not cover."""

    @property
    def digest(self) -> str:
        """SHA-256 over the listing."""
        return digest_of(self.listing)


def measure_file(kind: Kind, name: str, file: Path, path: str, progress: Progress = no_progress) -> Artifact:
    """The artifact for one `file`, which the lock finds under `path`.

    Raises `VerificationError` (layer `file`), and `MalformedInput` where `name` or `path` may not stand in a lock.
    """
    digest, size = _hash(file, f"{kind} {name}", progress)
    return _artifact(kind=kind, name=name, path=path, digest=digest, size_bytes=size)


def measure_model(name: str, files: Sequence[Path], path: str, progress: Progress = no_progress) -> Artifact:
    """The artifact for a model: its `files` in loading order, the first of which the lock finds under `path`.

    Raises `VerificationError` (layer `file`), and `MalformedInput` where `name` or `path` may not stand in a lock.
    """
    shards = [_shard(file, f"{file.name} of model {name}", progress) for file in files]
    digest = digest_of_several([shard["digest"] for shard in shards])
    size = sum(shard["size_bytes"] for shard in shards)
    layout: Layout = "gguf" if files[0].suffix == ".gguf" else "safetensors"
    return _artifact(kind="model", name=name, path=path, digest=digest, size_bytes=size, layout=layout, shards=shards)


def python_artifact(tree: Tree) -> Artifact:
    """The artifact for the Python environment that `measure_python` measured."""
    return Artifact(kind="python", name="environment", path="python:", digest=tree.digest, size_bytes=tree.size_bytes)


def measure_python() -> Tree:
    """The Python environment of this process. Raises `EnvironmentProblem` where a file cannot be read."""
    roots, files = python_roots(), python_files()
    tree = listed_tree(LISTING) if LISTING.is_file() and on_verified_disk() else measure_tree(roots, files)
    covered = {str(path.resolve()) for path in (*roots.values(), Path(sysconfig.get_path("platstdlib")))}
    seen = {str(Path(entry).resolve()) for entry in sys.path if entry and Path(entry).is_dir()}
    outside = tuple(sorted(path for path in seen if not any(Path(path).is_relative_to(root) for root in covered)))
    return Tree(tree.listing, tree.files, tree.size_bytes, outside)


def on_verified_disk(mounts: Path = MOUNTS) -> bool:
    """Whether the root of this process is the disk of the measured machine: EROFS on a mapped device, as `init` mounts.

    On a host that could pretend this, the measurement is the host's word either way.
    """
    # proc(5): the fifth field is where it is mounted, and behind the lone dash come type and source.
    lines = [line.split() for line in mounts.read_text("utf-8").splitlines()]
    kinds = [line[line.index("-") + 1 :] for line in lines if line[4] == "/"]
    return bool(kinds) and kinds[-1][0] == "erofs" and kinds[-1][1].startswith("/dev/dm-")


def listed_tree(listing: Path) -> Tree:
    """What the file `listing` says: the size of all files in its first line, then theirs. Raises `MalformedInput`."""
    size, _, lines = listing.read_bytes().partition(b"\n")
    if not size.isdigit() or not lines.endswith(b"\n"):
        raise MalformedInput(str(listing), "expected a size and the lines of a listing, found others: build it again")
    return Tree(lines, lines.count(b"\n"), int(size))


def python_roots() -> dict[str, Path]:
    """The folders that make up the Python environment, by the prefix that their files bear in the listing."""
    roots = {"stdlib": Path(sysconfig.get_path("stdlib"))}
    folders = [Path(folder) for folder in site.getsitepackages() if Path(folder).is_dir()]
    roots.update((f"site-{number}" if number else "site", folder) for number, folder in enumerate(folders))
    for package in (appliance, attest):
        roots[f"project/{package.__name__}"] = Path(package.__path__[0])
    return roots


def python_files() -> dict[str, Path]:
    """Single files of the Python environment: the interpreter, and its shared library where it has one."""
    files = {"python/interpreter": Path(sys.executable).resolve()}
    library = Path(sysconfig.get_config_var("LIBDIR") or "/", sysconfig.get_config_var("INSTSONAME") or "")
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and library.is_file():
        files["python/library"] = library.resolve()
    return files


def measure_tree(roots: Mapping[str, Path], files: Mapping[str, Path] | None = None) -> Tree:
    """All regular files under `roots`, and the single `files`, each under its prefix or name.

    A link to a folder is walked like a folder, once. Raises `EnvironmentProblem` where a file cannot be read.
    """
    found = {name: str(path) for name, path in (files or {}).items()}
    identities = {_identity(root) for root in roots.values()}
    for prefix, root in roots.items():
        found.update(_walk(str(root), prefix, identities - {_identity(root)}))
    named = sorted(found.items())
    batches = [named[start : start + BATCH] for start in range(0, len(named), BATCH)]
    with ThreadPoolExecutor(threads(), thread_name_prefix="measure") as pool:
        measured = list(pool.map(_hash_batch, batches))
    listing = b"".join(lines for lines, _ in measured)
    return Tree(listing, len(named), sum(size for _, size in measured))


def _walk(root: str, prefix: str, others: set[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Every file under `root`: its name in the listing, and its path. A folder that is another root is left to it."""
    seen = set(others)
    skipped = CACHES | SITE if prefix == "stdlib" else CACHES
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_unreadable):
        identity = _identity(Path(folder))
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if name not in skipped)
        at = prefix + folder[len(root) :].replace(os.sep, "/")
        for name in names:
            if name != LOCK_NAME or not prefix.startswith("project/"):
                yield f"{at}/{name}", f"{folder}/{name}"


def _hash_batch(batch: Sequence[tuple[str, str]]) -> tuple[bytes, int]:
    """The listing's lines for some files, and their size."""
    lines, total = [], 0
    for name, path in batch:
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0) as file:
                info = os.fstat(file.fileno())
                if not stat.S_ISREG(info.st_mode):
                    raise OSError(0, "not a regular file")
                if info.st_size < CHUNK_BYTES:
                    digest = hashlib.sha256(file.read()).hexdigest()
                else:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(listing_line(name, digest))
        except (OSError, UnicodeEncodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its name is not UTF-8"
            raise EnvironmentProblem(f"cannot measure {path!r}: {reason}; reinstall the environment") from error
        total += info.st_size
    return b"".join(lines), total


def listing_line(name: str, sha256: str) -> bytes:
    """One line of a listing: the canonical JSON of `{"name", "sha256"}` and a line feed."""
    return f'{{"name":{json.dumps(name, ensure_ascii=False)},"sha256":"{sha256}"}}\n'.encode()


def _identity(folder: Path) -> tuple[int, int]:
    try:
        info = folder.stat()
    except OSError as error:
        _unreadable(error)
    return info.st_dev, info.st_ino


def _artifact(**fields: JSON) -> Artifact:
    return canonical.validate(Artifact, fields, f"{fields['kind']} {fields['name']}")


def _hash(path: Path, name: str, progress: Progress) -> tuple[str, int]:
    """Digest and size of a regular file."""
    state, done = hashlib.sha256(), 0
    fd, total = open_regular(path)
    with os.fdopen(fd, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
            done += len(chunk)
            progress(name, done, total)
    return "sha256:" + state.hexdigest(), done


def _shard(path: Path, name: str, progress: Progress) -> dict[str, JSON]:
    """What a lock says of one file of a model. Digest and tree come of one pass, each in a thread of its own."""
    state, leaves, done = hashlib.sha256(), [], 0
    fd, total = open_regular(path)
    piece = bytearray(min(PIECE_BYTES, total + 1))
    with os.fdopen(fd, "rb", buffering=0) as file, ThreadPoolExecutor(1, thread_name_prefix="tree") as beside:
        while count := _fill(file, piece):
            content = memoryview(piece)[:count]
            leaf = beside.submit(merkle.leaf_hash, content)
            state.update(content)
            leaves.append(leaf.result())
            done += count
            progress(name, done, total)
    shard = {"name": path.name, "digest": "sha256:" + state.hexdigest(), "size_bytes": done}
    return shard | ({"tree": "sha256:" + merkle.root(leaves).hex()} if done > PIECE_BYTES else {})


def _fill(file: FileIO, buffer: bytearray) -> int:
    """Read until `buffer` is full or `file` ends: the number of bytes."""
    done = 0
    with memoryview(buffer) as view:
        while count := file.readinto(view[done:]):
            done += count
    return done


def _unreadable(error: OSError) -> NoReturn:
    raise EnvironmentProblem(f"cannot measure {error.filename}: {error.strerror}; reinstall the environment") from error
