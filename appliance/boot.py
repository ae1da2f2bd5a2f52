"""The measured boot: everything that the lock pins is hashed, logged and compared, and held in sealed memory.

What is loaded is what was hashed: each file is read once, into sealed memory, and everything later (engine, workers,
parsers) gets that memory and never a path. Only the Python environment is measured where it lies.

Models that need not be there from the start are measured one after another, let go of, and read again when they are
asked for: into sealed memory, hashed on the way, and compared with what was measured. So a run that loads its models in
turn never holds two of them that it does not need together.

A large file of a model is hashed as a tree, on all processors, and its root is compared; its digest is what the lock
says of a file with that root. Everything else is hashed as a whole.

Refused, all differences named together: an artifact that is missing, is not a regular file, or has another size, digest
or tree than the lock says. Model headers are parsed after that, so that an engine never sees a malformed file. The
shards of a model in GGUF are merged last: what a worker gets is one file, made of bytes that were all measured.

The event log that a successful boot leaves is the one that `attest.lockfile.expected_log` predicts from the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from appliance import gguf
from appliance.gguf_merge import merge
from appliance.measure import Tree, measure_python
from appliance.memfd import Progress, Request, SealedFile, load_all, no_progress
from attest.digest import digest_of, digest_of_several
from attest.errors import Unsupported, VerificationError, VitrineError
from attest.eventlog import ArtifactEvent, EventLog, Kind, Record, Registers
from attest.lockfile import Artifact, Lockfile, Shard, artifact_event, lock_event, read

LAYER = "boot"

Resolve = Callable[[Artifact], list[Path]]
"""The files of an artifact whose path bears a scheme (`resource:`, `engine:`): one, or the shards of a model."""


class Difference(NamedTuple):
    """One thing that is not as the lock says."""

    artifact: Artifact
    """What the lock pins."""
    where: str
    """Where it was looked for."""
    expected: str
    """What the lock says: a digest, a size, or a regular file."""
    found: str
    """What was found instead."""

    def __str__(self) -> str:
        name = f"{self.artifact.kind} {self.artifact.name} ({self.where})"
        return f"{name}: expected {self.expected}, found {self.found}"


class BootRefused(VerificationError):  # noqa: N818 - named after the outcome, as in attest.errors
    """What lies here is not what the lock pins. Code `digest-mismatch`, whichever way it differs."""

    def __init__(self, differences: Sequence[Difference]) -> None:
        alone = differences[0] if len(differences) == 1 else None
        listed = "; ".join(str(difference) for difference in differences)
        super().__init__(
            LAYER,
            "digest-mismatch",
            expected=alone.expected if alone else "every artifact as the lock pins it",
            found=alone.found if alone else f"{len(differences)} that differ",
            advice=f"{listed}. Restore what the lock pins, or have a new lock reviewed",
        )
        self.differences = tuple(differences)


@dataclass
class Booted:
    """A boot that succeeded: the lock, its log, and all pinned files in sealed memory. Close it after the run."""

    lock: Lockfile
    """The lock, parsed."""
    lock_bytes: bytes
    """The lock file's bytes, as received."""
    log: EventLog
    """The event log: the lock, then every artifact in the lock's order."""
    headers: dict[str, tuple[gguf.GGUFHeader, ...]] = field(repr=False)
    """By name, the parsed headers of each model in GGUF: one for each shard."""
    python: Tree | None = field(repr=False)
    """The measured Python environment, where the lock pins it."""
    _files: dict[tuple[str, str], list[SealedFile]] = field(repr=False)
    _aside: dict[str, tuple[Artifact, list[Request]]] = field(repr=False, default_factory=dict)
    """By name, the models that are held only between `model` and `let_go`, and how they are read."""

    @property
    def lock_digest(self) -> str:
        """SHA-256 over the lock file's bytes."""
        return digest_of(self.lock_bytes)

    @property
    def events(self) -> tuple[Record, ...]:
        """The records of the event log."""
        return self.log.records

    @property
    def registers(self) -> Registers:
        """The registers that the event log replays to."""
        return self.log.registers

    def file(self, kind: Kind, name: str) -> list[SealedFile]:
        """The sealed files of an artifact: one, or the shards of a model that is not in GGUF, in loading order.

        Those of a model that is not held are closed.
        Raises `VerificationError` (code `not-locked`) where the lock does not pin such an artifact.
        """
        if (kind, name) not in self._files:
            known = ", ".join(known_name for known_kind, known_name in self._files if known_kind == kind)
            advice = "add it to the lock and have that reviewed"
            raise VerificationError(
                LAYER, "not-locked", expected=f"one of the pinned {kind} artifacts: {known}", found=name, advice=advice
            )
        return self._files[kind, name]

    def model(self, name: str) -> SealedFile:
        """The one file that an engine loads as model `name`: the pinned one, or the pinned shards merged.

        It is read again where it is not held, and stays until `let_go`. Raises `VerificationError` as `file` does,
        `BootRefused` for one that is no more what was measured, `Unsupported` for a model that is not in GGUF.
        """
        files = self.file("model", name)
        if name not in self.headers:
            raise Unsupported(f"model {name}", "expected a model in GGUF, the only layout that an engine here loads")
        if name in self._aside and files[0].fd < 0:
            files = self._files["model", name] = self._read(name)
        return files[0]

    def let_go(self, name: str) -> None:
        """No worker needs model `name` any more: its memory is free, unless it was to be held from the start."""
        if name in self._aside:
            for file in self._files["model", name]:
                file.close()

    def _read(self, name: str) -> list[SealedFile]:
        artifact, requests = self._aside[name]
        loaded = load_all(requests)
        files = [file for file in loaded if isinstance(file, SealedFile)]
        try:
            if differences := _compare(artifact, list(zip(requests, loaded, strict=True))):
                raise BootRefused(differences)
            return [merge(f"model {name}", files, self.headers[name])] if len(files) > 1 else files
        except BaseException:
            for file in files:
                file.close()
            raise

    def close(self) -> None:
        """Close all descriptors."""
        for files in self._files.values():
            for file in files:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def boot(
    lock_bytes: bytes,
    root: Path,
    resolve: Resolve,
    *,
    measure_environment: Callable[[], Tree] = measure_python,
    progress: Progress = no_progress,
    hold: Collection[str] | None = None,
) -> Booted:
    """Boot with a lock whose relative paths start at `root`. Raises `BootRefused` on any difference.

    `hold`: the models that are held from now on, all of them by default; the others are measured and let go of.
    Also `MalformedInput` or `Unsupported` for the lock itself, `MalformedInput` for a model whose header is not
    sound, and `EnvironmentProblem` where this host cannot do it. Nothing stays open after an error.
    """
    # 1. The lock, strictly; and from it what is to be opened, before anything is.
    lock = read(lock_bytes)
    pinned = [artifact for artifact in lock.artifacts if artifact.kind != "python"]
    paths = [_beside(root / item.path, item) if not item.scheme else resolve(item) for item in pinned]
    requests = {(item.kind, item.name): _requests(item, where) for item, where in zip(pinned, paths, strict=True)}
    aside = [item for item in pinned if item.kind == "model" and hold is not None and item.name not in hold]
    held = [item for item in pinned if item not in aside]
    environment = next((artifact for artifact in lock.artifacts if artifact.kind == "python"), None)

    with ThreadPoolExecutor(1, thread_name_prefix="measure") as pool:
        # 2. Each file into sealed memory, hashed on the way; the Python environment beside that; all in parallel. Then
        # the models that are not held, one after another.
        measuring: Future[Tree] | None = pool.submit(measure_environment) if environment else None
        wanted = [request for item in held for request in requests[item.kind, item.name]]
        loaded = load_all(wanted, progress=progress)
        sealed = [item for item in loaded if isinstance(item, SealedFile)]
        try:
            outcome = iter(loaded)
            found = {(item.kind, item.name): [next(outcome) for _ in requests[item.kind, item.name]] for item in held}
            headers: dict[str, tuple[gguf.GGUFHeader, ...]] = {}
            for item in aside:
                found[item.kind, item.name] = _passed(item, requests[item.kind, item.name], headers, progress)
            python = measuring.result() if measuring else None

            # 3. Compare: every difference is collected before the boot is refused.
            differences: list[Difference] = []
            files: dict[tuple[str, str], list[SealedFile]] = {}
            for item in pinned:
                shards = found[item.kind, item.name]
                differences += _compare(item, list(zip(requests[item.kind, item.name], shards, strict=True)))
                files[item.kind, item.name] = [file for file in shards if isinstance(file, SealedFile)]
            if environment and python and (python.digest, python.size_bytes) != _pinned(environment):
                differences.append(_environment_difference(environment, python))
            if differences:
                raise BootRefused(differences)

            # 4. Model headers, from sealed memory, before anything else sees them.
            headers |= {
                item.name: _headers(item, files[item.kind, item.name]) for item in held if item.layout == "gguf"
            }

            # 5. The log of what was measured, in the lock's order.
            log = EventLog().append(lock_event(lock_bytes))
            for item in lock.artifacts:
                log = log.append(_event(item, files.get((item.kind, item.name), []), python))

            # 6. One file of each model in several shards, now that all of them are measured, compared and parsed.
            for item in held:
                if len(shard_headers := headers.get(item.name, ())) > 1 and item.kind == "model":
                    merged = merge(f"model {item.name}", files["model", item.name], shard_headers, progress=progress)
                    sealed.append(merged)
                    files["model", item.name] = [merged]
        except BaseException:
            for file in sealed:
                file.close()
            raise
    again = {item.name: (item, requests[item.kind, item.name]) for item in aside}
    return Booted(lock, lock_bytes, log, headers, python, files, again)


