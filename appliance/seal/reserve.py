"""Workers' processes that are started ahead: they import their code while the controller does something else.

What they wait for is all that makes a worker of them, plan and files; so whoever takes one gets a worker as if it had
been spawned, without the time that Python takes to start.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from appliance.seal.launch import Log, Standby, Worker, spawn, standby
from appliance.seal.plan import Kind, SealPlan


class Reserve:
    """Standing by; a context manager that kills those that were not taken."""

    def __init__(self) -> None:
        self._waiting: list[Standby] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._waiting:
            self._waiting.pop().kill()

    def add(self, module: str, kind: Kind, log: Log) -> None:
        """Start a process of `module` for a worker of `kind`; `log` takes what it prints until it is taken."""
        self._waiting.append(standby(module, kind, log))

    def take(self, module: str, plan: SealPlan, fds: Mapping[str, int], log: Log) -> Worker:
        """A worker as `spawn` starts it: one that stands by for such a plan, or a new one."""
        for index, one in enumerate(self._waiting):
            if one.fits(module, plan):
                return self._waiting.pop(index).begin(plan, fds, log)
        return spawn(module, fds=fds, plan=plan, log=log)
