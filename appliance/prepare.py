"""What comes before a run, and before a dry run, is asked of no lab: the job, its lock, its memory, the measured boot.

1. read the job and its suites                     appliance.job
2. take the lock, or pin what is there             appliance.lock
   refuse what this host has not the memory for    appliance.footprint
3. boot: hash everything, compare, refuse          appliance.boot
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from appliance import boot, footprint, job, lock, resume, schedule, workers
from appliance.boot import Booted
from appliance.engine.recipe import EngineRecord, load_record, require_cpu
from appliance.evals.suite import Suite
from appliance.footprint import Footprint
from appliance.job import ALL_ROWS, LoadedJob, LoadedSuite, Rows
from appliance.memfd import Progress
from appliance.seal.requirement import Requirement
from appliance.seal.reserve import Reserve
from attest import lockfile
from attest.errors import EnvironmentProblem, VerificationError
from attest.files import read_file

LOG = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is to be run, and with what."""

    job: Path
    """The job file."""
    engine: Path
    """The folder of the engine that was built."""
    out: Path
    """Where the bundle goes; must not exist."""
    lock: Path | None = None
    """The lockfile; without one, what is there is pinned for this run."""
    data: tuple[Path, ...] = ()
    """Folders in which data sets are looked for, beside the suites' own."""
    require_seal: Requirement = "any"
    """`full`: a run whose workers' seals lack a layer ends before a worker reads a file."""
    rows: Rows = ALL_ROWS
    """Which rows of the job's suites."""

    @property
    def incomplete(self) -> Path:
        """The folder of the run while it has no bundle."""
        return resume.incomplete(self.out)


@dataclass(frozen=True)
class Memory:
    """What a run takes of this host's memory."""

    needed: Footprint
    """What it takes at most."""
    available_bytes: int
    """What there was before it took any."""


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to be run."""

    loaded: LoadedJob
    """The job."""
    suites: list[LoadedSuite]
    """Its suites, as they were measured."""
    lock_bytes: bytes
    """The lockfile."""
    booted: Booted
    """What was measured, in sealed memory."""
    memory: Memory | None
    """What was reckoned; absent where the models' headers could not be read beforehand."""
    reserve: Reserve
    """Processes for its workers."""


@contextmanager
def prepared(inputs: Inputs, progress: Progress) -> Iterator[Prepared]:
    """The job of `inputs`, ready to be run until the context ends. Raises our errors."""
    # 1. The job.
    loaded = job.load(inputs.job, inputs.rows)
    suites = job.load_suites(loaded, inputs.data)
    # While the controller hashes, the workers' processes import their code.
    with workers.stand_by(loaded.job) as reserve:
        # 2. The lock.
        record = load_record(inputs.engine)
        require_cpu(record, Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        lock_bytes, root = _lock(inputs, loaded, suites, record, progress)
        memory = _reckon(inputs, loaded, lock_bytes, root)
        # 3. The boot.
        resolve, hold = lock.resolver(root, inputs.engine), schedule.at_once(loaded.job)
        with boot.boot(lock_bytes, root, resolve, progress=progress, hold=hold) as booted:
            suites = _check_against_job(booted, loaded, suites)
            yield Prepared(loaded, suites, lock_bytes, booted, memory, reserve)


def refuse_to_overwrite(out: Path) -> None:
    """Raises `EnvironmentProblem` where a bundle, or something else, is at `out` already."""
    if out.exists():
        raise EnvironmentProblem(f"{out} exists already: name another folder with --out, or remove it")


def _reckon(inputs: Inputs, loaded: LoadedJob, lock_bytes: bytes, root: Path) -> Memory | None:
    """Refuse a run that this host has not the memory for, before it takes any."""
    resolve, wanted = lock.resolver(root, inputs.engine), {model.id for model in loaded.job.models}
    pinned = [each for each in lockfile.read(lock_bytes).artifacts if each.kind == "model" and each.name in wanted]
    files = {each.name: footprint.read(resolve(each), each.size_bytes) for each in pinned}
    known = {name: file for name, file in files.items() if file is not None}
    if known.keys() != wanted:
        return None  # the boot says what is wrong
    memory = Memory(footprint.of(loaded.job, known), footprint.available())
    footprint.check(loaded.job, memory.needed, memory.available_bytes)
    return memory


def _lock(
    inputs: Inputs, loaded: LoadedJob, suites: list[LoadedSuite], record: EngineRecord, progress: Progress
) -> tuple[bytes, Path]:
    if inputs.lock is not None:
        return read_file(inputs.lock, lockfile.MAX_BYTES), inputs.lock.parent
    LOG.warning("no lock given: pinning what is here now", advice="write one with `appliance lock` and review it")
    root = loaded.folder
    return lock.make(loaded, suites, engine=inputs.engine, record=record, root=root, progress=progress), root


def _check_against_job(booted: Booted, loaded: LoadedJob, suites: list[LoadedSuite]) -> list[LoadedSuite]:
    """The suites as they were booted. The lock has to pin what the job names, and the suites' own data sets."""
    if booted.lock.numerics.profile != loaded.job.numerics.profile:
        raise VerificationError(
            "lock", "profile", expected=loaded.job.numerics.profile, found=booted.lock.numerics.profile
        )
    wanted = [("model", model.id) for model in loaded.job.models]
    wanted += [("suite", item.suite.name) for item in suites]
    wanted += [("dataset", name) for item in suites for name in item.suite.files]
    pinned = {(artifact.kind, artifact.name) for artifact in booted.lock.artifacts}
    if missing := [f"{kind} {name}" for kind, name in wanted if (kind, name) not in pinned]:
        raise VerificationError("lock", "missing", expected="every model and suite of the job", found=f"no {missing}")
    measured = []
    for item in suites:
        # What runs is what was measured, whatever the file at the job's path says.
        data = booted.file("suite", item.suite.name)[0].read()
        suite = job.parse(Suite, data, f"suite {item.suite.name}")
        if suite != item.suite:
            advice = "Write a new lock for this suite, and have it reviewed"
            found = f"another suite in {item.path}"
            raise VerificationError("lock", "suite", expected="the one that the lock pins", found=found, advice=advice)
        for name in suite.files:
            lock.check_dataset(item, name, booted.file("dataset", name)[0].digest)
        measured.append(LoadedSuite(suite, item.path, item.datasets))
    return measured
