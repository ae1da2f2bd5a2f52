"""A run, from job file to signed bundle. Each step is one call, and has its page elsewhere.

1. read the job and its suites                     appliance.job
2. take the lock, or pin what is there             appliance.lock
3. boot: hash everything, compare, refuse          appliance.boot
4. make the boot key, register the intent          appliance.enrol, appliance.notary
5. start and seal the workers                      appliance.workers
6. carry their frames, keep the transcript         appliance.relay
7. build the manifest, sign, write the bundle      appliance.produce
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import structlog

from appliance import boot, footprint, job, lock, produce, redact, resume, schedule, workers
from appliance.attester.protocol import Attester
from appliance.boot import Booted
from appliance.engine.recipe import EngineRecord, load_record, require_cpu
from appliance.enrol import enrol
from appliance.evals.suite import Suite
from appliance.job import ALL_ROWS, LoadedJob, LoadedSuite, Rows
from appliance.memfd import Progress
from appliance.notary.protocol import Notary
from appliance.relay import MAX_RESULTS_BYTES, WorkerFailure, finish, relay
from appliance.resume import Drawn, Earlier, Marks
from appliance.seal.requirement import Requirement
from appliance.seal.reserve import Reserve
from appliance.transcript import TranscriptWriter
from attest import canonical, eventlog, lockfile
from attest.canonical import JSON
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported, VerificationError
from attest.files import read_file
from attest.job import digest as job_digest
from attest.manifest import ContainerSection, Wall
from attest.results import PlannedSuite, Results

LOG = structlog.get_logger()
EndedBy = Literal["done", "interrupted", "failed"]


@dataclass(frozen=True)
class Request:
    """What the operator asks for."""

    job: Path
    """The job file."""
    lab: Notary
    """The lab that certifies, logs and time-stamps: here, or on the other side of a wall."""
    engine: Path
    """The folder of the engine that was built."""
    out: Path
    """Where the bundle goes; must not exist."""
    lock: Path | None = None
    """The lockfile; without one, what is there is pinned for this run."""
    data: tuple[Path, ...] = ()
    """Folders in which data sets are looked for, beside the suites' own."""
    sign_incomplete: bool = False
    """Sign what there is when the run ends early."""
    require_seal: Requirement = "any"
    """`full`: a run whose workers' seals lack a layer ends before a worker reads a file."""
    wall: Wall = "process"
    """The wall that this process is behind, for the manifest."""
    container: ContainerSection | None = None
    """Of a container, what its host says about it."""
    attester: Attester | None = None
    """The hardware that speaks for the run."""
    inspect_log: bytes | None = None
    """The log of Inspect that the job was made of, for the bundle."""
    resume_key: Callable[[str], bytes] | None = None
    """By a job's digest, the key by which the lab knows its own samples. Without it no run can go on with this one."""
    resume: bool = False
    """Go on with what `OUT.incomplete` holds."""
    rows: Rows = ALL_ROWS
    """Which rows of the job's suites."""

    @property
    def incomplete(self) -> Path:
        """The folder of the run while it has no bundle."""
        return resume.incomplete(self.out)


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    bundle: Path
    """The bundle's folder."""
    results: Results
    """The results, as signed."""
    ended_by: EndedBy
    """How the run ended."""


def run(request: Request, progress: Progress) -> Outcome:
    """Run a job. Raises our errors, and `WorkerFailure` when a worker failed and nothing was signed.

    A run that ends early leaves `OUT.incomplete/transcript.jsonl`, whose last line says how it ended.
    """
    if request.out.exists():
        raise EnvironmentProblem(f"{request.out} exists already: name another folder with --out, or remove it")
    if not request.resume:
        resume.refuse_to_forget(request.incomplete)
    elif request.resume_key is None or request.attester is not None:
        raise Unsupported("resume", "expected a run with the lab's key for it, and that no hardware speaks for")
    # 1. The job.
    loaded = job.load(request.job, request.rows)
    suites = job.load_suites(loaded, request.data)
    # While the controller hashes, the workers' processes import their code.
    with workers.stand_by(loaded.job) as reserve:
        return _run(request, loaded, suites, reserve, progress)


