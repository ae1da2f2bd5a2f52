"""Starts the workers, has each of them seal itself, and collects what they report of it.

A worker whose plan names another system call policy than the lock pins is not started. One that reports another plan,
a layer that failed, or a probe that was not denied, ends the run before it is told to read a file; so does one whose
seal is less than the user requires.

`stand_by` starts the workers' processes ahead, so that Python is up when `start` has plans and files for them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from pydantic import RootModel

from appliance import lock, redact, schedule, selftests
from appliance.boot import Booted
from appliance.engine.recipe import EngineRecord
from appliance.evals.scorers.program import Program
from appliance.frames import Kind
from appliance.job import LoadedSuite
from appliance.memfd import Progress
from appliance.programs.pool import Programs
from appliance.redact import Discretion
from appliance.relay import Station
from appliance.schedule import Stage
from appliance.seal.plan import Kind as SealKind
from appliance.seal.plan import plan_for
from appliance.seal.requirement import Requirement, require
from appliance.seal.reserve import Reserve
from appliance.selftests import NoTests, SelfTests
from attest import canonical, seal
from attest.canonical import Model
from attest.digest import Digest
from attest.errors import MalformedInput, VerificationError
from attest.job import Job
from attest.results import PlannedSuite
from attest.seal import WorkerSeal
from attest.sealplan import SealPlan

LOG = structlog.get_logger()
SEAL_TIMEOUT_S = 300.0
"""A worker imports its code first, which takes a minute on an emulated processor that others use as well."""
READY_TIMEOUT_S = 600.0
EVAL_MEMORY_BYTES = 4 << 30
SELF_TEST_THREADS = 2
"""The self-test compares a run on one thread with one on two, at least."""
PROGRAM_MEMORY_BYTES = 512 << 20
PROGRAM_CPU_S = 120
"""Processor time of a program and of its tests; their wall time is a setting of the scorer."""
MOST_AHEAD = 4
"""Model workers that are started ahead of the run; the others are started when it is their turn."""
MODULES: dict[SealKind, str] = {
    "eval": "appliance.evals.worker",
    "model": "appliance.runtime.worker",
    "program": "appliance.programs.worker",
}
"""What each kind of worker runs."""


class Ready(RootModel[tuple[PlannedSuite, ...]]):
    """What the eval worker's `READY` frame says: the run's plan."""


class Hello(Model):
    """What a `HELLO` frame says."""

    policy: Digest
    """The seal plan's policy digest."""
    layers: seal.Layers
    """What became of each layer."""
    probes: seal.Probes
    """What each probe met."""


@dataclass
class Crew:
    """The sealed workers of one run."""

    evals: Station
    """The eval worker."""
    models: list[Station | None]
    """The model workers, in the job's order; None for one that is not loaded."""
    reports: dict[str, WorkerSeal]
    """What the workers started so far report of their seals, by worker."""
    plan: tuple[PlannedSuite, ...]
    """Suites, models and sample counts, in the order of the run."""
    stages: list[Stage]
    """Which models are loaded together."""
    job: Job
    """The job."""
    hire: Callable[[str], tuple[Station, WorkerSeal]]
    """Starts the worker of a model, by its name; it loads the model then."""
    let_go: Callable[[str], None]
    """Frees the memory of a model, by its name, which no worker has any more."""
    tests: SelfTests
    """What the model workers' self-tests found, so far."""
    programs: Programs | None = None
    """Runs programs that a model wrote, where a suite scores them."""

    @property
    def seals(self) -> tuple[WorkerSeal, ...]:
        """What the workers report of their seals: the eval worker, the models in the job's order, programs."""
        names = ("eval", *(f"model.{model.id}" for model in self.job.models), "program")
        return tuple(self.reports[name] for name in names if name in self.reports)

    def begin(self, records: Sequence[bytes] = ()) -> None:
        """Hand the eval worker the sample records, in order, of the run that this one goes on with.

        Raises `WorkerFailure`.
        """
        for record in records:
            self.evals.send(Kind.RECORD, record)

    def enter(self, stage: Stage) -> None:
        """Have the models of `stage` loaded, and no others, and tell the eval worker to go on.

        Raises `WorkerFailure`, and what `start` and `SelfTests.take` raise.
        """
        for number, model in enumerate(self.job.models):
            if model.id not in stage.models:
                self._release(number)
        self._load([number for number, model in enumerate(self.job.models) if model.id in stage.models])
        for station in filter(None, self.models):
            station.discretion.begin()  # it is given prompts from here on
        self.evals.send(Kind.CONFIG, b"{}")

    def _load(self, numbers: Sequence[int]) -> None:
        """Start the workers of these models, where they do not run, and wait until they are ready."""
        new = [number for number in numbers if self.models[number] is None]
        started = []
        for number in new:
            station, report = self.hire(self.job.models[number].id)
            self.reports[station.name] = report
            self.models[number] = station
            started.append(station)
        for station in started:
            station.expect(Kind.READY, READY_TIMEOUT_S)

    def _release(self, number: int) -> None:
        """End the worker of a model, where it runs, with its self-test's report."""
        if (station := self.models[number]) is None:
            return
        self.models[number] = None
        if self.tests.missing(number):
            self.tests.take(number, station.last_word(Kind.TESTED, selftests.TIMEOUT_S))
        station.worker.kill()
        self.let_go(self.job.models[number].id)
        LOG.info("released", worker=station.name)

    def finish_tests(self) -> None:
        """End all models, and take the reports of those that had none yet, as those that were asked nothing.

        One that was never loaded is loaded for it, alone. Raises `WorkerFailure`, and what `SelfTests.take` raises.
        """
        for number in range(len(self.models)):
            self._release(number)
        for number in range(len(self.models)):
            if self.tests.missing(number):
                self._load([number])
                self._release(number)


