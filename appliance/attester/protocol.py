"""What a run asks of the hardware that speaks for it: evidence once at the start, and once at the end."""

from __future__ import annotations

from typing import Protocol

from attest.eventlog import EventLog
from attest.machine import TpmEvidence


class Attester(Protocol):
    """The hardware of this machine, for one run."""

    def start(self, log: EventLog, job: str, extra: bytes) -> tuple[TpmEvidence, ...]:
        """Tell the hardware the boot's event log and the digest of the job; evidence that bears `extra`."""
        ...

    def end(self, results: str, extra: bytes) -> tuple[TpmEvidence, ...]:
        """Tell it the digest of the results; evidence that bears `extra`. Raises `EnvironmentProblem`, as `start`."""
        ...