def _run(
    request: Request, loaded: LoadedJob, suites: list[LoadedSuite], reserve: Reserve, progress: Progress
) -> Outcome:
    # 2. The lock.
    record = load_record(request.engine)
    require_cpu(record, Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    lock_bytes, root = _lock(request, loaded, suites, record, progress)
    _check_memory(request, loaded, lock_bytes, root)
    # 3. The boot.
    folder = request.incomplete
    with (
        boot.boot(
            lock_bytes, root, lock.resolver(root, request.engine), progress=progress, hold=schedule.at_once(loaded.job)
        ) as booted,
        ExitStack() as holding,
    ):
        suites = _check_against_job(booted, loaded, suites)
        drawn = Drawn(
            job_digest=job_digest(loaded.job),
            lock_digest=booted.lock_digest,
            measurement=eventlog.measurement(booted.registers),
            wall=request.wall,
            container=request.container,
        )
        earlier = _take_up(request, drawn, holding)
        # 4. The intent, before anything runs.
        enrolled = enrol(request.lab, request.attester, booted, loaded.job)
        receipt = enrolled.receipt
        LOG.info("registered", attempt=receipt.intent.attempt, log_index=receipt.log_index)
        if request.resume:
            resume.clear(folder)
        else:
            resume.make(folder)
            holding.enter_context(resume.held(folder))
        with (
            redact.kept(folder),
            workers.start(
                loaded.job, suites, booted, progress=progress, reserve=reserve, require_seal=request.require_seal
            ) as crew,
            TranscriptWriter(folder / resume.NEW, _marks(request, drawn, receipt.intent.attempt, earlier)) as writer,
        ):
            # 5. The plan, which the eval worker makes of the data sets behind its seal.
            plan = crew.plan
            opening: JSON = {"job": drawn.job_digest, "plan": [entry.model_dump(mode="json") for entry in plan]}
            resume.begin(writer, folder, opening, earlier)
            # 6. The samples.
            ended_by, results_bytes, failure = _samples(request, loaded, crew, writer, plan, progress)
            ended = datetime.now(UTC)
            writer.close({"ended_by": ended_by})
        if failure is not None and results_bytes is None:
            here = request.resume_key is not None and request.wall == "process"
            advice = f"go on with --resume {folder}" if here else ""  # else the other side of the wall knows where
            LOG.warning("incomplete", ended_by=ended_by, transcript=str(folder / resume.TRANSCRIPT), advice=advice)
            redact.keep(failure, folder)
            raise failure
        assert results_bytes is not None
        with redact.kept(folder), redact.unquoted(crew.evals.discretion):
            results = _read_results(results_bytes, plan)
        # 7. The bundle.
        produce.produce(
            produce.Parts(
                job=loaded.job,
                lock_bytes=lock_bytes,
                lock_given=request.lock is not None,
                booted=booted,
                record_bytes=booted.file("engine-record", lock.RECORD)[0].read(),
                enrolled=enrolled,
                seals=crew.seals,
                plan=plan,
                determinism=crew.tests.reports(),
                results=results,
                transcript=folder / resume.TRANSCRIPT,
                writer=writer,
                ended=ended,
                ended_by=ended_by,
                resumed=earlier.attempts,
                wall=request.wall,
                container=request.container,
                inspect_log=request.inspect_log,
            ),
            request.lab,
            request.out,
        )
    shutil.rmtree(folder)
    return Outcome(request.out, results, ended_by)


def _check_memory(request: Request, loaded: LoadedJob, lock_bytes: bytes, root: Path) -> None:
    """Refuse a run that this host has not the memory for, before it takes any."""
    resolve, wanted = lock.resolver(root, request.engine), {model.id for model in loaded.job.models}
    pinned = [each for each in lockfile.read(lock_bytes).artifacts if each.kind == "model" and each.name in wanted]
    files = {each.name: footprint.read(resolve(each), each.size_bytes) for each in pinned}
    known = {name: file for name, file in files.items() if file is not None}
    if known.keys() == wanted:  # else the boot says what is wrong
        footprint.check(loaded.job, footprint.of(loaded.job, known), footprint.available())


def _take_up(request: Request, drawn: Drawn, holding: ExitStack) -> Earlier:
    """What there is to go on with; from here on nobody else writes to its folder."""
    if not request.resume or request.resume_key is None:
        return Earlier()
    holding.enter_context(resume.held(request.incomplete))
    earlier = resume.take_up(request.incomplete, request.resume_key(drawn.job_digest), drawn)
    LOG.info("resumed", samples=len(earlier.records), attempts=[each.attempt for each in earlier.attempts])
    return earlier


def _marks(request: Request, drawn: Drawn, attempt: int, earlier: Earlier) -> Marks | None:
    """What vouches for the samples, so that another run may go on with them."""
    if request.resume_key is None or request.attester is not None:
        return None
    return Marks(request.incomplete, request.resume_key(drawn.job_digest), drawn, attempt, earlier.attempts)


def _lock(
    request: Request, loaded: LoadedJob, suites: list[LoadedSuite], record: EngineRecord, progress: Progress
) -> tuple[bytes, Path]:
    if request.lock is not None:
        return read_file(request.lock, lockfile.MAX_BYTES), request.lock.parent
    LOG.warning("no lock given: pinning what is here now", advice="write one with `appliance lock` and review it")
    root = loaded.folder
    return lock.make(loaded, suites, engine=request.engine, record=record, root=root, progress=progress), root


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


def _samples(
    request: Request,
    loaded: LoadedJob,
    crew: workers.Crew,
    writer: TranscriptWriter,
    plan: tuple[PlannedSuite, ...],
    progress: Progress,
) -> tuple[EndedBy, bytes | None, BaseException | None]:
    """How the run ended, the results if there are any, and what ended it early."""
    limits, total = loaded.job.limits, sum(entry.samples for entry in plan)
    progress("samples", len(writer.samples), total)
    try:
        crew.begin(writer.samples)
        results, due, end = None, 0, time.monotonic() + limits.wall_time_s
        for stage in crew.stages:
            crew.enter(stage)
            due += sum(plan[place].samples for place in stage.entries)
            results = relay(
                crew.evals,
                crew.models,
                writer,
                sample_timeout_s=limits.sample_timeout_s,
                end=end,
                on_sample=lambda: progress("samples", len(writer.samples), total),
                on_tested=crew.tests.take,
                programs=crew.programs,
                until=None if stage is crew.stages[-1] else due,
            )
        crew.finish_tests()
    except (MalformedInput, VerificationError) as error:
        # A self-test that is not whole, or not what the job promises: whatever was asked for, this is not signed.
        LOG.warning("stopped early", ended_by="failed", samples=len(writer.samples), planned=total, reason=str(error))
        return "failed", None, error
    except (WorkerFailure, KeyboardInterrupt) as error:
        ended_by: EndedBy = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        LOG.warning("stopped early", ended_by=ended_by, samples=len(writer.samples), planned=total, reason=str(error))
        return ended_by, _finish(crew, writer, sign=request.sign_incomplete), error
    return "done", results, None


def _finish(crew: workers.Crew, writer: TranscriptWriter, *, sign: bool) -> bytes | None:
    """The results of what there is, where they are to be signed."""
    try:
        results = finish(crew.evals, writer)
        if not sign:
            return None
        crew.finish_tests()
        return results
    except (WorkerFailure, KeyboardInterrupt, MalformedInput, VerificationError) as error:
        LOG.warning("no results of the incomplete run", reason=str(error))
        return None


def _read_results(data: bytes, plan: tuple[PlannedSuite, ...]) -> Results:
    """The eval worker's results. It is sealed, not trusted: form and counts have to fit the plan."""
    if len(data) > MAX_RESULTS_BYTES:
        raise MalformedInput("results", f"expected at most {MAX_RESULTS_BYTES} bytes, found {len(data)}")
    results = canonical.parse(Results, data, "results")
    shape = [(suite.model, suite.suite, suite.planned) for suite in results.suites]
    if shape != [(entry.model, entry.suite, entry.samples) for entry in plan]:
        raise MalformedInput("results", "expected the suites of the plan, found others")
    return results


def default_out(name: str, folder: Path = Path("bundles")) -> Path:
    """`bundles/NAME-N`, the first that does not exist."""
    number = 1
    while os.path.lexists(folder / f"{name}-{number}"):
        number += 1
    return folder / f"{name}-{number}"
