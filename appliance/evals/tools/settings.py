"""What a suite says of its agent: tools, limits, and how calls are written."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from appliance.evals.tools import AnyTool, toolbox
from appliance.runtime import gbnf, schema
from attest.canonical import Model


class AgentSpec(Model):
    """An agent's settings."""

    tools: tuple[AnyTool, ...] = Field(min_length=1, max_length=32)
    """The tools."""
    calls: Literal["native", "grammar"] = "native"
    """`native`: the model's chat template is given the tools, and calls are read in the forms that model families have.
    `grammar`: for a template that knows no tools; they are described in the system message, and the reply is held to
    JSON."""
    turns: int = Field(default=8, ge=1, le=100)
    """Replies that the model has, the answer among them."""
    max_calls: int = Field(default=16, ge=1, le=400)
    """Calls of tools; what goes beyond is refused, and the model told so."""
    result_chars: int = Field(default=4000, ge=1, le=100_000)
    """Of one result; a longer one is refused, and the model told so."""

    @cached_property
    def grammar(self) -> str | None:
        """What a reply has to follow, in GBNF. Raises `GrammarError`."""
        if self.calls == "native":
            return None
        return schema.to_gbnf(toolbox.schema(self.tools, self.max_calls))

    @model_validator(mode="after")
    def _can_be_used(self) -> AgentSpec:
        toolbox.functions(self.tools)  # names of their own: so there is one key-value world at most
        if self.grammar is not None:
            gbnf.parse(self.grammar)
        return self
