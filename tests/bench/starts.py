"""How long a worker takes from the request for it until it is sealed and says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.frames import Kind as Frames
from appliance.frames import Reader
from appliance.seal import Worker, spawn
from appliance.seal.launch import standby
from appliance.workers import MODULES, Hello
from attest import canonical
from attest.sealplan import Kind, SealPlan
from tests.bench.clock import Spent, cpu_of

IMPORT_S = 0.5
"""About what it takes a process to import its code."""


def cold(kind: Kind, plan: SealPlan, fds: Mapping[str, int]) -> Spent:
    """A worker whose process is started first. CPU time is the worker's alone, here and below."""
    return _ready(0, lambda: spawn(MODULES[kind], fds=fds, plan=plan, log=_ignore))


def warm(kind: Kind, plan: SealPlan, fds: Mapping[str, int]) -> Spent:
    """A worker whose process stands by, as a run has it."""
    one = standby(MODULES[kind], kind, _ignore)
    pid, last = one.process.pid, -1.0
    time.sleep(IMPORT_S)
    while (now := cpu_of(inside(pid))) != last:  # it waits once it uses no time any more
        last = now
        time.sleep(IMPORT_S / 5)
    return _ready(pid, lambda: one.begin(plan, fds, _ignore))


def inside(process: int) -> int:
    """The worker that a keeper keeps, or the process itself where there was no namespace to be had."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(children[0]) if children else process


def _ready(process: int, begin: Callable[[], Worker]) -> Spent:
    """From the request to the worker's word that it is sealed; it reads no model before that."""
    before = cpu_of(inside(process)) if process else 0.0
    began = time.perf_counter()
    worker = begin()
    frame = Reader(worker.replies).receive(60)
    took = Spent(time.perf_counter() - began, cpu_of(inside(worker.process.pid)) - before)
    worker.kill()
    if frame.kind != Frames.HELLO:
        raise RuntimeError(f"expected the worker to be sealed, found {frame.kind.name}: {frame.payload[:300]!r}")
    hello = canonical.parse(Hello, frame.payload, "hello")
    if allowed := [probe.name for probe in hello.probes if probe.outcome == "allowed"]:
        raise RuntimeError(f"expected every probe to be denied, found allowed: {allowed}")
    return took


def _ignore(_line: bytes) -> None:
    """What the worker prints."""
