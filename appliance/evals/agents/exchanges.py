"""Faked exchanges: what a user asked and an assistant answered, of a list in the suite or of a column of the row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from appliance.evals.agents.strategy import Spec, request
from attest import canonical
from attest.canonical import Model
from attest.errors import MalformedInput
from attest.sample import Message

if TYPE_CHECKING:
    from appliance.evals.scene import Scene

MAX_EXCHANGES = 1000


class Exchange(Model):
    """One exchange that never happened."""

    user: str = Field(min_length=1, max_length=8000)
    """What was asked."""
    assistant: str = Field(min_length=1, max_length=8000)
    """What was answered."""

    @property
    def messages(self) -> tuple[Message, Message]:
        """The two messages."""
        return Message(role="user", content=self.user), Message(role="assistant", content=self.assistant)


class Shots(Spec):
    """What strategies with exchanges have."""

    exchanges: tuple[Exchange, ...] = Field(default=(), max_length=MAX_EXCHANGES)
    """The exchanges, the same for every row."""
    column: str | None = None
    """Or the column that holds a list of them, objects with `user` and `assistant`."""

    @model_validator(mode="after")
    def _from_one_place(self) -> Shots:
        if bool(self.exchanges) == (self.column is not None):
            raise ValueError(f"strategy {self.strategy!r} needs exchanges or a column, and one of them")
        return self

    def shuffled(self, scene: Scene) -> list[Exchange]:
        """The exchanges in a seeded order, without one that asks what the row asks. Raises `MalformedInput`."""
        found = self.exchanges if self.column is None else _read(scene, self.column)
        return scene.dice.shuffled([exchange for exchange in found if exchange.user != request(scene)])


def flat(exchanges: list[Exchange]) -> list[Message]:
    """Their messages."""
    return [message for exchange in exchanges for message in exchange.messages]


def _read(scene: Scene, column: str) -> list[Exchange]:
    value = scene.task.row.get(column)
    if not isinstance(value, list) or not 0 < len(value) <= MAX_EXCHANGES:
        raise MalformedInput(
            f"sample {scene.task.id}", f"expected column {column!r} to hold 1 to {MAX_EXCHANGES} exchanges"
        )
    return [canonical.validate(Exchange, item, f"sample {scene.task.id}, column {column}") for item in value]
