"""The tools of one sample: finds the function that a call names, carries it out, and says what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from appliance.evals.tools.tool import Function, ToolError, ToolSpec, World
from attest import canonical
from attest.sample import Call, ToolCall

INSTRUCTIONS: Final = """\
You can use these functions:
{functions}
Reply with one JSON object, and nothing else. Either {{"calls": [{{"name": "...", "arguments": {{...}}}}]}} to call \
functions, whose results you are then told; or {{"answer": "..."}} when you know the answer."""


def functions(specs: Sequence[ToolSpec]) -> dict[str, Function]:
    """All functions by name. Raises `ValueError` where two have the same."""
    found = [function for spec in specs for function in spec.functions()]
    names = [function.name for function in found]
    if len(set(names)) != len(names):
        raise ValueError(f"functions of tools must have names of their own, found {names}")
    return dict(zip(names, found, strict=True))


def instructions(specs: Sequence[ToolSpec]) -> str:
    """What a model is told whose chat template knows no tools."""
    listed = [json.dumps(each.definition()["function"], ensure_ascii=False) for each in functions(specs).values()]
    return INSTRUCTIONS.format(functions="\n".join(listed))


def schema(specs: Sequence[ToolSpec], most: int) -> dict[str, Any]:
    """The JSON schema of a reply that calls up to `most` functions or answers."""
    call = [
        {
            "type": "object",
            "properties": {"name": {"const": each.name}, "arguments": dict(each.parameters)},
            "required": ["name", "arguments"],
        }
        for each in functions(specs).values()
    ]
    calls = {"type": "array", "items": {"anyOf": call}, "minItems": 1, "maxItems": most}
    return {
        "anyOf": [
            {"type": "object", "properties": {"calls": calls}, "required": ["calls"]},
            {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]},
        ]
    }


class Toolbox:
    """Functions, the world that they act on, and how often they may be called."""

    def __init__(self, specs: Sequence[ToolSpec], *, calls: int, result_chars: int) -> None:
        self._functions = functions(specs)
        self._left = calls
        self._result_chars = result_chars
        self.world = World({key: value for spec in specs for key, value in spec.start().items()})

    def definitions(self) -> tuple[dict[str, Any], ...]:
        """What a chat template is given."""
        return tuple(function.definition() for function in self._functions.values())

    def call(self, call: Call) -> ToolCall:
        """Carry `call` out. Whatever is wrong with it becomes its result."""
        try:
            result, failed = self._result(call), False
        except ToolError as error:
            result, failed = f"error: {error}", True
        return ToolCall(name=call.name, arguments=call.arguments, result=result, failed=failed)

    def _result(self, call: Call) -> str:
        if self._left == 0:
            raise ToolError("no more calls are allowed")
        self._left -= 1
        if call.name not in self._functions:
            raise ToolError(f"there is no such function; there are {', '.join(self._functions)}")
        given = canonical.loads(call.arguments.encode(), "arguments")
        result = self._functions[call.name].call(given, self.world)
        if len(result) > self._result_chars:
            raise ToolError(f"the result has {len(result)} characters, and {self._result_chars} are allowed")
        return result
