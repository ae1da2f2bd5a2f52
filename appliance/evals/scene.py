"""What a solver has before it: the row, the suite, its own dice, what happened so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.evals.conversation import Ask, History
from appliance.evals.dice import Dice
from appliance.evals.prompts import Task, Templates
from appliance.evals.suite import Suite
from attest.job import Sampling
from attest.sample import Message


@dataclass(frozen=True)
class Scene:
    """One sample's world."""

    suite: Suite
    """The suite."""
    task: Task
    """The row."""
    grammar: str | None
    """What the target's completions have to follow, in GBNF."""
    dice: Dice
    """Randomness of this sample."""
    templates: Templates
    """The suite's templates, compiled."""
    history: History
    """What happened so far."""

    @property
    def queries(self) -> int:
        """Queries to the target that this row's strategy has. Raises `RuntimeError` where nobody attacks."""
        setting, spec = self.suite.attack, self.task.strategy
        if setting is None or spec is None:
            raise RuntimeError("an attack needs its settings, and a task its strategy")
        return spec.queries or setting.queries

    def ask(self, messages: Sequence[Message], *, label: str = "", sampling: Sampling | None = None) -> Ask:
        """An ask of the target, as the suite says."""
        return Ask(
            tuple(messages),
            label=label,
            sampling=sampling,
            stop=self.suite.stop,
            grammar=self.grammar,
            raw=self.suite.prompt.raw,
        )

    def text(self, part: str, source: str, variables: Mapping[str, Any]) -> str:
        """The template `source` of the suite's field `part`, filled in. Raises `MalformedInput`."""
        return self.templates.text(part, source, variables, f"sample {self.task.id}")
