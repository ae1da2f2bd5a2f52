"""Starts the workers, has each of them seal itself, and collects what they report of it.

A worker whose seal has a layer that failed, or a probe that was not denied, ends the run before it sees a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import TypeAdapter

from appliance import lock
from appliance.boot import Booted
from appliance.frames import Kind
from appliance.job import LoadedSuite
from appliance.relay import Station
from appliance.memfd import Progress
from appliance.seal.launch import spawn
from appliance.seal.plan import SealPlan, plan_for
from attest import canonical, seal
from attest.canonical import Model
from attest.job import Job
from attest.results import PlannedSuite
from attest.seal import WorkerSeal

LOG = structlog.get_logger()
SEAL_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 600.0
EVAL_MEMORY_BYTES = 4 << 30
MODULES = {"eval": "appliance.evals.worker", "model": "appliance.runtime.worker"}
"""What each kind of worker runs."""
PLAN = TypeAdapter(tuple[PlannedSuite, ...])


class Hello(Model):
    """What a `HELLO` frame says."""

    policy: str
    """The seal plan's policy digest."""
    layers: tuple[seal.Layer, ...]
    """What became of each layer."""
    probes: tuple[seal.Probe, ...]
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

    def begin(self) -> None:
        """Tell the eval worker to go."""
        self.evals.send(Kind.CONFIG, b"{}")


@contextmanager
def start(
    job: Job, suites: Sequence[LoadedSuite], booted: Booted, *, progress: Progress
) -> Iterator[Crew]:
    """The workers of `job`, sealed and ready; they are killed when the context ends. Raises `WorkerFailure`."""
    with ExitStack() as stack:
        progress("seal", 0, 1 + len(job.models))
        evals, eval_seal = _start(stack, "eval", *_eval_config(job, suites, booted))
        seals, models = [eval_seal], []
        for model in job.models:
            progress("seal", len(seals), 1 + len(job.models))
            station, report = _start(stack, f"model.{model.id}", *_model_config(job, model.id, booted))
            seals.append(report)
            models.append(station)
        progress("seal", len(seals), len(seals))
        seal.check(seal.SealReport(workers=tuple(seals)))
        for station in models:
            station.expect(Kind.READY, READY_TIMEOUT_S)
        data = evals.expect(Kind.READY, READY_TIMEOUT_S)
        plan = PLAN.validate_json(canonical.dumps(canonical.loads(data, "plan")))
        yield Crew(evals, models, tuple(seals), plan)


def _start(
    stack: ExitStack, name: str, plan: SealPlan, fds: Mapping[str, int], config: dict[str, Any]
) -> tuple[Station, WorkerSeal]:
    worker = spawn(MODULES[plan.kind], fds=fds, plan=plan, log=lambda line: _log(name, line))
    stack.callback(worker.kill)
    station = Station(name, worker)
    hello = canonical.parse(Hello, station.expect(Kind.HELLO, SEAL_TIMEOUT_S), f"hello of worker {name}")
    LOG.info("sealed", worker=name, layers=len(hello.layers), probes=len(hello.probes))
    station.send(Kind.CONFIG, canonical.dumps(config))
    value = plan.model_dump(mode="json", exclude_none=True)
    report = WorkerSeal(worker=name, plan=value, policy=hello.policy, layers=hello.layers, probes=hello.probes)
    return station, report


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
    shards = booted.file("model", model)
    config = {
        "id": model,
        "shards": len(shards),
        "context_tokens": job.limits.context_tokens,
        "threads": job.numerics.threads,
    }
    fds = {f"shard-{number}": shard.fd for number, shard in enumerate(shards)}
    fds["library"] = booted.file("engine", lock.LIBRARY)[0].fd
    memory_bytes = job.limits.memory_bytes + sum(shard.size_bytes for shard in shards)
    return plan_for("model", memory_bytes=memory_bytes, threads=job.numerics.threads), fds, config
