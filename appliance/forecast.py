"""What a run would do, as a dry run finds out: which suites, prompts of how many tokens, what is loaded when."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from pydantic import Field

from appliance.evals.preview import Preview
from appliance.evals.suite import Suite
from appliance.prepare import Memory
from appliance.schedule import Stage
from attest.canonical import Model
from attest.errors import MalformedInput
from attest.job import Job, JobSuite, Sampling
from attest.job import digest as job_digest
from attest.results import PlannedSuite
from attest.sample import Role


class Tokens(Model):
    """How long prompts are."""

    prompts: int
    """How many."""
    total: int
    """Tokens of all of them."""
    least: int
    """Of the shortest."""
    median: int
    """Of the one in the middle, the lower of two."""
    most: int
    """Of the longest."""


class Trouble(Model):
    """A sample that a run would fail, or whose completion it would cut, for what is known already."""

    id: str
    """The row's identifier."""
    code: str
    """As in a sample's error; `cut` where the context has room for fewer tokens than the sampling allows."""
    message: str
    """For people."""


class SuitePlan(Model):
    """One suite on one model."""

    model: str
    """The model under test."""
    suite: str
    """The suite."""
    solver: str
    """What is done with a row."""
    roles: dict[Role, str]
    """Role to the model that plays it."""
    samples: int
    """Samples: rows, times epochs, times strategies."""
    limit: int | None
    """At most so many rows."""
    shuffle: int | None
    """The seed of their order; the file's when absent."""
    epochs: int
    """How often each row is asked."""
    strategies: tuple[str, ...]
    """Of an attack."""
    sampling: Sampling | None
    """How completions are drawn; absent where options are weighed."""
    prompts: Tokens | None
    """Prompts of the first turns; absent where no sample has one."""
    option_tokens: int
    """Tokens of all options that are weighed."""
    requests: dict[Role, int]
    """Requests to each role at most."""
    decode_tokens: int
    """Tokens that all answers together have at most."""
    troubles: tuple[Trouble, ...]
    """What does not fit, or does not work."""
    shown: tuple[Preview, ...]
    """The first samples, with their prompts in full."""


class StagePlan(Model):
    """Suites that run with the same models loaded."""

    load: tuple[str, ...]
    """Models that are loaded before it."""
    keep: tuple[str, ...]
    """Models that are loaded already, and needed on."""
    suites: tuple[tuple[str, str], ...]
    """Model and suite, in the order in which they run."""


class MemoryPlan(Model):
    """What a run takes of the memory that there is, in bytes."""

    needed: int
    """At the worst moment."""
    available: int
    """What there was before anything was loaded."""
    files: dict[str, int]
    """The files of each model."""
    caches: dict[str, int]
    """The cache of each model's context."""
    workers: dict[str, int]
    """What each model's worker takes besides."""
    together: tuple[str, ...]
    """The models that are loaded at the worst moment."""


class Forecast(Model):
    """What a run of the job would do."""

    job: str
    """The job's name."""
    job_digest: str
    """Its digest."""
    lock_digest: str
    """The lockfile's."""
    lock_given: bool
    """Whether one was given, or what is here was pinned."""
    seed: int
    """The seed of all draws."""
    attempt: None = None
    """No attempt at the job is numbered by a dry run."""
    schedule: str
    """`concurrent` or `sequential`."""
    stages: tuple[StagePlan, ...]
    """The order of loading."""
    memory: MemoryPlan | None
    """What it takes; absent where the models' headers do not say."""
    suites: tuple[SuitePlan, ...]
    """The suites, in the order of the run."""
    samples: int = Field(ge=0)
    """Of all suites."""


