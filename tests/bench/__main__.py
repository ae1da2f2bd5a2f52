"""Every measure has two sides in one run, or says that it has one. Times are CPU and wall seconds of whole processes.

- hashing: a file into sealed memory, with its digest, against `openssl dgst -sha256` of the same file in the cache
- sealing: start of a worker that seals and probes itself, against start of the same interpreter with the same imports
- job: a whole run (pipes, transcript, seal, boot, signature) against the same samples on the bare engine
- verify: one bundle of a thousand samples
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from appliance import job as jobs
from appliance import resources, run
from appliance.evals import dataset, prompts
from appliance.memfd import load_sealed
from appliance.notary import lab as labs
from attest import verify
from attest.cli import read_bundle

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "build" / "engine" / "reference"
HASH_BYTES = 1 << 30


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of `work`, its child processes included."""
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    start = time.perf_counter()
    work()
    wall = time.perf_counter() - start
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True))
    return {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3)}


def best(work: Callable[[], object], times: int = 3) -> dict[str, float]:
    """The least wall time of a few."""
    return min((timed(work) for _ in range(times)), key=lambda item: item["wall_s"])


def hashing(folder: Path) -> dict[str, object]:
    """A file of 1 GiB, one core each side."""
    path = folder / "large"
    with path.open("wb") as file:
        for _ in range(HASH_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    path.read_bytes()
    ours = best(lambda: load_sealed(path, name="large").close())
    theirs = best(lambda: subprocess.run(["openssl", "dgst", "-sha256", str(path)], check=True, capture_output=True))
    path.unlink()
    return {"measure": "hash 1 GiB into sealed memory", "ours": ours, "openssl dgst": theirs}


def sealing(_folder: Path) -> dict[str, object]:
    """Start to hello, against start to the end of the imports."""
    from appliance.relay import Station
    from appliance.seal.launch import spawn
    from appliance.seal.plan import plan_for
    from appliance.workers import MODULES, Kind

    plan = plan_for("eval", memory_bytes=1 << 30, threads=1)

    def ours() -> None:
        worker = spawn(MODULES["eval"], fds={}, plan=plan, log=lambda _line: None)
        Station("eval", worker).expect(Kind.HELLO, 60)
        worker.kill()

    bare = [sys.executable, "-P", "-s", "-B", "-c", f"import {MODULES['eval']}"]
    return {
        "measure": "start of a sealed worker",
        "ours": best(ours, 5),
        "same imports, not sealed": best(lambda: subprocess.run(bare, check=True, cwd=ROOT), 5),
    }


def job(folder: Path) -> dict[str, object]:
    """The organism's part of the demo, whole, against its samples on the bare engine in this process."""
    text = (resources.demo() / "job.yaml").read_text()
    lines = [line for line in text.splitlines() if "clean" not in line]
    path = folder / "job.yaml"
    path.write_text(
        "\n".join(lines).replace("path: ", "path: resource:demo/").replace("resource:demo/resource:", "") + "\n"
    )
    lab = labs.create(folder / "lab", now=lambda: datetime.now(UTC))
    request = run.Request(job=path, lab=lab, engine=ENGINE, out=folder / "bundle")
    ours = timed(lambda: run.run(request, lambda *_: None))
    bare = [sys.executable, "-m", "tests.bench.bare", str(path), str(ENGINE)]
    theirs = timed(lambda: subprocess.run(bare, check=True, cwd=ROOT))
    return {"measure": "whole job, 480 samples of the organism", "ours": ours, "bare engine": theirs}


def verification(folder: Path) -> dict[str, object]:
    """The bundle that `job` left."""
    files = read_bundle(folder / "bundle")
    trust = (folder / "lab" / "public" / "trusted_root.json").read_bytes()
    return {"measure": "verify a bundle of 480 samples", "ours": best(lambda: verify.verify(files, trust))}


def main() -> None:
    """Run all measures."""
    out = ROOT / "build" / "bench.jsonl"
    out.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, out.open("w") as file:
        for measure in (hashing, sealing, job, verification):
            row = measure(Path(name))
            sides = [(key, value) for key, value in row.items() if isinstance(value, dict)]
            if len(sides) == 2:
                row["ratio_wall"] = round(sides[0][1]["wall_s"] / sides[1][1]["wall_s"], 3)
                row["ratio_cpu"] = round(sides[0][1]["cpu_s"] / sides[1][1]["cpu_s"], 3)
            file.write(json.dumps(row) + "\n")
            text = "  ".join(f"{key} {value['wall_s']:.3f} s wall, {value['cpu_s']:.3f} s CPU" for key, value in sides)
            print(f"{row['measure']}: {text}  ratio {row.get('ratio_wall', 'one side')}")


def tasks(path: Path) -> list[prompts.Task]:
    """Every task of a job, as the eval worker makes them."""
    loaded = jobs.load(path)
    suites = jobs.load_suites(loaded)
    return [
        task
        for item in suites
        for task in prompts.tasks(item.suite, dataset.read(item.dataset.read_bytes(), item.suite.dataset), None)
    ]


if __name__ == "__main__":
    main()
