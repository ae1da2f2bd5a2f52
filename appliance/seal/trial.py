"""A worker that seals itself, probes, reports and ends, so that a host can be tried without a job.

Run as a module it is that worker; `attempt` is the controller's side.
"""

from __future__ import annotations

import os
import sys

from appliance.seal.enter import enter
from appliance.seal.launch import Log, received, spawn
from appliance.seal.outcome import SealOutcome
from appliance.seal.probe import ProbeResult, probe
from attest import canonical
from attest.canonical import Model
from attest.errors import EnvironmentProblem
from attest.sealplan import SealPlan

REPORT_BYTES = 1 << 20


class Trial(Model):
    """What a seal comes to on this host."""

    outcome: SealOutcome
    """What became of each layer."""
    probes: tuple[ProbeResult, ...]
    """What was tried from inside, and how it ended."""


def attempt(plan: SealPlan, log: Log, deadline_s: float = 30.0) -> Trial:
    """Seal a process by `plan` and report. Raises `EnvironmentProblem` when the seal fails, with its last words."""
    lines: list[bytes] = []

    def keep(line: bytes) -> None:
        lines.append(line)
        log(line)

    worker = spawn("appliance.seal.trial", fds={}, plan=plan, log=keep)
    report = bytearray()
    while len(report) < REPORT_BYTES and (data := os.read(worker.replies, 1 << 16)):
        report += data
    status = worker.stop(deadline_s)
    if status != 0 or not report:
        words = lines[-1].decode("utf-8", "replace") if lines else "nothing"
        raise EnvironmentProblem(f"seal: expected the trial to end with 0, found {status}; it said: {words}")
    return canonical.parse(Trial, bytes(report), "seal trial")


def main() -> None:
    """Seal this process, probe, and write the report to descriptor 1."""
    plan, _, _ = received(sys.argv[1:])
    outcome = enter(plan)
    report = canonical.dump_model(Trial(outcome=outcome, probes=tuple(probe())))
    while report:
        report = report[os.write(1, report) :]


if __name__ == "__main__":
    main()