def make(
    job: Job,
    suites: Sequence[Suite],
    plan: Sequence[PlannedSuite],
    stages: Sequence[Stage],
    previews: Sequence[Preview],
    *,
    lock_digest: str,
    lock_given: bool,
    memory: Memory | None,
) -> Forecast:
    """The forecast. Raises `MalformedInput` where the eval worker's `previews` are not those of its own `plan`."""
    wanted = [(entry.model, entry.suite) for entry in plan for _ in range(entry.samples)]
    if [(preview.model, preview.suite) for preview in previews] != wanted:
        raise MalformedInput("previews of worker eval", "expected every sample of its plan, in order, found others")
    known = {suite.name: (suite, entry) for suite, entry in zip(suites, job.suites, strict=True)}
    plans, begin = [], 0
    for planned in plan:
        own = previews[begin : begin + planned.samples]
        plans.append(_suite(job, planned.model, *known[planned.suite], own))
        begin += planned.samples
    return Forecast(
        job=job.name,
        job_digest=job_digest(job),
        lock_digest=lock_digest,
        lock_given=lock_given,
        seed=job.seed,
        schedule=job.schedule or "concurrent",
        stages=tuple(_stages(job, plan, stages)),
        memory=None if memory is None else _memory(memory),
        suites=tuple(plans),
        samples=len(previews),
    )


def _suite(job: Job, model: str, suite: Suite, entry: JobSuite, previews: Sequence[Preview]) -> SuitePlan:
    asks = [ask for preview in previews for ask in preview.asks]
    roles: dict[Role, str | None] = {"target": model, "attacker": entry.attacker, "judge": entry.judge}
    requests: dict[Role, int] = {}
    for preview in previews:
        for role, count in preview.requests.items():
            requests[role] = requests.get(role, 0) + count
    return SuitePlan(
        model=model,
        suite=suite.name,
        solver=suite.solver,
        roles={role: name for role, name in roles.items() if name is not None},
        samples=len(previews),
        limit=entry.limit,
        shuffle=entry.shuffle,
        epochs=suite.epochs,
        strategies=tuple(spec.label for spec in suite.attack.strategies) if suite.attack else (),
        sampling=None if suite.solver in ("choose", "replay") else suite.sampling or job.sampling,
        prompts=_tokens([ask.tokens for ask in asks if ask.tokens]),
        option_tokens=sum(sum(ask.option_tokens) for ask in asks),
        requests=requests,
        decode_tokens=sum(preview.decode_tokens for preview in previews),
        troubles=tuple(trouble for preview in previews for trouble in _troubles(preview)),
        shown=tuple(preview for preview in previews if any(ask.shown for ask in preview.asks)),
    )


def _tokens(counts: Sequence[int]) -> Tokens | None:
    if not counts:
        return None
    return Tokens(
        prompts=len(counts),
        total=sum(counts),
        least=min(counts),
        median=statistics.median_low(counts),
        most=max(counts),
    )


def _troubles(preview: Preview) -> Iterator[Trouble]:
    errors = [preview.error, *(ask.error for ask in preview.asks)]
    yield from (Trouble(id=preview.id, code=error.code, message=error.message) for error in errors if error is not None)
    if cut := [ask.room for ask in preview.asks if ask.cut]:
        message = f"the context has room for {min(cut)} tokens of an answer, fewer than max_tokens"
        yield Trouble(id=preview.id, code="cut", message=message)


def _stages(job: Job, plan: Sequence[PlannedSuite], stages: Sequence[Stage]) -> Iterator[StagePlan]:
    loaded: frozenset[str] = frozenset()
    for stage in stages:
        names = [model.id for model in job.models if model.id in stage.models]
        yield StagePlan(
            load=tuple(name for name in names if name not in loaded),
            keep=tuple(name for name in names if name in loaded),
            suites=tuple((plan[place].model, plan[place].suite) for place in stage.entries),
        )
        loaded = stage.models


def _memory(memory: Memory) -> MemoryPlan:
    needed = memory.needed
    return MemoryPlan(
        needed=needed.bytes,
        available=memory.available_bytes,
        files=needed.files,
        caches=needed.caches,
        workers=needed.workers,
        together=tuple(sorted(needed.together)),
    )
