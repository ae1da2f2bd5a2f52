"""What a job needs behind a wall, found on the host and laid out below `/in` with the job's relative paths kept.

A job, a suite and a lockfile name files relative to themselves. So the files that they name are put below `/in` as they
lie below their lowest common folder on the host, and nothing else is. Small files are copied, so that what was looked
at is what is handed in; models are shown as they lie. What `resource:` names comes with the image.

A job that the operator takes a part of (`--limit`, `--shuffle`) is another job, and is handed in as such: in place of
the file that he named lies the one that says what is run. So all that measures a job measures this one.
"""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from appliance import job as jobs
from appliance import lock as locks
from appliance.job import ALL_ROWS, RESOURCE, LoadedJob, LoadedSuite, Rows
from appliance.memfd import open_regular
from attest import eventlog, lockfile
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported

IN = "/in"


@dataclass(frozen=True)
class Input:
    """One file."""

    source: Path
    """Where it lies on the host: absolute."""
    target: str
    """Where it is inside."""
    shown: bool
    """Shown as it lies, because it is a model; else copied."""
    written: bytes | None = None
    """What is handed in where that is not what lies at `source`."""

    def open(self) -> BinaryIO:
        """What is handed in. Raises `VerificationError` (layer `file`) for a file that is gone."""
        return os.fdopen(open_regular(self.source)[0], "rb") if self.written is None else io.BytesIO(self.written)


@dataclass(frozen=True)
class Inputs:
    """Everything that is handed in, as data; `stage` carries it out."""

    loaded: LoadedJob
    """The job, as this host reads it."""
    files: tuple[Input, ...]
    """All files, by target."""
    job: str
    """The job file's path inside."""
    lock: str | None
    """The lockfile's path inside, where one was given."""
    data: tuple[str, ...]
    """The data folders that are needed, inside."""
    lock_digest: str | None
    """The lockfile's digest."""
    measurement: str | None
    """What a boot with that lockfile measures."""
    beside: str
    """The folder inside that stands for the one that was named; `/in` for none."""

    @property
    def shown(self) -> tuple[Input, ...]:
        """The files that are not copied."""
        return tuple(item for item in self.files if item.shown)

    def size_bytes(self) -> int:
        """Size of all files. Raises `OSError`."""
        return sum(item.source.stat().st_size for item in self.files)


def find(
    job: Path,
    lock: Path | None = None,
    data: tuple[Path, ...] = (),
    beside: Path | None = None,
    rows: Rows = ALL_ROWS,
) -> Inputs:
    """What the job file needs; `beside` is a folder that has to have its place among it, `rows` what is taken of it.

    Raises `MalformedInput`; `VerificationError` (layer `file`) for a file that is missing or none; `Unsupported` for
    what is named by an absolute path.
    """
    loaded = jobs.load(job, rows)
    instead = {} if rows == ALL_ROWS else {_absolute(job): jobs.dump(loaded.job)}
    suites = jobs.load_suites(loaded, data)
    found: dict[Path, bool] = {_absolute(job): False}
    for entry, item in zip(loaded.job.suites, suites, strict=True):
        _relative(entry.path, "suite")
        if not entry.path.startswith(RESOURCE):
            found[_absolute(item.path)] = False
        for name, file in item.suite.files.items():
            _relative(file.path, f"data set of suite {item.suite.name}")
            next_to_it = item.datasets[name] == item.path.parent / file.path
            if not (entry.path.startswith(RESOURCE) and next_to_it):
                found[_absolute(item.datasets[name])] = False
    used = [_absolute(root) for root in data if any(_is_from(root, item) for item in suites)]
    lock_bytes: bytes | None = None
    if lock is not None:
        lock_bytes = _read(lock)
        found[_absolute(lock)] = False
        found |= {path: shown for path, shown in _pinned(lock, lock_bytes).items() if path not in found}
    else:
        for model in loaded.job.models:
            if not model.path.startswith(RESOURCE):
                _relative(model.path, f"model {model.id}")
                first = jobs.locate(model.path, loaded.folder)
                found |= dict.fromkeys(map(_absolute, locks.shards(first)), True)
    more = [] if beside is None else [_absolute(beside)]
    for path in (*found, *used, *more):
        as_text(path)
    root = Path(os.path.commonpath([*(path.parent for path in found), *used, *more]))
    for path in found:
        os.close(open_regular(path)[0])

    def inside(path: Path) -> str:
        return f"{IN}/{path.relative_to(root).as_posix()}".removesuffix("/.")

    return Inputs(
        loaded=loaded,
        files=tuple(Input(path, inside(path), shown, instead.get(path)) for path, shown in sorted(found.items())),
        job=inside(_absolute(job)),
        lock=None if lock is None else inside(_absolute(lock)),
        data=tuple(inside(path) for path in used),
        beside=IN if beside is None else inside(_absolute(beside)),
        lock_digest=None if lock_bytes is None else digest_of(lock_bytes),
        measurement=None if lock_bytes is None else eventlog.measurement(lockfile.expected_log(lock_bytes).registers),
    )


def as_text(path: Path) -> str:
    """`path`, to go into a plan. Raises `Unsupported` for a name that is not UTF-8, which no plan can hold."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise Unsupported("a path", f"expected names in UTF-8 behind a wall, found {os.fsencode(path)!r}") from None
    return str(path)


def stage(inputs: Inputs, folder: Path) -> None:
    """Lay `inputs` out in the new folder `folder`: copies, and an empty file where each model is going to be shown.

    Raises `VerificationError` (layer `file`) for a file that is gone, `OSError`.
    """
    folder.mkdir(mode=0o755)
    for item in inputs.files:
        target = folder / Path(item.target).relative_to(IN)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as copy:
            if not item.shown:
                with item.open() as file:
                    shutil.copyfileobj(file, copy)
        target.chmod(0o444)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)  # whatever the umask: another user reads it inside


def _pinned(lock: Path, data: bytes) -> dict[Path, bool]:
    """The files that a lock finds relative to itself, and whether each is a model's."""
    found: dict[Path, bool] = {}
    for artifact in lockfile.read(data).artifacts:
        if not artifact.scheme:
            first = _absolute(lock.parent / artifact.local_path)
            shards = artifact.shards or ()
            paths = [first.parent / shard.name for shard in shards] or [first]
            found |= dict.fromkeys(paths, artifact.kind == "model")
    return found


def _is_from(root: Path, item: LoadedSuite) -> bool:
    """Whether one of a suite's data sets was found in the data folder `root`, and not beside the suite."""
    return any(
        item.datasets[name] == root / file.path and item.datasets[name] != item.path.parent / file.path
        for name, file in item.suite.files.items()
    )


def _relative(path: str, what: str) -> None:
    if path.startswith("/"):
        raise Unsupported(
            what, f"expected a path relative to the file that names it, which a wall can keep; found {path[:200]!r}"
        )


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they are


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MalformedInput(str(path), f"expected a lockfile, found: {error.strerror}") from None
