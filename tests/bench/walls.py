"""The container wall against the process wall: what a job costs behind it, and how long a container takes to start.

One job is run behind both walls in turns, by the same program. The start is the time from the call to the hello of the
Python inside; no file of a job is read by then.
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
from attest.errors import EnvironmentProblem
from tests.bench import mmlu
from tests.bench.clock import Spent, run
from tests.bench.record import Bar, Measure, Side, value_row
from tests.bench.walled import image

ROOT = Path(__file__).resolve().parents[2]
COST = Bar("cost", 1.01)
START_S = 1.0
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
    found, more, called = image(folder / "image")
    facts = {**facts, "image": called}
    runtimes = [runtime for runtime in RUNTIMES if _there(runtime)]
    for runtime in runtimes:
        say(f"start of a container by {runtime}, {STARTS} times")
        spent = [start(runtime, found, more, folder / f"{runtime}-{number}") for number in range(STARTS)]
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
            say(f"job of {limit or ROWS} rows: {runtime}, then process, round {number + 1} of {rounds}")
            ours, theirs = (work / f"{side}-{number}" / "bundle" for side in (runtime, "process"))
            places = [job, engine, work / "lab"]
            compared.add(
                _job([*places, ours, runtime, folder / "image"]), _job([*places, theirs, "process", folder / "image"])
            )
            if any((ours / name).read_bytes() != (theirs / name).read_bytes() for name in SAME):
                raise RuntimeError("expected the same results and transcript behind both walls, found others")
        yield compared.row()


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
