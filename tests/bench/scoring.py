"""Four-choice scoring, and a whole sealed job, against the same work done otherwise.

One job is run in sealed workers and on the bare engine, in turns. What its samples cost in the sealed workers is also
compared with the ways in which stock software scores the same prompts; those are slow, and get fewer rows. All sides
have the same model file, token ids and number of threads, and each side's clock starts when its model is loaded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench import mmlu, server, stock_python
from tests.bench.clock import Spent, run
from tests.bench.record import Bar, Measure, Side, value_row

ROOT = Path(__file__).resolve().parents[2]
SEQUENCES = 8
NAIVE, AGAIN, JOB = Bar("speed", 8.0), Bar("speed", 3.0), Bar("cost", 1.03)
MEMORY_MB = 250.0
SIDES = {
    "naive loop over llama-cpp-python": ("naive", 5, NAIVE),
    "llama-server, prompt cache on, one request a choice": ("server", 40, AGAIN),
    "lm-eval, llama-cpp-python in process, echoed completion": ("lm-eval-echo", 1, AGAIN),
    "lm-eval, llama-cpp-python in process, prefix kept, rows of logits read": ("lm-eval-prefix", 40, AGAIN),
}
"""Other sides: how each is run, on how many rows, and its bar."""


def measure(
    model: Path, engine: Path, folder: Path, *, threads: int, rounds: int, limit: int | None,
    facts: dict[str, Any], say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rows of the record. `limit` scores fewer rows on every side."""
    profile = json.loads((engine / "record.json").read_text("utf-8"))["profile"]
    job = mmlu.write(folder, model, profile=profile, threads=threads, sequences=SEQUENCES, limit=limit)
    rows = len(mmlu.tasks(job))
    facts = {**facts, "threads": threads, "rows": rows, "sequences": SEQUENCES, "subject": mmlu.SUBJECT}
    lock = folder / "job.lock"
    command: list[str | Path] = [sys.executable, "-m", "appliance", "lock", job, "--engine", engine, "--out", lock]
    run(command, cwd=ROOT)
    whole = Measure("whole job in sealed workers", "the same work on the bare engine", "job", JOB, facts=facts)
    apart = Measure("whole job, self-test apart", "the same work on the bare engine", "job", JOB, facts=facts)
    samples = Measure(
        "samples of that job, after start and self-test", "the same work on the bare engine", "row", JOB, facts=facts
    )
    ours: list[Side] = []
    prompts = folder / "prompts.json"
    for number in range(rounds):
        say(f"four-choice job of {rows} rows: sealed, then bare, round {number + 1} of {rounds}")
        report = folder / f"sealed-{number}.json"
        places = [job, lock, engine, folder / "lab", folder / f"bundle-{number}", report]
        started = run([sys.executable, "-m", "tests.bench.sealed", *places], cwd=ROOT)
        told = json.loads(report.read_text("utf-8"))
        sealed = Spent(started.wall_s, told["whole"][1])
        bare_report = folder / f"bare-{number}.json"
        bare = run([sys.executable, "-m", "tests.bench.bare", job, engine, bare_report, prompts], cwd=ROOT)
        bare_told = json.loads(bare_report.read_text("utf-8"))
        whole.add(Side(sealed, 1), Side(bare, 1))
        samples.add(Side(Spent(*told["samples"]), rows), Side(Spent(*bare_told["spent"]), rows))
        ours.append(Side(Spent(*told["samples"]), rows))
        apart.add(Side(sealed + Spent(*told["self_test"]).part(-1), 1), Side(bare, 1))
        costs = {name: round(told[name], 2) for name in ("start_cpu_s", "finish_cpu_s")}
        whole.facts = {**facts, **costs, "self_test_cpu_s": round(told["self_test"][1], 2)}
    yield whole.row()
    yield apart.row()
    yield samples.row()
    yield value_row(
        "memory of the model worker besides model and KV cache", told["besides_bytes"] / 1e6, "MB", MEMORY_MB,
        kv_cache_mb=round(told["kv_bytes"] / 1e6), **facts,
    )  # fmt: skip
    for against, (side, usual, bar) in SIDES.items():
        count = min(usual, rows)
        say(f"four-choice scoring of {count} rows: {against}")
        if side == "server":
            reply = server.score(model, prompts, rows=count, threads=threads)
        else:
            reply = stock_python.score(side, model, prompts, rows=count, threads=threads)
        same = sum(a == b for a, b in zip(reply["picks"], bare_told["picks"], strict=False))
        differs = max(
            abs(a - b)
            for theirs, mine in zip(reply["logprobs"], bare_told["logprobs"], strict=False)
            for a, b in zip(theirs, mine, strict=True)
        )
        checks = {"same_picks": f"{same} of {count}", "largest_difference_of_logprobs": round(differs, 3)}
        compared = Measure(
            "four-choice scoring, 5 shots", against, "row", bar, facts={**facts, "rows_of_theirs": count, **checks}
        )
        for mine in ours:
            compared.add(mine, Side(Spent(*reply["spent"]), count))
        yield compared.row()
