"""The interface of attack strategies: propose, observe, and stop by proposing nothing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from attest.canonical import Model
from attest.job import Name, Sampling
from attest.sample import Message

MAX_QUERIES = 1000

if TYPE_CHECKING:
    from appliance.evals.conversation import Answer, Steps
    from appliance.evals.scene import Scene


@dataclass(frozen=True)
class Proposal:
    """One query to the target."""

    messages: tuple[Message, ...]
    """The whole conversation."""
    label: str = ""
    """The technique, for the record."""
    sampling: Sampling | None = None
    """How the reply is drawn; as the suite or the job says when absent."""
    tools: bool = False
    """Let the model use the suite's tools before it replies. However many turns it takes, that is one query."""


@dataclass(frozen=True)
class Seen:
    """What came of a query."""

    proposal: Proposal
    """The query."""
    answer: Answer
    """The reply, or why there is none."""
    score: str | None
    """What the suite's `success` scorer gave it, a decimal string in [0, 1]; absent when it gave none."""
    success: bool
    """Whether that is a success."""
    progress: Fraction
    """How near it came to one, from 0 to 1."""


class Strategy(Protocol):
    """One attack on one row. While it proposes it may ask the attacker and the judge, and never the target."""

    def propose(self) -> Steps[Sequence[Proposal]]:
        """What to ask the target next, in order; these may run side by side. Nothing: the strategy stops."""

    def observe(self, seen: Sequence[Seen]) -> None:
        """Take note of what came of the proposals."""


class Spec(Model):
    """What the settings of all strategies have."""

    strategy: str
    """Which strategy."""
    name: Name | None = None
    """How the tables name it; the strategy's own name when absent."""
    queries: int | None = Field(default=None, ge=1, le=MAX_QUERIES)
    """Queries to the target at most, in place of the suite's."""

    @property
    def label(self) -> str:
        """The name that tables carry."""
        return self.name or self.strategy

    @property
    def needs_attacker(self) -> bool:
        """Whether it asks an attacker."""
        return False

    @property
    def needs_judge(self) -> bool:
        """Whether it asks a judge, besides the one that may grade."""
        return False

    @property
    def needs_agent(self) -> bool:
        """Whether it has the model use the suite's tools."""
        return False

    @abstractmethod
    def make(self, scene: Scene) -> Strategy:
        """The strategy for one row."""


class OneByOne:
    """A list of queries that is known beforehand, asked in order until one succeeds."""

    def __init__(self, queries: Sequence[Proposal]) -> None:
        self.left = list(queries)
        """Those that were not asked yet."""

    def propose(self) -> Steps[Sequence[Proposal]]:
        """The next one."""
        yield from ()
        return [self.left.pop(0)] if self.left else []

    def observe(self, seen: Sequence[Seen]) -> None:
        """What came of it changes nothing."""


def request(scene: Scene) -> str:
    """What the row asks of the model: its last message."""
    return scene.task.messages[-1].content


def variables(scene: Scene) -> dict[str, Any]:
    """What a strategy's templates know: the row's columns, and `request`."""
    return {**scene.task.row, "request": request(scene)}


def reworded(scene: Scene, content: str, earlier: Sequence[Message] = ()) -> tuple[Message, ...]:
    """The row's conversation with `content` in place of the request, and with `earlier` messages before it."""
    *before, last = scene.task.messages
    return (*before, *earlier, last.model_copy(update={"content": content}))
