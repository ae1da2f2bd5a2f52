"""Measurements: `python -m tests.bench`. One JSON object a measure to build/bench.jsonl, a table to the terminal.

Every comparison has both sides in one run, next to each other in time, with the same model file, number of tokens and
threads. Parts, in this order: `boot` (hashing), `throughput` (decode and prefill), `sweep` (for the plots), `scoring`
(four-choice scoring, the whole sealed job, memory), `walls` (the container wall), `verify` (what an auditor waits for),
`vm` (the measured machine, emulated; by `--only vm` alone, with the image in build/vm). Parts of a run, and quick ones,
go to build/bench-partial.jsonl: build/bench.jsonl holds whole runs alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from appliance.engine.recipe import load_record
from attest.errors import VitrineError
from tests.bench import (
    boot,
    clock,
    machine,
    mmlu,
    record,
    report,
    scoring,
    stock_python,
    stock_tools,
    throughput,
    verifying,
    walls,
)
from tests.bench.clock import say
from tests.bench.lane import Lane

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"Q4_K_M": "rand765m-q4_k_m.gguf", "Q8_0": "rand765m-q8_0.gguf"}
PARTS = ("boot", "throughput", "sweep", "scoring", "walls", "verify", "vm")
STOCK = {"throughput", "sweep", "scoring"}
"""The parts that are measured against the stock side, which is built for them."""
Rows = Iterator[dict[str, Any]]


class Step(NamedTuple):
    """One thing to measure."""

    part: str
    name: str
    estimate_s: float
    """On two quiet cores; the time left is scaled by how the steps before went."""
    rows: Callable[[Callable[[str], None]], Rows]
    """Measures, saying what it does."""


def steps(arguments: argparse.Namespace, folder: Path) -> list[Step]:
    """All steps that were asked for."""
    quick, threads = arguments.quick, arguments.threads
    full = throughput.Plan(threads, rounds=5, depths=(0,))
    deep = throughput.Plan(threads, rounds=1, depths=(512, 2048))
    alone = throughput.Plan(1, rounds=1, depths=(0,))
    wide = throughput.Plan(threads, rounds=1, depths=(0,))
    if quick:
        full, deep = (throughput.Plan(threads, 1, depths, 0.1) for depths in ((0,), (64,)))
        alone = throughput.Plan(1, 1, (0,), 0.1)
        wide = throughput.Plan(threads, 1, (0,), 0.05)
    found = [Step("boot", "boot hashing", 40, lambda _say: iter(boot.rows(quick=quick)))]
    types = [name for name in MODELS if arguments.model in (None, name)]
    for type_name in types:
        model = arguments.models / MODELS[type_name]
        for name, plan, estimate in (("", full, 175), (" with context", deep, 195), (" on 1 thread", alone, 62)):
            rows = partial(_throughput, throughput.compare, arguments.engine, model, plan, {"model": type_name})
            found.append(Step("throughput", f"throughput of {type_name}{name}", estimate, rows))
    for type_name in types:
        model = arguments.models / MODELS[type_name]
        rows = partial(_throughput, throughput.sweep, arguments.engine, model, wide, {"model": type_name})
        found.append(Step("sweep", f"sweep of {type_name}", 130, rows))
    score = partial(
        scoring.measure, arguments.models / MODELS[types[0]], arguments.engine, folder,
        threads=threads, rounds=1, limit=2 if quick else None, facts={"model": types[0]},
    )  # fmt: skip
    found.append(Step("scoring", f"four-choice scoring with {types[0]}", 980, lambda say: score(say=say)))
    wall = partial(
        walls.measure, arguments.models / MODELS[types[0]], arguments.engine, folder,
        threads=threads, rounds=1 if quick else 2, limit=2 if quick else None, facts={"model": types[0]},
    )  # fmt: skip
    found.append(Step("walls", f"the container wall with {types[0]}", 500, lambda say: wall(say=say)))
    check = partial(verifying.measure, arguments.engine, folder, quick=quick)
    found.append(Step("verify", "what an auditor waits for", 130, lambda say: check(say=say)))
    if arguments.only:
        found.append(Step("vm", "the measured machine", 60, lambda say: machine.rows(folder, say)))
    return [step for step in found if not arguments.only or step.part in arguments.only]


def environment(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was measured, and on what."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    engine = load_record(arguments.engine)
    return {
        "measure": "environment",
        "command": "python -m tests.bench " + " ".join(sys.argv[1:]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "engine": {"profile": engine.profile, "library": engine.libraries[0].digest, "kernels": engine.system_info},
        "stock": "llama.cpp 0c1e57098, AVX2, FMA, F16C, BMI2; llamafile and repack on, OpenMP off",
        "models": "765 million random weights, llama architecture",
    }


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description="measure, both sides of a ratio in one run")
    parser.add_argument("--quick", action="store_true", help="a few tokens of each: shows that it works, not how fast")
    parser.add_argument("--only", action="append", choices=PARTS, help="these parts alone")
    parser.add_argument("--model", choices=MODELS, help="this model alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engine", type=Path, default=ROOT / "build" / "engine" / "x86-64-v3")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models", help="the folder of the models")
    arguments = parser.parse_args()
    arguments.engine, arguments.models = arguments.engine.resolve(), arguments.models.resolve()
    whole = not (arguments.quick or arguments.only or arguments.model)
    out = ROOT / "build" / ("bench.jsonl" if whole else "bench-partial.jsonl")
    try:
        rows = _run(arguments, out)
    except VitrineError as error:
        say(str(error))
        sys.exit(int(error.exit_code))
    print(report.table(rows))
    print(f"\nwritten to {out.relative_to(ROOT)}")
    if whole:
        report.write(rows)


def _run(arguments: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    about = environment(arguments)
    if not all((arguments.models / name).is_file() for name in MODELS.values()):
        say(f"making the models in {arguments.models}")
        make = ["-m", "tests.tools.random_models", arguments.models, "--big", "--engine", arguments.engine]
        clock.run([sys.executable, *make], cwd=ROOT)
    if not arguments.only or {"scoring", "walls"} & set(arguments.only):
        mmlu.data()
    if set(arguments.only or PARTS) & STOCK:
        stock_tools.ensure()
        stock_python.ensure()
    rows = [about]
    with tempfile.TemporaryDirectory(prefix="vitrine-bench-") as name:
        todo, done = steps(arguments, Path(name)), 0.0
        began = time.monotonic()
        for number, step in enumerate(todo):
            rate = (time.monotonic() - began) / done if done else 1.0
            left = rate * sum(item.estimate_s for item in todo[number:]) / 60
            say(f"[{number + 1}/{len(todo)}] {step.name}" + ("" if arguments.quick else f"; about {left:.0f} min left"))
            machine, first = record.Machine(), len(rows)
            for row in step.rows(lambda text: say(f"    {text}")):
                rows.append(row)
                say("  " + report.line(row))
            # With two threads on two cores, whatever else runs makes one thread wait for the other.
            for row in rows[first:]:
                row["other_processes"] = machine.share()
            record.write(rows, out)
            done += step.estimate_s
    rows[0]["wall_s"] = round(time.monotonic() - began)
    record.write(rows, out)
    return rows


def _throughput(
    kind: Callable[..., Rows], engine: Path, model: Path, plan: throughput.Plan, facts: dict[str, Any],
    say: Callable[[str], None],
) -> Rows:  # fmt: skip
    with Lane(engine, model) as lane:
        yield from kind(throughput.Duel(lane, model), plan, facts, say)


if __name__ == "__main__":
    main()
