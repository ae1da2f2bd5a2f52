"""The model workers' self-tests, as their reports come in: one of each model, each once.

A model worker answers its first request alone, and tests itself then, before it takes another. So a run shows early
what it does, and a host or an engine that breaks the numerics contract ends it early. Nothing is signed before every
model has reported; the report says the same whenever it was made, because the test begins with empty slots.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from attest import determinism
from attest.determinism import SelfTest
from attest.errors import MalformedInput
from attest.job import Job

LOG = structlog.get_logger()
TIMEOUT_S = 600.0
"""How long one may take."""


class SelfTests:
    """The reports on the models of one job; a model's number is its place in the job."""

    def __init__(self, job: Job, on_report: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        self._contract, self._models = job.numerics.contract, [model.id for model in job.models]
        self._reports: dict[int, SelfTest] = {}
        self._on_report = on_report

    def missing(self, number: int) -> bool:
        """Whether this model has not reported yet."""
        return number not in self._reports

    def take(self, number: int, payload: bytes) -> None:
        """Take the report of a model.

        Raises `MalformedInput` for one that is not whole, or a second one; `VerificationError` where an exact job's
        model has a cell that differs.
        """
        model = self._models[number]
        report = determinism.read(payload, model)
        if not self.missing(number):
            raise MalformedInput(f"self-test of model {model}", "expected one report, found another")
        LOG.info("self-test", model=model, numerics=report.numerics_class, differing=report.differing)
        if self._contract == "exact":
            determinism.require_exact(report)
        self._reports[number] = report
        self._on_report(len(self._reports), len(self._models))

    def reports(self) -> tuple[SelfTest, ...]:
        """All of them, in the job's order. Raises `RuntimeError` while one is missing."""
        if len(self._reports) != len(self._models):
            raise RuntimeError("expected a self-test of every model, found some missing")
        return tuple(self._reports[number] for number in range(len(self._models)))


class NoTests(SelfTests):
    """Of a dry run: its models are not tested, because nothing of them but the vocabulary is loaded."""

    def missing(self, number: int) -> bool:  # noqa: ARG002 - the same for every model
        """None is."""
        return False
