"""Writes the lock of a job, the digest of every artifact that may run; and finds where a lock's artifacts lie."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance import measure, resources
from appliance.engine.recipe import EngineRecord
from appliance.job import LoadedJob, LoadedSuite, locate
from appliance.memfd import Progress, no_progress
from attest import lockfile
from attest.errors import MalformedInput, VerificationError
from attest.lockfile import Artifact, Numerics

Resolve = Callable[[Artifact], list[Path]]
SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf$")
LIBRARY = "libllama.so"
RECORD = "record.json"


def make(
    loaded: LoadedJob,
    suites: Sequence[LoadedSuite],
    *,
    engine: Path,
    record: EngineRecord,
    root: Path,
    version: int = 1,
    progress: Progress = no_progress,
) -> bytes:
    """The lockfile's bytes. Paths in it are relative to `root`, the folder that it is going to lie in.

    Raises `VerificationError` where a data set is not the one that its suite names, or a file cannot be read.
    """
    artifacts = [measure.python_artifact(measure.measure_python()), *beneath(loaded, engine, root, progress)]
    for item in suites:
        name = item.suite.name
        artifacts.append(measure.measure_file("suite", name, item.path, _path(item.path, root)))
        for part, file in item.datasets.items():
            dataset = measure.measure_file("dataset", part, file, _path(file, root), progress)
            check_dataset(item, part, dataset.digest)
            artifacts.append(dataset)
    numerics = Numerics(profile=record.profile, engine_recipe=record.recipe_digest)
    return lockfile.write(lockfile.make(numerics, artifacts, version))


def beneath(loaded: LoadedJob, engine: Path, root: Path, progress: Progress = no_progress) -> list[Artifact]:
    """What a model worker is made of: the engine and its record, the job's models, the system call policies."""
    artifacts = [
        measure.measure_file("engine", LIBRARY, engine / LIBRARY, f"engine:{LIBRARY}"),
        measure.measure_file("engine-record", RECORD, engine / RECORD, f"engine:{RECORD}"),
    ]
    for model in loaded.job.models:
        files = shards(locate(model.path, loaded.folder))
        artifacts.append(measure.measure_model(model.id, files, _path(files[0], root), progress))
    for file in sorted((resources.policy() / "seccomp").glob("*.toml")):
        artifacts.append(measure.measure_file("policy", f"seccomp-{file.stem}", file, _path(file, root)))
    return artifacts


def check_dataset(item: LoadedSuite, name: str, found: str) -> None:
    """Raises `VerificationError` unless the data set `name` of a suite has the digest that the suite says."""
    expected = item.suite.files[name].digest
    if found != expected:
        raise VerificationError(
            "suite",
            "dataset",
            expected=f"{item.datasets[name]} with {expected}, as suite {item.suite.name} says",
            found=found,
            advice="If this is the data set that the suite means, write this digest into the suite",
        )


def resolver(root: Path, engine: Path) -> Resolve:
    """Finds an artifact's files: in the package, in the folder of the engine, or from `root`, the lock's folder."""

    def resolve(artifact: Artifact) -> list[Path]:
        if artifact.scheme == "python":
            return []
        if artifact.scheme == "resource":
            first = resources.inside(artifact.local_path)
        elif artifact.scheme == "engine":
            first = engine / artifact.local_path
        else:
            first = root / artifact.local_path
        return [first.parent / shard.name for shard in artifact.shards] if artifact.shards else [first]

    return resolve


def shards(path: Path) -> list[Path]:
    """The files of a model, given the first one: itself, or all of `NAME-00001-of-0000N.gguf`."""
    match = SHARD.match(path.name)
    if match is None:
        return [path]
    if int(match["number"]) != 1:
        raise MalformedInput(str(path), f"expected the first shard of the model, found number {int(match['number'])}")
    count = match["count"]
    return [path.parent / f"{match['stem']}-{number:05d}-of-{count}.gguf" for number in range(1, int(count) + 1)]


def _path(file: Path, root: Path) -> str:
    file, root = (Path(os.path.abspath(path)) for path in (file, root))  # noqa: PTH100 - links stay as they are
    for top, folder in (("demo", resources.demo()), ("images", resources.images()), ("policy", resources.policy())):
        if file.is_relative_to(folder):
            return f"resource:{top}/{file.relative_to(folder).as_posix()}"
    return Path(os.path.relpath(file, root)).as_posix()