def _beside(path: Path, artifact: Artifact) -> list[Path]:
    """The files of an artifact whose first file is `path`."""
    return [path.parent / shard.name for shard in artifact.shards] if artifact.shards else [path]


def _passed(
    artifact: Artifact,
    requests: Sequence[Request],
    headers: dict[str, tuple[gguf.GGUFHeader, ...]],
    progress: Progress,
) -> list[SealedFile | VitrineError]:
    """A model's files, measured and closed; its header goes to `headers` where they are as the lock says."""
    loaded = load_all(requests, progress=progress)
    files = [file for file in loaded if isinstance(file, SealedFile)]
    try:
        if artifact.layout == "gguf" and not _compare(artifact, list(zip(requests, loaded, strict=True))):
            headers[artifact.name] = _headers(artifact, files)
        return loaded
    finally:
        for file in files:
            file.close()


def _requests(artifact: Artifact, paths: Sequence[Path]) -> list[Request]:
    """What to load for an artifact: each of its files at the size that the lock says."""
    name = f"{artifact.kind} {artifact.name}"
    files: Sequence[Artifact | Shard] = artifact.shards or [artifact]
    if len(files) != len(paths):
        raise RuntimeError(f"expected {len(files)} paths for {name}, found {len(paths)}")
    trees = [shard.tree is not None for shard in artifact.shards] if artifact.shards else [False]
    return [Request(path, name, file.size_bytes, tree) for path, file, tree in zip(paths, files, trees, strict=True)]


