"""What a tool is: functions that the suite describes to the model, pure but for one sample's own world.

A tool is data in the suite and code of ours: nobody's code is run. It sees arguments that a model wrote, so that it
checks them, and what it costs is bounded. What it refuses is a `ToolError`, which the model is told.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints, ValidationError

from attest.canonical import Model

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
"""How the model calls a function."""
Arguments = dict[str, Any]
"""What a call gives: names to JSON values."""


class ToolError(ValueError):
    """The call cannot be carried out; the text is for the model."""


@dataclass
class World:
    """What one sample's tools remember."""

    values: dict[str, str] = field(default_factory=dict)
    """The key-value world."""


@dataclass(frozen=True)
class Function:
    """Something that a model may call."""

    name: str
    """Its name."""
    description: str
    """What it does, for the model."""
    parameters: Mapping[str, Any]
    """Its arguments, as a JSON schema."""
    call: Callable[[Arguments, World], str]
    """Carries a call out. Raises `ToolError`."""

    def definition(self) -> dict[str, Any]:
        """The form in which chat templates take it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


class ToolSpec(Model):
    """What the settings of all tools have."""

    tool: str
    """Which tool."""

    @abstractmethod
    def functions(self) -> tuple[Function, ...]:
        """What the model may call."""

    def start(self) -> dict[str, str]:
        """What the key-value world holds at first."""
        return {}


def arguments(model: type[BaseModel], given: Arguments) -> Any:
    """`given` as a `model`. Raises `ToolError`; the text is ours: a library's wording is to be no part of a result."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80] or "the whole"
        raise ToolError(f"the arguments do not fit the parameters: see {where!r}") from None


EMPTY: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
"""The schema of no arguments."""


def nothing(given: Arguments) -> None:
    """Raises `ToolError` where arguments are given to a function that takes none."""
    if given:
        raise ToolError("the function takes no arguments")
