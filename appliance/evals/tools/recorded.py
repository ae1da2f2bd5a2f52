"""`recorded`: a function whose answers stand in the suite: a tool that was called once, elsewhere."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, model_validator

from appliance.evals.tools.tool import Arguments, Function, FunctionName, ToolError, ToolSpec, World
from attest.canonical import Model


class Recording(Model):
    """One call that was recorded."""

    arguments: dict[str, Any]
    """What was given; a call has to give the same, in any order."""
    result: str = Field(max_length=20_000)
    """What came back."""


class Recorded(ToolSpec):
    """Its settings."""

    tool: Literal["recorded"]
    """Which tool."""
    name: FunctionName
    """How the model calls it."""
    description: str = Field(max_length=2000)
    """What it does, for the model."""
    parameters: dict[str, Any]
    """Its arguments, as a JSON schema."""
    recordings: tuple[Recording, ...] = Field(min_length=1, max_length=1000)
    """The calls."""
    otherwise: str | None = Field(default=None, max_length=2000)
    """The answer to all other calls; a failure when absent."""

    @model_validator(mode="after")
    def _one_result_for_each(self) -> Recorded:
        keys = [_key(recording.arguments) for recording in self.recordings]
        if len(set(keys)) != len(keys):
            raise ValueError(f"recordings of {self.name!r}: expected one for the same arguments, found several")
        return self

    def functions(self) -> tuple[Function, ...]:
        """One function."""
        return (Function(self.name, self.description, self.parameters, self._call),)

    def _call(self, given: Arguments, _world: World) -> str:
        results = {_key(recording.arguments): recording.result for recording in self.recordings}
        result = results.get(_key(given), self.otherwise)
        if result is None:
            raise ToolError("there is no answer for these arguments")
        return result


def _key(value: Arguments) -> str:
    return json.dumps(value, sort_keys=True)
