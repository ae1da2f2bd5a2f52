"""A whole job behind one wall: `python -m tests.bench.walled JOB ENGINE LAB OUT process|runc|bubblewrap IMAGES`.

The same code on both sides but for the wall. OUT.json has wall seconds and CPU seconds of this process and all below it
(`tests.bench.tree`). The image is that of build/image/cpu, or a root made of this host's own Python where none was
built; IMAGES holds it, unpacked.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from appliance import run
from appliance.enclave import rootfs, wall
from appliance.enclave.container import Mount, Runtime
from appliance.memfd import no_progress
from appliance.notary import lab as labs
from tests.bench.tree import TreeClock
from tests.tools import host_root

ROOT = Path(__file__).resolve().parents[2]


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
    began, clock = time.perf_counter(), TreeClock()
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
