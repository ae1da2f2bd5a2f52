"""The measured virtual machine, emulated: from the start of a run behind the wall `vm` to its first sample.

The job is the default one. Emulated also where there is KVM, because that is what a host without it waits for. The
run is stopped as its first sample is in. Wall time is what an operator waits; CPU time, of QEMU alone, is what other
processes change little. Beside the total the row has both for each phase, and the CPU seconds of the one thread that
had most of them: on a quiet machine that is about how long a phase takes.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from appliance import resources
from appliance.enclave import measured, vm
from appliance.notary import lab as labs
from attest.errors import EnvironmentProblem
from tests.bench.record import value_row

IMAGE = Path("build/vm")
LIMIT_S = 30.0
ENDS = {
    ("seal", 0): "firmware, kernel, Python, boot of the run",
    ("samples", 0): "seals, models loaded",
    ("samples", 1): "first sample",
}
"""The phases, by the step of the run's progress that ends each."""


class Enough(Exception):  # noqa: N818 - an event, not an error
    """The first sample is in."""


class Watch:
    """The progress callback: reads the clocks at the end of each phase."""

    def __init__(self) -> None:
        self.began = self._last_s = time.perf_counter()
        self.qemu = 0
        self._cpu: dict[str, float] = {}
        self.phases: dict[str, dict[str, float]] = {}

    def __call__(self, phase: str, done: int, _total: int) -> None:
        """Note the end of a phase; ends the run after the last one."""
        name = ENDS.get((phase, done))
        if name is None or name in self.phases:
            return
        self.note(name)
        if name == "first sample":
            raise Enough

    def note(self, name: str) -> None:
        """The phase `name` ends now."""
        now_s, cpu = time.perf_counter(), _threads(self.qemu) if self.qemu else {}
        spent = [seconds - self._cpu.get(thread, 0.0) for thread, seconds in cpu.items()]
        self.phases[name] = {
            "wall_s": round(now_s - self._last_s, 2),
            "cpu_s": round(sum(spent), 2),
            "one_thread_s": round(max(spent, default=0.0), 2),
        }
        self._last_s, self._cpu = now_s, cpu


def rows(folder: Path, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The one row of the record. Raises `EnvironmentProblem` without the image, QEMU, firmware or software TPM."""
    if not (IMAGE / "reference.json").is_file():
        raise EnvironmentProblem(f"no image in {IMAGE}: build it with `make vm`")
    lab = labs.create(folder / "vm-lab", now=lambda: datetime.now(UTC))
    job = resources.demo() / "job.yaml"
    request = measured.Request(job=job, lab=lab, out=folder / "vm" / "bundle", image=IMAGE)
    watch, start = Watch(), vm.Machine.__init__

    def started(machine: vm.Machine, program: vm.Program, *more: Any) -> None:
        watch.note("disk of inputs, software TPM")
        watch.qemu = program.process.pid
        start(machine, program, *more)

    with (
        mock.patch.object(vm, "_kvm_works", lambda: False),
        mock.patch.object(vm.Machine, "__init__", started),
        contextlib.suppress(Enough),
    ):
        measured.run(request, watch)
    for name, spent in watch.phases.items():
        say(f"{name}: " + ", ".join(f"{value:g} {unit}" for unit, value in spent.items()))
    total_s = sum(phase["wall_s"] for phase in watch.phases.values())
    yield value_row("start to first sample behind the wall vm, emulated", total_s, "s", LIMIT_S, phases=watch.phases)


def _threads(pid: int) -> dict[str, float]:
    """CPU seconds of each thread of a process."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        found[task.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found
