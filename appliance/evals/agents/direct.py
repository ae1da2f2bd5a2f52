"""`direct`: the row as it stands, asked once. What all other strategies are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from appliance.evals.agents.strategy import Proposal, Seen, Spec

if TYPE_CHECKING:
    from appliance.evals.conversation import Steps
    from appliance.evals.scene import Scene


class Direct(Spec):
    """No settings."""

    strategy: Literal["direct"]
    """Which strategy."""

    def make(self, scene: Scene) -> OneByOne:
        """The one query."""
        return OneByOne([Proposal(scene.task.messages, "direct")])


class OneByOne:
    """A list of queries that is known beforehand, asked in order until one succeeds."""

    def __init__(self, queries: Sequence[Proposal]) -> None:
        self._left = list(queries)

    def propose(self) -> Steps[Sequence[Proposal]]:
        """The next one."""
        yield from ()
        return [self._left.pop(0)] if self._left else []

    def observe(self, seen: Sequence[Seen]) -> None:
        """What came of it changes nothing."""
