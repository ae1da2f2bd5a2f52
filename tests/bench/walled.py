"""A whole job behind one wall: `python -m tests.bench.walled JOB ENGINE LAB OUT process|runc|bubblewrap IMAGES`.

The same code on both sides but for the wall. CPU time is that of this process and all below it, looked at while they
run, because a worker that is killed with its namespace is waited for by nobody here; OUT.json has it. The image
is that of build/image/cpu, or a root made of this host's own Python where none was built; IMAGES holds it, unpacked.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from appliance import run
from appliance.enclave import rootfs, wall
from appliance.enclave.container import Mount, Runtime
from appliance.memfd import no_progress
from appliance.notary import lab as labs
from tests.tools import host_root

ROOT = Path(__file__).resolve().parents[2]
EVERY_S = 0.05


def tree_cpu_s() -> float:
    """CPU seconds of this process and all below it, with the children that each of them has waited for."""
    below: dict[int, list[tuple[int, int]]] = defaultdict(list)
    own = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks = sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime of proc(5)
            below[int(fields[1])].append((int(entry.name), ticks))
            own = ticks if int(entry.name) == os.getpid() else own
    total, parents = own, [os.getpid()]
    while parents:
        for child, ticks in below.pop(parents.pop(), ()):
            total += ticks
            parents.append(child)
    return total / os.sysconf("SC_CLK_TCK")


class Clock:
    """The most that `tree_cpu_s` ever was, from a thread: what ends unseen takes its time with it."""

    def __init__(self) -> None:
        self.most_s = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """The CPU seconds."""
        self._done.set()
        self._thread.join()
        return self.most_s

    def _look(self) -> None:
        while not self._done.wait(EVERY_S):
            self.most_s = max(self.most_s, tree_cpu_s())


def image(folder: Path) -> tuple[rootfs.Image, tuple[Mount, ...], str]:
    """The image to measure with, what is mounted besides, and what to call it; unpacked in `folder`."""
    built = ROOT / rootfs.DEFAULT
    if (built / "index.json").exists():
        return rootfs.open_image(built, folder / "images"), (), "build/image/cpu"
    return *host_root.make(folder / "root"), "the host's own Python"


def main() -> None:
    """Run the job once."""
    job, engine, lab, out, _, images = map(Path, sys.argv[1:])
    name = sys.argv[5]

    def now() -> datetime:
        return datetime.now(UTC)

    notary = labs.open_lab(lab, now=now) if lab.is_dir() else labs.create(lab, now=now)
    began, clock = time.perf_counter(), Clock()
    if name == "process":
        run.run(run.Request(job=job, lab=notary, engine=engine, out=out), no_progress)
    else:
        found, more, _ = image(images)
        runtime = cast("Runtime", name)
        request = wall.Request(job=job, lab=notary, out=out, image=found, engine=engine, runtime=runtime, more=more)
        wall.run(request, no_progress)
    out.with_name(out.name + ".json").write_text(json.dumps([time.perf_counter() - began, clock.stop()]), "utf-8")


if __name__ == "__main__":
    main()
