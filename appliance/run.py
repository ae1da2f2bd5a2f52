"""A run, from job file to signed bundle. Each step is one call, and has its page elsewhere.

1. read the job and its suites                     appliance.prepare, appliance.job
2. take the lock, or pin what is there             appliance.prepare, appliance.lock
3. boot: hash everything, compare, refuse          appliance.prepare, appliance.boot
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
from typing import TYPE_CHECKING, Literal

import structlog

from appliance import lock, prepare, produce, redact, resume, workers
from appliance.attester.protocol import Attester
from appliance.enrol import enrol
from appliance.job import LoadedJob
from appliance.memfd import Progress
from appliance.notary.protocol import Notary
from appliance.prepare import Inputs, Prepared
from appliance.relay import MAX_RESULTS_BYTES, WorkerFailure, finish, relay
from appliance.resume import Drawn, Earlier, Marks
from appliance.transcript import TranscriptWriter
from attest import canonical, eventlog
from attest.canonical import JSON
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.job import digest as job_digest
from attest.manifest import ContainerSection, Wall
from attest.results import PlannedSuite, Results

if TYPE_CHECKING:
    from appliance.stream import Listener

LOG = structlog.get_logger()
EndedBy = Literal["done", "interrupted", "failed"]


@dataclass(frozen=True, kw_only=True)
class Request(Inputs):
    """What the operator asks for."""

    lab: Notary
    """The lab that certifies, logs and time-stamps: here, or on the other side of a wall."""
    sign_incomplete: bool = False
    """Sign what there is when the run ends early."""
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
    listener: Listener | None = None
    """Who is told what models say while they say it."""


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
    prepare.refuse_to_overwrite(request.out)
    if not request.resume:
        resume.refuse_to_forget(request.incomplete)
    elif request.resume_key is None or request.attester is not None:
        raise Unsupported("resume", "expected a run with the lab's key for it, and that no hardware speaks for")
    # 1. to 3. The job, its lock, the boot.
    with prepare.prepared(request, progress) as prepared:
        return _run(request, prepared, progress)


def _run(request: Request, prepared: Prepared, progress: Progress) -> Outcome:
    loaded, suites, booted, folder = prepared.loaded, prepared.suites, prepared.booted, request.incomplete
    with ExitStack() as holding:
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
            # 5. The workers.
            workers.start(
                loaded.job,
                suites,
                booted,
                progress=progress,
                reserve=prepared.reserve,
                require_seal=request.require_seal,
                stream=request.listener is not None,
            ) as crew,
            TranscriptWriter(folder / resume.NEW, _marks(request, drawn, receipt.intent.attempt, earlier)) as writer,
        ):
            # 6. The plan, which the eval worker makes of the data sets behind its seal, and its samples.
            plan = crew.plan
            opening: JSON = {"job": drawn.job_digest, "plan": [entry.model_dump(mode="json") for entry in plan]}
            resume.begin(writer, folder, opening, earlier)
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
                lock_bytes=prepared.lock_bytes,
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
                listener=request.listener,
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