@contextmanager
def stand_by(job: Job) -> Iterator[Reserve]:
    """Processes for the workers of `job`, importing their code; those that `start` does not take are killed."""
    with Reserve() as reserve:
        reserve.add(MODULES["eval"], "eval", partial(_log, "eval", Discretion()))
        for _ in job.models[: 1 if job.schedule == "sequential" else MOST_AHEAD]:
            reserve.add(MODULES["model"], "model", partial(_log, "model", Discretion()))
        yield reserve


@contextmanager
def start(
    job: Job,
    suites: Sequence[LoadedSuite],
    booted: Booted,
    *,
    progress: Progress,
    reserve: Reserve | None = None,
    require_seal: Requirement = "any",
    stream: bool = False,
    dry_run: int | None = None,
) -> Iterator[Crew]:
    """The workers of `job`, sealed and ready; they are killed when the context ends.

    `reserve`: what `stand_by` started for this job; without it their processes are started now. `stream`: have model
    workers send what they say while they say it. `dry_run`: have them make prompts and nothing else, and hand out in
    full those of so many samples of each suite.
    Raises `WorkerFailure`; `VerificationError` for a plan or a seal that is not as published or not as the lock says;
    `MalformedInput` for what a worker says of itself; `EnvironmentProblem` for a seal that is less than `require_seal`.
    """
    with ExitStack() as stack:
        dry = dry_run is not None
        kept = "on standard output" if dry else redact.KEPT
        started = _Start(stack, reserve or stack.enter_context(stand_by(job)), booted, require_seal, kept)
        at_once = schedule.at_once(job)

        def hire(model: str) -> tuple[Station, WorkerSeal]:
            return started.one(f"model.{model}", *_model_config(job, model, booted, dry_run=dry, stream=stream))

        progress("seal", 0, 1 + len(at_once))
        evals, eval_seal = started.one("eval", *_eval_config(job, suites, booted, dry_run))
        reports: dict[str, WorkerSeal] = {"eval": eval_seal}
        models: list[Station | None] = [None] * len(job.models)
        for number, name in enumerate(at_once):
            progress("seal", len(reports), 1 + len(at_once))
            models[number], reports[f"model.{name}"] = hire(name)
        programs = None
        if not dry and any(isinstance(spec, Program) for item in suites for spec in item.suite.scorers):
            programs, reports["program"] = started.programs()
        progress("seal", len(reports), len(reports))
        for station in filter(None, models):
            station.expect(Kind.READY, READY_TIMEOUT_S)
        data = evals.expect(Kind.READY, READY_TIMEOUT_S)
        with redact.unquoted(evals.discretion):
            plan = canonical.parse(Ready, data, "plan of worker eval").root
        tests = NoTests(job) if dry else SelfTests(job, lambda done, total: progress("self-test", done, total))
        stages = schedule.stages(job, _needs(job, suites, plan))
        yield Crew(evals, models, reports, plan, stages, job, hire, booted.let_go, tests, programs)


def _needs(job: Job, suites: Sequence[LoadedSuite], plan: Sequence[PlannedSuite]) -> list[frozenset[str]]:
    """The models that each entry of the plan needs, in whatever role."""
    entries = {item.suite.name: entry for item, entry in zip(suites, job.suites, strict=True)}
    found = []
    for planned in plan:
        if planned.suite not in entries:
            raise MalformedInput("plan of worker eval", f"expected suites of the job, found {planned.suite!r}")
        found.append(schedule.needed(entries[planned.suite], planned.model))
    return found


@contextmanager
def start_model(job: Job, booted: Booted) -> Iterator[tuple[Station, WorkerSeal]]:
    """The worker of the one model of `job`, sealed and ready, without a run around it; killed when the context ends.

    Raises as `start` does.
    """
    with ExitStack() as stack:
        started = _Start(stack, stack.enter_context(Reserve()), booted, "any")
        (model,) = job.models
        station, report = started.one(f"model.{model.id}", *_model_config(job, model.id, booted))
        station.expect(Kind.READY, READY_TIMEOUT_S)
        yield station, report


