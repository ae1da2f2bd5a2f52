"""Starts the hostile worker of the seal tests (`tests.tools.hostile_worker`) in a real seal, and takes its report."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from appliance.seal import (
    Worker,
    plan_for,
    spawn,
)
from appliance.seal.plan import Kind, SealPlan

MODULE = "tests.tools.hostile_worker"
MIB = 1 << 20


def read_all(worker: Worker) -> bytes:
    """What it reports, until it ends."""
    data = b""
    while piece := os.read(worker.replies, 1 << 16):
        data += piece
    return data


def run(
    action: str,
    *args: str,
    plan: SealPlan | None = None,
    fds: dict[str, int] | None = None,
    deadline_s: float = 60,
) -> tuple[int, Any, list[bytes]]:
    """Exit status, report (None when there is none) and log lines of a worker that performs `action`."""
    lines: list[bytes] = []
    plan = plan or plan_for("eval", memory_bytes=256 * MIB, threads=4)
    worker = spawn(MODULE, [action, *args], fds=fds or {}, plan=plan, log=lines.append)
    watch = threading.Timer(deadline_s, worker.process.kill)
    watch.start()
    try:
        report = read_all(worker)
        status = worker.stop()
    finally:
        watch.cancel()
    return status, json.loads(report) if report else None, lines


def sealed(action: str, *args: str, kind: Kind = "eval", memory_bytes: int = 256 * MIB, **more: Any) -> Any:
    """The report of a worker that sealed itself, performed `action` and was still able to report and end well."""
    status, report, lines = run(action, *args, plan=plan_for(kind, memory_bytes=memory_bytes, threads=4), **more)
    assert status == 0, (status, lines)
    assert report is not None
    return report
