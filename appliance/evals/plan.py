"""The plan of a run inside the eval worker: every suite on every model that it tests, with its tasks and its routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from appliance.evals.prompts import Task
from appliance.evals.suite import Suite
from attest.job import JobSuite
from attest.results import PlannedSuite
from attest.sample import Role


@dataclass(frozen=True)
class Planned:
    """One suite on one model under test, with its tasks."""

    models: Mapping[Role, tuple[int, str]]
    """Which model plays which role: its route and its name."""
    suite: Suite
    """The suite."""
    tasks: list[Task]
    """Its rows."""

    @property
    def route(self) -> int:
        """The route of the model under test."""
        return self.models["target"][0]

    @property
    def model(self) -> str:
        """The model under test."""
        return self.models["target"][1]

    @cached_property
    def grammar(self) -> str | None:
        """What completions have to follow, in GBNF."""
        return self.suite.constraint

    def entry(self) -> PlannedSuite:
        """Its line in the plan."""
        return PlannedSuite(
            model=self.model,
            suite=self.suite.name,
            samples=len(self.tasks),
            scorers=tuple(spec.label for spec in self.suite.scorers),
            aggregates=self.suite.aggregates,
        )


def make(models: Sequence[str], suites: Sequence[tuple[JobSuite, Suite, list[Task]]]) -> list[Planned]:
    """Every suite on every one of `models` (their places are the routes) that it tests, models outermost."""
    places = {name: (route, name) for route, name in enumerate(models)}
    return [
        Planned(_roles(places, model, entry), suite, tasks)
        for model in models
        for entry, suite, tasks in suites
        if model in entry.targets(models)
    ]


def _roles(places: Mapping[str, tuple[int, str]], target: str, entry: JobSuite) -> dict[Role, tuple[int, str]]:
    names: dict[Role, str | None] = {"target": target, "attacker": entry.attacker, "judge": entry.judge}
    return {role: places[name] for role, name in names.items() if name is not None}
