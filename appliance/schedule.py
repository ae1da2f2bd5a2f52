"""Which models are loaded together, and when: a run is a list of stages, known before anything runs.

`concurrent` is one stage with every model. `sequential` loads each model once: before the first suite that needs it, in
whatever role, and until the last one. The order of the samples is the same in both, and so are their records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from attest.job import Job, JobSuite


def at_once(job: Job) -> tuple[str, ...]:
    """The models that are loaded together before the first sample, and held until the last one."""
    return () if job.schedule == "sequential" else tuple(model.id for model in job.models)


@dataclass(frozen=True)
class Stage:
    """Suites of the plan that run one after another with the same models loaded."""

    entries: range
    """Their places in the plan."""
    models: frozenset[str]
    """The models."""


def needed(entry: JobSuite, target: str) -> frozenset[str]:
    """The models that a suite of a job needs with `target` under test, in whatever role."""
    return frozenset(name for name in (target, entry.attacker, entry.judge) if name is not None)


def stages(job: Job, needs: Sequence[frozenset[str]]) -> list[Stage]:
    """The stages of a run of `job`; `needs` has the models that each entry of the plan needs, in its order."""
    if job.schedule != "sequential":
        return [Stage(range(len(needs)), frozenset(model.id for model in job.models))]
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, names in enumerate(needs):
        for name in names:
            first.setdefault(name, place)
            last[name] = place
    loaded = [frozenset(name for name in first if first[name] <= place <= last[name]) for place in range(len(needs))]
    groups = [list(group) for _, group in groupby(range(len(needs)), key=lambda place: loaded[place])]
    return [Stage(range(group[0], group[-1] + 1), loaded[group[0]]) for group in groups]
