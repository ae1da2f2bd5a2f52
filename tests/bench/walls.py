"""The container wall against the process wall: what a job costs behind it, and how long walls take to start.

One job is run behind both walls in turns, by the same program; who begins changes from round to round. The start of a
container is the time from the call to the hello of the Python inside; no file of a job is read by then. The start of a
worker is the time from the request to its word that it is sealed, with a process that stands by, as in a run.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from appliance.enclave import container, launch, seccomp
from appliance.enclave.container import ContainerPlan, Mount, Runtime
from appliance.enclave.rootfs import Image
from appliance.seal import plan_for, sealed_file
from attest.errors import EnvironmentProblem
from attest.sealplan import Kind
from tests.bench import mmlu
from tests.bench.clock import Spent, run
from tests.bench.record import Bar, Measure, Side, value_row
from tests.bench.starts import warm
from tests.bench.walled import image

ROOT = Path(__file__).resolve().parents[2]
COST = Bar("cost", 1.01)
START_S = 1.0
WORKER_MS = 100.0
STARTS = 5
ROWS = 40
SEQUENCES = 8
RUNTIMES: tuple[Runtime, ...] = ("runc", "podman", "bubblewrap")
COUNTED: tuple[Runtime, ...] = ("runc", "bubblewrap")
"""The runtimes that wait for their containers, so that CPU time is known. podman leaves them to a monitor."""
SAME = ("results.json", "transcript.jsonl")


def measure(
    model: Path, engine: Path, folder: Path, *, threads: int, rounds: int, limit: int | None,
    facts: dict[str, Any], say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rows of the record, for the runtimes of this host."""
    yield from _workers(engine, threads, facts, say)
    found, more, called = image(folder / "image")
    facts = {**facts, "image": called}
    runtimes = [runtime for runtime in RUNTIMES if _there(runtime)]
    say(f"start of a container by {', '.join(runtimes)}, {STARTS} times each")
    rounds_of_starts = [
        {runtime: start(runtime, found, more, folder / f"{runtime}-{number}") for runtime in runtimes}
        for number in range(STARTS)
    ]
    for runtime in runtimes:
        spent = [one[runtime] for one in rounds_of_starts]
        yield value_row(f"start of a container by {runtime}", statistics.median(spent), "s", START_S, **facts)
    work = folder / "walls"
    work.mkdir()
    profile = json.loads((engine / "record.json").read_text("utf-8"))["profile"]
    job = mmlu.write(work, model, profile=profile, threads=threads, sequences=SEQUENCES, limit=limit or ROWS)
    value = json.loads(job.read_text("utf-8"))
    value["models"][0]["path"] = os.path.relpath(model.resolve(), work.resolve())  # no absolute paths behind a wall
    job.write_text(json.dumps(value), "utf-8")
    facts = {**facts, "threads": threads, "rows": limit or ROWS}
    for runtime in [runtime for runtime in runtimes if runtime in COUNTED][:1]:
        compared = Measure(
            f"whole job behind the container wall, {runtime}", "the same job, process wall", "job", COST, facts=facts
        )
        for number in range(rounds):
            order = [runtime, "process"] if number % 2 == 0 else ["process", runtime]
            say(f"job of {limit or ROWS} rows: {', then '.join(order)}, round {number + 1} of {rounds}")
            places = {wall: work / f"{wall}-{number}" / "bundle" for wall in order}
            spent_by = {wall: _job([job, engine, work / "lab", places[wall], wall, folder / "image"]) for wall in order}
            compared.add(spent_by[runtime], spent_by["process"])
            ours, theirs = places[runtime], places["process"]
            if any((ours / name).read_bytes() != (theirs / name).read_bytes() for name in SAME):
                raise RuntimeError("expected the same results and transcript behind both walls, found others")
        yield compared.row()


def _workers(engine: Path, threads: int, facts: dict[str, Any], say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    library = sealed_file("library", (engine / "libllama.so").read_bytes())
    needs: dict[Kind, dict[str, int]] = {"eval": {}, "model": {"library": library}}
    try:
        for kind, fds in needs.items():
            say(f"start of a sealed {kind} worker, {STARTS} times")
            plan = plan_for(kind, memory_bytes=1 << 30, threads=threads)
            took = [warm(kind, plan, fds) for _ in range(STARTS)]
            wall_s = statistics.median(one.wall_s for one in took)
            cpu_s = statistics.median(one.cpu_s for one in took)
            name = f"start of a sealed {kind} worker"
            yield value_row(name, 1000 * wall_s, "ms", WORKER_MS, **facts, cpu_ms=round(1000 * cpu_s))
    finally:
        os.close(library)


def start(runtime: Runtime, found: Image, more: tuple[Mount, ...], folder: Path) -> float:
    """Seconds until the inside of a new container says hello. `folder` is made, for what belongs to it."""
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True)
    mounts = (
        Mount(role="inputs", source=str(folder / "in"), target="/in"),
        Mount(role="output", source=str(folder / "out"), target="/out", writable=True),
    )
    plan = ContainerPlan(
        runtime=runtime,
        image=found.digest,
        root=str(found.root),
        command=found.command,
        environment=container.environment(found.environment),
        mounts=(*more, *mounts),
        bounds=container.bounds_for(input_bytes=0, worker_bytes=4 << 30, workers=2, memory=False, tasks=False),
        seccomp=seccomp.digest(seccomp.read()),
    )
    began = time.perf_counter()
    with launch.start(plan, folder / "container"):
        return time.perf_counter() - began


def _job(arguments: list[str | Path]) -> Side:
    run([sys.executable, "-m", "tests.bench.walled", *arguments], cwd=ROOT)
    out = Path(arguments[3])
    return Side(Spent(*json.loads(out.with_name(out.name + ".json").read_text("utf-8"))), 1)


def _there(runtime: Runtime) -> bool:
    try:
        return launch.choices(runtime) == (runtime,)
    except EnvironmentProblem:
        return False
