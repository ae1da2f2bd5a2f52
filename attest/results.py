"""The results file: counts, scores with intervals, and claims. A pure function of the job and the sample records.

The appliance writes it and the verifier recomputes it with the same code; it holds nothing of the host, the time or
the key, so the same job gives the same bytes anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from attest import metrics
from attest.canonical import Model
from attest.digest import Digest
from attest.job import Claim, Job, Name
from attest.job import digest as job_digest
from attest.metrics import Estimate
from attest.sample import SampleRecord


class PlannedSuite(Model):
    """One suite on one model, as planned before its first sample."""

    model: Name
    """The model."""
    suite: Name
    """The suite's name."""
    samples: int = Field(ge=0)
    """Rows that are to be run."""
    scorers: tuple[Name, ...] = Field(min_length=1)
    """Scorers that each sample is to get."""


class Score(Model):
    """One scorer over one suite on one model."""

    scorer: Name
    """The scorer; also the metric's name in claims."""
    unscored: int
    """Samples that ran and that the scorer gave no score."""
    estimate: Estimate | None = None
    """The mean; absent when nothing was scored."""


class SuiteResult(Model):
    """One suite on one model."""

    model: Name
    """The model."""
    suite: Name
    """The suite."""
    planned: int
    """Samples planned."""
    run: int
    """Samples that ran."""
    failed: int
    """Samples that failed, each with its error in the transcript."""
    scores: tuple[Score, ...]
    """One for each scorer, in the suite's order."""


class ClaimResult(Model):
    """A claim of the job, and what became of it."""

    claim: Claim
    """The claim, as the job states it."""
    value: str | None = None
    """The value found; absent when nothing was scored."""
    holds: bool
    """Whether it holds, by the exact mean. It does not where a sample is missing, failed, or was not scored."""


class Results(Model):
    """What `results.json` says."""

    format: Literal["vitrine/results/v1"] = "vitrine/results/v1"
    """The format's name and version."""
    job_digest: Digest
    """The job."""
    complete: bool
    """Whether every planned sample has a record."""
    suites: tuple[SuiteResult, ...]
    """In the order of the plan."""
    claims: tuple[ClaimResult, ...]
    """In the order of the job."""


def tabulate(job: Job, plan: Sequence[PlannedSuite], records: Iterable[SampleRecord]) -> Results:
    """The results of `records` under `plan`. Records of a suite that was not planned raise `ValueError`."""
    groups: dict[tuple[str, str], list[SampleRecord]] = {(entry.model, entry.suite): [] for entry in plan}
    for record in records:
        if (record.model, record.suite) not in groups:
            raise ValueError(f"sample {record.id!r} is of {record.suite} on {record.model}, which was not planned")
        groups[record.model, record.suite].append(record)
    suites = tuple(_suite(entry, groups[entry.model, entry.suite]) for entry in plan)
    return Results(
        job_digest=job_digest(job),
        complete=all(suite.planned == suite.run + suite.failed for suite in suites),
        suites=suites,
        claims=tuple(_claim(claim, suites, groups) for claim in job.claims),
    )


def _suite(entry: PlannedSuite, records: list[SampleRecord]) -> SuiteResult:
    ran = [record for record in records if record.error is None]
    return SuiteResult(
        model=entry.model,
        suite=entry.suite,
        planned=entry.samples,
        run=len(ran),
        failed=len(records) - len(ran),
        scores=tuple(
            Score(
                scorer=scorer,
                unscored=sum(scorer not in record.scores for record in ran),
                estimate=metrics.estimate([record.scores[scorer] for record in ran if scorer in record.scores]),
            )
            for scorer in entry.scorers
        ),
    )


def _claim(
    claim: Claim, suites: Sequence[SuiteResult], groups: Mapping[tuple[str, str], list[SampleRecord]]
) -> ClaimResult:
    """A claim holds for the exact mean of all planned samples: one that failed or was not scored leaves it open."""
    for suite in suites:
        if (suite.model, suite.suite) == (claim.model, claim.suite):
            for score in suite.scores:
                if score.scorer == claim.metric and score.estimate is not None:
                    records = groups[suite.model, suite.suite]
                    found = [record.scores[claim.metric] for record in records if claim.metric in record.scores]
                    exact = metrics.mean(found)
                    whole = exact is not None and len(found) == suite.planned
                    holds = whole and metrics.compare(exact or "0", claim.comparator, claim.threshold)
                    return ClaimResult(claim=claim, value=score.estimate.value, holds=holds)
    return ClaimResult(claim=claim, holds=False)