def _compare(artifact: Artifact, shards: Sequence[tuple[Request, SealedFile | VitrineError]]) -> list[Difference]:
    """What differs in the files of one artifact. An error that is no difference is raised."""
    differences = []
    files: Sequence[Artifact | Shard] = artifact.shards or [artifact]
    for (request, file), pinned in zip(shards, files, strict=True):
        where = str(request.path)
        if isinstance(file, VerificationError):
            differences.append(Difference(artifact, where, file.expected, file.found))
        elif isinstance(file, VitrineError):
            raise file
        elif _measured(file) != pinned.measured:
            tree = "a tree with root " if file.tree else ""
            differences.append(Difference(artifact, where, tree + pinned.measured, tree + _measured(file)))
    return differences


def _measured(file: SealedFile) -> str:
    """What was computed over a file that was loaded."""
    return file.tree or file.digest


def _environment_difference(artifact: Artifact, tree: Tree) -> Difference:
    where = f"{tree.files} files; compare the listing of the reviewed environment with the one found here"
    expected, found = f"{artifact.digest} of {artifact.size_bytes} bytes", f"{tree.digest} of {tree.size_bytes} bytes"
    if tree.size_bytes == artifact.size_bytes:
        expected, found = artifact.digest, tree.digest
    return Difference(artifact, where, expected, found)


def _pinned(artifact: Artifact) -> tuple[str, int]:
    return artifact.digest, artifact.size_bytes


def _headers(artifact: Artifact, files: Sequence[SealedFile]) -> tuple[gguf.GGUFHeader, ...]:
    """The strictly parsed headers of a model's shards. Raises `MalformedInput`."""
    headers = []
    for number, file in enumerate(files):
        what = f"model {artifact.name}" + (f", shard {number}" if len(files) > 1 else "")
        with file.view() as view:
            headers.append(gguf.read_header(view, what=what))
    gguf.check_shards(headers, f"model {artifact.name}")
    return tuple(headers)


def _event(artifact: Artifact, files: Sequence[SealedFile], python: Tree | None) -> ArtifactEvent:
    """What was measured for an artifact."""
    if artifact.kind == "python" and python:
        return artifact_event(artifact, python.digest, python.size_bytes)
    measured = digest_of_several([_measured(file) for file in files])
    return artifact_event(artifact, measured, sum(file.size_bytes for file in files))
