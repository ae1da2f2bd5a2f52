"""Starts the workers, has each of them seal itself, and collects what they report of it.

A worker whose plan names another system call policy than the lock pins is not started. One that reports another plan,
a layer that failed, or a probe that was not denied, ends the run before it is told to read a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import RootModel

from appliance import lock
from appliance.boot import Booted
from appliance.engine.recipe import EngineRecord
from appliance.frames import Kind
from appliance.job import LoadedSuite
from appliance.memfd import Progress
from appliance.relay import Station
from appliance.seal.launch import spawn
from appliance.seal.plan import plan_for
from attest import canonical, determinism, seal
from attest.canonical import Model
from attest.determinism import SelfTest
from attest.digest import Digest
from attest.errors import VerificationError
from attest.job import Job
from attest.results import PlannedSuite
from attest.seal import WorkerSeal
from attest.sealplan import SealPlan

LOG = structlog.get_logger()
SEAL_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 600.0
EVAL_MEMORY_BYTES = 4 << 30
SELF_TEST_THREADS = 2
"""The self-test compares a run on one thread with one on two, at least."""
MODULES = {"eval": "appliance.evals.worker", "model": "appliance.runtime.worker"}
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
    models: list[Station]
    """The model workers, in the job's order."""
    seals: tuple[WorkerSeal, ...]
    """What they report of their seals; the eval worker first."""
    plan: tuple[PlannedSuite, ...]
    """Suites, models and sample counts, in the order of the run."""
    determinism: tuple[SelfTest, ...]
    """What the model workers' self-tests found, in the job's order."""

    def begin(self) -> None:
        """Tell the eval worker to go."""
        self.evals.send(Kind.CONFIG, b"{}")


@contextmanager
def start(job: Job, suites: Sequence[LoadedSuite], booted: Booted, *, progress: Progress) -> Iterator[Crew]:
    """The workers of `job`, sealed and ready; they are killed when the context ends.

    Raises `WorkerFailure`; `VerificationError` for a plan or a seal that is not as published or not as the lock says;
    `MalformedInput` for what a worker says of itself.
    """
    with ExitStack() as stack:
        progress("seal", 0, 1 + len(job.models))
        evals, eval_seal = _start(stack, booted, "eval", *_eval_config(job, suites, booted))
        seals, models = [eval_seal], []
        for model in job.models:
            progress("seal", len(seals), 1 + len(job.models))
            station, report = _start(stack, booted, f"model.{model.id}", *_model_config(job, model.id, booted))
            seals.append(report)
            models.append(station)
        progress("seal", len(seals), len(seals))
        tests = []
        for model, station in zip(job.models, models, strict=True):
            test = determinism.read(station.expect(Kind.READY, READY_TIMEOUT_S), model.id)
            LOG.info("self-test", model=model.id, numerics=test.numerics_class, differing=test.differing)
            if job.numerics.contract == "exact":
                determinism.require_exact(test)
            tests.append(test)
        data = evals.expect(Kind.READY, READY_TIMEOUT_S)
        plan = canonical.parse(Ready, data, "plan of worker eval").root
        yield Crew(evals, models, tuple(seals), plan, tuple(tests))


def _start(
    stack: ExitStack, booted: Booted, name: str, plan: SealPlan, fds: Mapping[str, int], config: dict[str, Any]
) -> tuple[Station, WorkerSeal]:
    _check_policy(plan, booted)
    worker = spawn(MODULES[plan.kind], fds=fds, plan=plan, log=lambda line: _log(name, line))
    stack.callback(worker.kill)
    station = Station(name, worker)
    hello = canonical.parse(Hello, station.expect(Kind.HELLO, SEAL_TIMEOUT_S), f"hello of worker {name}")
    LOG.info("sealed", worker=name, layers=len(hello.layers), probes=len(hello.probes))
    report = WorkerSeal(worker=name, plan=plan, policy=hello.policy, layers=hello.layers, probes=hello.probes)
    seal.check_worker(report)
    station.send(Kind.CONFIG, canonical.dumps(config))
    return station, report


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


def _log(name: str, line: bytes) -> None:
    """What a worker wrote to its standard error: untrusted bytes, shown as printable text."""
    text = "".join(char if char.isprintable() else "?" for char in line.decode("utf-8", "replace"))
    LOG.debug("worker log", worker=name, line=text)


def _eval_config(
    job: Job, suites: Sequence[LoadedSuite], booted: Booted
) -> tuple[SealPlan, dict[str, int], dict[str, Any]]:
    config = {
        "job": job.model_dump(mode="json", exclude_none=True),
        "models": [model.id for model in job.models],
        "suites": [
            {
                "suite": item.suite.model_dump(mode="json", exclude_none=True),
                "limit": entry.limit,
                "models": list(entry.models) if entry.models is not None else None,
            }
            for item, entry in zip(suites, job.suites, strict=True)
        ],
    }
    fds = {item.suite.name: booted.file("dataset", item.suite.name)[0].fd for item in suites}
    return plan_for("eval", memory_bytes=EVAL_MEMORY_BYTES, threads=1), fds, config


def _model_config(job: Job, model: str, booted: Booted) -> tuple[SealPlan, dict[str, int], dict[str, Any]]:
    file = booted.model(model)
    config = {
        "id": model,
        "context_tokens": job.limits.context_tokens,
        "numerics": job.numerics.model_dump(mode="json"),
    }
    fds = {"model": file.fd, "library": booted.file("engine", lock.LIBRARY)[0].fd}
    memory_bytes = job.limits.memory_bytes + file.size_bytes
    record = canonical.parse(EngineRecord, booted.file("engine-record", lock.RECORD)[0].read(), "engine record")
    threads = max(job.numerics.threads, SELF_TEST_THREADS)
    plan = plan_for("model", memory_bytes=memory_bytes, threads=threads, environment=record.environment)
    return plan, fds, config
