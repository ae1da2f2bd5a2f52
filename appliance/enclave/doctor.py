"""What this host offers: which walls can be used, how far the seal goes, what is missing, and how to get it.

`examine` looks and tries, needs no root, and changes nothing that lasts: a worker that seals itself, containers of one
program, a guest of two instructions, all at the same time and gone afterwards. It returns data; `render` makes
the text of it, and nothing is decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal

from appliance.enclave import built, capacity, devices, layers, runtimes
from appliance.enclave.finding import Finding
from appliance.seal.outcome import SealLevel
from attest.canonical import Model

FORMAT: Final = "vitrine/doctor/v1"
VM_PARTS = ("qemu", "ovmf", "swtpm")
"""The findings without which no VM is started."""
FATAL = ("kernel", "memory-files", "seal")
"""The findings without which no worker is started, behind any wall."""
RUNTIMES = {"bwrap": "bubblewrap"}
"""What `--runtime` calls a program, where that is not its name."""
MARKS = {"ok": "ok      ", "missing": "missing ", "unusable": "unusable"}


class Wall(Model):
    """Whether a wall can be used on this host."""

    name: Literal["process", "container", "vm"]
    """The wall, as `appliance run --wall` takes it and the manifest records it."""
    usable: bool
    """Whether a job can be run behind it."""
    level: SealLevel | None = None
    """How far the seal of the workers goes behind it; None where only a run can tell."""
    why: str
    """With what it is put up, or what it lacks."""


class Report(Model):
    """What the doctor found."""

    format: Literal["vitrine/doctor/v1"] = FORMAT
    """Format and version."""
    walls: tuple[Wall, ...]
    """The three walls."""
    findings: tuple[Finding, ...]
    """Everything that was looked for, in a fixed order; `id` is unique."""

    @property
    def usable(self) -> bool:
        """Whether a job can be run at all: behind the process wall, the only one that every host may offer."""
        return any(wall.name == "process" and wall.usable for wall in self.walls)

    def finding(self, identifier: str) -> Finding | None:
        """The finding of that id, if there is one."""
        return next((finding for finding in self.findings if finding.id == identifier), None)


def examine(folder: Path | None = None) -> Report:
    """Examine this host; `folder` is where bundles are going to be written, the working directory by default."""
    cpuinfo, meminfo = _read(Path("/proc/cpuinfo")), _read(Path("/proc/meminfo"))
    with ThreadPoolExecutor(max_workers=12, thread_name_prefix="doctor") as pool:
        # A sealed worker dies with the thread that started it, which here is the pool's, and waits for its end.
        sealed = pool.submit(layers.examine)
        tried: list[Future[Finding]] = [pool.submit(runtimes.look, program) for program in runtimes.programs()]
        tried += [pool.submit(look) for look in (runtimes.firmware, devices.virtual_machines, devices.tpm)]
        quick: Sequence[Callable[[], Finding]] = (
            capacity.processors,
            lambda: capacity.memory(meminfo),
            lambda: capacity.disk(folder or Path.cwd()),
            capacity.clock,
            capacity.swap,
            capacity.lockable,
            devices.confidential_guest,
            devices.attester,
            lambda: devices.confidential_host(cpuinfo),
            built.engine,
            built.image,
            built.machine,
        )
        host = [*capacity.processor(cpuinfo), *(look() for look in quick)]
        seal = sealed.result()
        findings = (*seal.findings, *(future.result() for future in tried), *host)
    return Report(walls=judge(findings, seal.level), findings=findings)


def judge(findings: Iterable[Finding], level: SealLevel | None) -> tuple[Wall, ...]:
    """Which walls can be used: a pure function of what was found."""
    good = {finding.id for finding in findings if finding.state == "ok"}
    bad = {finding.id for finding in findings if finding.state != "ok"}
    fatal = [identifier for identifier in FATAL if identifier in bad]
    sealed = level is not None and not fatal
    process = Wall(
        name="process",
        usable=sealed,
        level=level if sealed else None,
        why="every worker seals itself" if sealed else f"lacks {', '.join(fatal) or 'the seal'}",
    )
    found = [RUNTIMES.get(name, name) for name in runtimes.CONTAINER_RUNTIMES if name in good]
    unbuilt = {name: "; its image is still to be built" if name in bad else "" for name in ("image", "machine")}
    container = Wall(
        name="container",
        usable=bool(found) and sealed,
        why=f"by {' or '.join(found)}{unbuilt['image']}"
        if found and sealed
        else f"lacks {'the seal' if found else 'a runtime that works'}",
    )
    lacking = [name for name in VM_PARTS if name not in good]
    speed = "with KVM" if "kvm" in good else "by emulation, 75 to 170 times slower"
    machine = Wall(
        name="vm", usable=not lacking, why=f"lacks {', '.join(lacking)}" if lacking else speed + unbuilt["machine"]
    )
    return process, container, machine


def render(report: Report) -> str:
    """The report for people: the walls first, then what is there, then what to do about what is not."""
    lines = []
    for wall in report.walls:
        level = f", seal {wall.level}" if wall.level else ""
        lines.append(f"wall {wall.name:<10} {'can be used' if wall.usable else 'cannot be used'}{level}: {wall.why}")
    lines.append("")
    lines += [f"{MARKS[finding.state]}  {finding.name}: {finding.found}" for finding in report.findings]
    wanting = [finding for finding in report.findings if finding.state != "ok"]
    if wanting:
        lines += ["", "what to do, if you need it:"]
        lines += [f"  {finding.id} (for {', '.join(finding.needed_for)}): {finding.advice}" for finding in wanting]
    return "\n".join(lines)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
