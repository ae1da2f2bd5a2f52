"""A whole job in sealed workers, watched: `python -m tests.bench.sealed JOB LOCK ENGINE LAB OUT REPORT`.

It is `appliance run` with a progress callback that reads clocks: CPU time of controller and workers when the samples
begin and end, and the model worker's memory while they run. The CPU time of the whole job is in the report too: nobody
waits for a worker that is killed with its keeper, so that the time of this program's children is less.
"""

from __future__ import annotations

import json
import mmap
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from appliance import gguf, run
from appliance import job as jobs
from appliance.notary import lab as labs
from tests.bench.tree import TreeClock

MARKS = {("samples", 0): "begin", ("samples", 1): "first", ("self-test", 1): "tested"}
EVERY = 20
"""Samples between two looks at the memory."""


class Watcher:
    """The progress callback."""

    def __init__(self, clock: TreeClock) -> None:
        self._clock = clock
        self.marks: dict[str, tuple[float, float]] = {}
        """Wall and CPU seconds when the samples began, when the first was done and the
        self-test after it, and when the last was done."""
        self.besides_bytes = 0
        """Most memory of the model worker, without the pages of the model."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Look at the clocks, and now and then at the memory."""
        name = MARKS.get((phase, done)) or ("end" if (phase, done) == ("samples", total) else None)
        if name:
            self.marks[name] = (time.perf_counter(), self._clock.read())
        if phase != "samples":
            return
        if done % EVERY == 0 or done == total:
            self.besides_bytes = max([self.besides_bytes, *(_besides_model(pid) for pid in _children())])


def kv_bytes(model: Path, sequences: int, context_tokens: int) -> int:
    """Size of an f16 KV cache: keys and values of every layer, for every slot."""
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = gguf.read_header(data)
    prefix = f"{header.architecture}."
    layers, heads, kv_heads, width = (
        int(header.metadata[prefix + key])
        for key in ("block_count", "attention.head_count", "attention.head_count_kv", "embedding_length")
    )
    cells = sequences * -(-context_tokens // 256) * 256
    return cells * layers * kv_heads * (width // heads) * 2 * 2


def main() -> None:
    """Run the job and write the report."""
    path, lock, engine, lab, out, report = (Path(argument) for argument in sys.argv[1:])
    folder = (
        labs.open_lab(lab, now=lambda: datetime.now(UTC))
        if lab.is_dir()
        else labs.create(lab, now=lambda: datetime.now(UTC))
    )
    began, clock = time.perf_counter(), TreeClock()
    watcher = Watcher(clock)
    outcome = run.run(run.Request(job=path, lab=folder, engine=engine, out=out, lock=lock), watcher)
    job = jobs.load(path).job
    begin, first, tested, end = (watcher.marks[name] for name in ("begin", "first", "tested", "end"))
    self_test = [tested[0] - first[0], tested[1] - first[1]]  # one model, which tests itself after its first sample
    kv = kv_bytes(Path(job.models[0].path), job.numerics.sequences, job.limits.context_tokens)
    whole = time.perf_counter() - began, clock.stop()
    report.write_text(
        json.dumps(
            {
                "whole": whole,
                "samples": [end[0] - begin[0] - self_test[0], end[1] - begin[1] - self_test[1]],
                "start_cpu_s": begin[1],
                "self_test": self_test,
                "finish_cpu_s": whole[1] - end[1],
                "besides_bytes": watcher.besides_bytes - kv,
                "kv_bytes": kv,
                "ended_by": outcome.ended_by,
            }
        ),
        "utf-8",
    )


def _children(of: str = "self") -> list[int]:
    """Ids of the running workers, and of the processes that keep them."""
    text = "".join(path.read_text() for path in Path(f"/proc/{of}/task").glob("*/children"))
    return [pid for child in text.split() for pid in (int(child), *_children(child))]


def _besides_model(pid: int) -> int:
    """Bytes of a model worker's share of memory without its mapping of the model; 0 for other processes."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    regions = re.findall(r"^[0-9a-f]+-[0-9a-f]+ .*?(?=^[0-9a-f]+-[0-9a-f]+ |\Z)", text, re.MULTILINE | re.DOTALL)
    sizes = [
        (region.partition("\n")[0], int(match[1]))
        for region in regions
        if (match := re.search(r"^Pss:\s+(\d+)", region, re.M))
    ]
    if not any("memfd:" in name and "model" in name for name, _ in sizes):
        return 0
    return 1024 * sum(size for name, size in sizes if not ("memfd:" in name and "model" in name))


if __name__ == "__main__":
    main()
