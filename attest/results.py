"""The results file: counts, scores with intervals, and claims. A pure function of the job and the sample records.

The appliance writes it and the verifier recomputes it with the same code; it holds nothing of the host, the time or
the key, so the same job gives the same bytes anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from typing import Literal

from pydantic import Field, model_validator

from attest import attacks, comparison, metrics
from attest.aggregate import Aggregate
from attest.attacks import AttackResult
from attest.canonical import Model
from attest.comparison import Comparison
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
    aggregates: tuple[Aggregate, ...] = ()
    """Metrics that are to be reported besides the scorers' means."""

    @model_validator(mode="after")
    def _aggregates_are_of_its_scorers(self) -> PlannedSuite:
        names = [*self.scorers, *(aggregate.name for aggregate in self.aggregates)]
        if len(set(names)) != len(names):
            raise ValueError(f"names of scorers and metrics must be unique, found {names}")
        if unknown := sorted({aggregate.scorer for aggregate in self.aggregates} - set(self.scorers)):
            raise ValueError(f"metrics are made of {unknown}, which are not among the scorers")
        return self


class Score(Model):
    """One scorer over one suite on one model."""

    scorer: Name
    """The scorer; also the metric's name in claims."""
    unscored: int
    """Samples that ran and that the scorer gave no score."""
    estimate: Estimate | None = None
    """The mean; absent when nothing was scored."""


class AggregateResult(Model):
    """One metric that is no mean of scores."""

    metric: Name
    """Its name in the plan and in claims."""
    estimate: Estimate | None = None
    """Its value; absent when there is nothing to make it of."""


class CategoryResult(Model):
    """The part of a suite's samples that are of one category."""

    category: str
    """The category."""
    run: int
    """Its samples that ran."""
    failed: int
    """Its samples that failed."""
    scores: tuple[Score, ...]
    """One for each scorer, in the suite's order; without a bootstrap."""


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
    aggregates: tuple[AggregateResult, ...] = ()
    """One for each other metric, in the plan's order."""
    categories: tuple[CategoryResult, ...] = ()
    """One for each category that a record names, in alphabetical order."""


class ClaimResult(Model):
    """A claim of the job, and what became of it."""

    claim: Claim
    """The claim, as the job states it."""
    value: str | None = None
    """The value found; absent when nothing was scored."""
    holds: bool
    """Whether it holds, by the exact value. It does not where a sample is missing, failed, or was not scored."""


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
    comparisons: tuple[Comparison, ...] = ()
    """Of every scorer of a suite that ran on several models, for each pair: the later model minus the earlier."""
    attacks: tuple[AttackResult, ...] = ()
    """What each strategy of an attack came to, in the order of the plan."""
    claims: tuple[ClaimResult, ...]
    """In the order of the job."""


Groups = Mapping[tuple[str, str], list[SampleRecord]]
"""Model and suite to the records."""


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
        comparisons=tuple(_comparisons(plan, groups)),
        attacks=tuple(
            found
            for entry in plan
            if any(aggregate.kind == "attack-success" for aggregate in entry.aggregates)
            for found in attacks.tabulate(groups[entry.model, entry.suite])
        ),
        claims=tuple(_claim(claim, plan, groups) for claim in job.claims),
    )


def _suite(entry: PlannedSuite, records: list[SampleRecord]) -> SuiteResult:
    ran = _ran(records)
    categories: dict[str, list[SampleRecord]] = {}
    for record in records:
        if record.category is not None:
            categories.setdefault(record.category, []).append(record)
    return SuiteResult(
        model=entry.model,
        suite=entry.suite,
        planned=entry.samples,
        run=len(ran),
        failed=len(records) - len(ran),
        scores=_scores(entry, ran, with_bootstrap=True),
        aggregates=tuple(
            AggregateResult(metric=aggregate.name, estimate=aggregate.estimate(ran)) for aggregate in entry.aggregates
        ),
        categories=tuple(
            CategoryResult(
                category=category,
                run=len(_ran(part)),
                failed=len(part) - len(_ran(part)),
                scores=_scores(entry, _ran(part), with_bootstrap=False),
            )
            for category, part in sorted(categories.items())
        ),
    )


def _ran(records: Iterable[SampleRecord]) -> list[SampleRecord]:
    return [record for record in records if record.error is None]


def _scores(entry: PlannedSuite, ran: Sequence[SampleRecord], *, with_bootstrap: bool) -> tuple[Score, ...]:
    return tuple(
        Score(
            scorer=scorer,
            unscored=sum(scorer not in record.scores for record in ran),
            estimate=metrics.estimate(_found(ran, scorer), with_bootstrap=with_bootstrap),
        )
        for scorer in entry.scorers
    )


def _found(records: Iterable[SampleRecord], scorer: str) -> list[str]:
    return [record.scores[scorer] for record in records if scorer in record.scores]


def _comparisons(plan: Sequence[PlannedSuite], groups: Groups) -> Iterable[Comparison]:
    for earlier, later in combinations(plan, 2):
        if earlier.suite != later.suite or earlier.model == later.model:
            continue
        for scorer in later.scorers:
            sides = [comparison.scores(groups[entry.model, entry.suite], scorer) for entry in (later, earlier)]
            if found := comparison.compare(later.suite, scorer, (later.model, earlier.model), sides[0], sides[1]):
                yield found


def _claim(claim: Claim, plan: Sequence[PlannedSuite], groups: Groups) -> ClaimResult:
    """A claim holds for the exact value of all planned samples: one that failed or was not scored leaves it open."""
    entries = {entry.model: entry for entry in plan if entry.suite == claim.suite}
    entry = entries.get(claim.model)
    if entry is None or (claim.versus is not None and claim.versus not in entries):
        return ClaimResult(claim=claim, holds=False)
    records = groups[entry.model, entry.suite]
    aggregate = {one.name: one for one in entry.aggregates}.get(claim.metric)
    scorer = aggregate.scorer if aggregate else claim.metric
    whole = len(_found(records, scorer)) == len(records) == entry.samples
    exact: Fraction | None
    if claim.versus is not None:
        others = groups[claim.versus, claim.suite]
        whole = whole and len(_found(others, scorer)) == len(others) == entries[claim.versus].samples == entry.samples
        sides = (comparison.scores(records, claim.metric), comparison.scores(others, claim.metric))
        whole = whole and sides[0].keys() == sides[1].keys()
        exact = comparison.exact(*sides)
    else:
        part = [record for record in records if claim.category in (None, record.category)]
        exact = aggregate.exact(_ran(part)) if aggregate else metrics.mean(_found(part, scorer))
    if exact is None:
        return ClaimResult(claim=claim, holds=False)
    holds = whole and metrics.compare(exact, claim.comparator, claim.threshold)
    return ClaimResult(claim=claim, value=metrics.written(exact), holds=holds)
