"""What a run asks of the hardware that speaks for it: evidence once at the start, and once at the end."""

from __future__ import annotations

from typing import Protocol

from attest.canonical import JSON
from attest.eventlog import EventLog


class Attester(Protocol):
    """The hardware of this machine, for one run. Evidence is a JSON object of its platform's format."""

    @property
    def before(self) -> str | None:
        """What the TPM's application register held before the run; None without a TPM."""
        ...

    def admit(self, name: str, version: int) -> None:
        """Refuse the lock of the job `name`, and the image, where this machine ran a newer one; keep what is newer.

        Called before `start`, whose evidence says what is kept. Does nothing where no TPM keeps versions. Raises
        `VerificationError` (`rollback/version`).
        """
        ...

    def start(self, log: EventLog, job: str, extra: bytes) -> tuple[dict[str, JSON], ...]:
        """Tell the hardware the boot's event log and the digest of the job; evidence that bears `extra`."""
        ...

    def end(self, results: str, extra: bytes) -> tuple[dict[str, JSON], ...]:
        """Tell it the digest of the results; evidence that bears `extra`. Raises `EnvironmentProblem`, as `start`."""
        ...