@dataclass(frozen=True)
class _Start:
    """What it takes to start a worker of this run."""

    stack: ExitStack
    """Kills the workers in the end."""
    reserve: Reserve
    """Where processes come from."""
    booted: Booted
    """What was measured."""
    require_seal: Requirement
    """What the user asks of the seals."""
    kept: str = redact.KEPT
    """Where the words of a worker that fails are kept."""

    def one(
        self, name: str, plan: SealPlan, fds: Mapping[str, int], config: dict[str, Any]
    ) -> tuple[Station, WorkerSeal]:
        """Start the worker `name`, and tell it its configuration if its seal is as published and as required."""
        began = time.monotonic()
        station = self._spawned(name, plan, fds)
        report = self._admitted(name, plan, station.expect(Kind.HELLO, SEAL_TIMEOUT_S))
        took_ms = round(1000 * (time.monotonic() - began), 1)
        LOG.info("sealed", worker=name, layers=len(report.layers), probes=len(report.probes), ms=took_ms)
        if plan.kind == "eval":  # it reads its data sets next, so what it says may quote prompts
            station.discretion.begin(item["suite"]["name"] for item in config.get("suites", ()))
        station.send(Kind.CONFIG, canonical.dumps(config))
        return station, report

    def programs(self) -> tuple[Programs, WorkerSeal]:
        """What runs programs, and the seal that one of its workers reports, which is every one's."""
        plan = plan_for("program", memory_bytes=PROGRAM_MEMORY_BYTES, threads=1, cpu_s=PROGRAM_CPU_S)
        first = self._spawned("program", plan, {})
        report = self._admitted("program", plan, first.expect(Kind.HELLO, SEAL_TIMEOUT_S))
        first.worker.kill()  # it has no trial, and each worker is for one
        numbers = itertools.count()

        def hire() -> Station:
            station = self._spawned(f"program.{next(numbers)}", plan, {})
            station.discretion.begin()  # what a program prints may quote its prompt
            return station

        return Programs(hire, lambda hello: self._admitted("program", plan, hello)), report

    def _spawned(self, name: str, plan: SealPlan, fds: Mapping[str, int]) -> Station:
        """The worker `name`, which goes on to seal itself; it is killed when the context ends."""
        _check_policy(plan, self.booted)
        discretion = Discretion(self.kept)
        worker = self.reserve.take(MODULES[plan.kind], plan, fds, partial(_log, name, discretion))
        self.stack.callback(worker.kill)
        return Station(name, worker, discretion=discretion)

    def _admitted(self, name: str, plan: SealPlan, payload: bytes) -> WorkerSeal:
        """What the worker reports of its seal, if that is as published and as required."""
        hello = canonical.parse(Hello, payload, f"hello of worker {name}")
        report = WorkerSeal(worker=name, plan=plan, policy=hello.policy, layers=hello.layers, probes=hello.probes)
        seal.check_worker(report)
        require(self.require_seal, name, report.layers)
        return report


def _check_policy(plan: SealPlan, booted: Booted) -> None:
    """The policy file was read anew for the plan; the worker compiles only bytes with the plan's digest."""
    name = f"seccomp-{plan.kind}"
    measured = booted.file("policy", name)[0].digest
    if plan.seccomp.policy_digest != measured:
        raise VerificationError(
            "seal",
            "seccomp-policy",
            expected=f"policy {name} with {measured}, as measured at boot",
            found=plan.seccomp.policy_digest,
            advice="The file changed after the boot: restore it, and find out who changed it",
        )


def _log(name: str, discretion: Discretion, line: bytes) -> None:
    """What a worker wrote to its standard error: untrusted bytes, shown as far as they cannot quote prompts."""
    if (text := discretion.line(line)) is not None:
        LOG.debug("worker log", worker=name, line=text)


def _eval_config(
    job: Job, suites: Sequence[LoadedSuite], booted: Booted, dry_run: int | None
) -> tuple[SealPlan, dict[str, int], dict[str, Any]]:
    config = {
        "job": job.model_dump(mode="json", exclude_none=True),
        "models": [model.id for model in job.models],
        "suites": [
            {
                "suite": item.suite.model_dump(mode="json", exclude_none=True),
                "entry": entry.model_dump(mode="json", exclude_none=True),
            }
            for item, entry in zip(suites, job.suites, strict=True)
        ],
        "dry_run": dry_run,
    }
    fds = {name: booted.file("dataset", name)[0].fd for item in suites for name in item.suite.files}
    return plan_for("eval", memory_bytes=EVAL_MEMORY_BYTES, threads=1), fds, config


def _model_config(
    job: Job, model: str, booted: Booted, *, dry_run: bool = False, stream: bool = False
) -> tuple[SealPlan, dict[str, int], dict[str, Any]]:
    file = booted.model(model)
    config = {
        "id": model,
        "context_tokens": job.limits.context_tokens,
        "numerics": job.numerics.model_dump(mode="json"),
        "dry_run": dry_run,
        "stream": stream,
    }
    fds = {"model": file.fd, "library": booted.file("engine", lock.LIBRARY)[0].fd}
    memory_bytes = job.limits.memory_bytes + file.size_bytes
    record = canonical.parse(EngineRecord, booted.file("engine-record", lock.RECORD)[0].read(), "engine record")
    threads = max(job.numerics.threads, SELF_TEST_THREADS)
    plan = plan_for("model", memory_bytes=memory_bytes, threads=threads, environment=record.environment)
    return plan, fds, config
