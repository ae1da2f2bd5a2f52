"""Reads the tool calls in a reply, in the forms that model families are trained on. A reply is hostile text.

- Hermes, Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, one or several, with text around them
- Mistral: `[TOOL_CALLS]` and a JSON array of such objects, as the whole reply
- Llama 3: `{"name": ..., "parameters": {...}}` as the whole reply, `<|python_tag|>` before it or not

Marks that are control tokens of a model are no part of its text, so they may be missing. What begins like a call and
is none is reported as such; anything else is the model's answer.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from attest import canonical
from attest.errors import MalformedInput
from attest.sample import Call

HERMES: Final = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
MISTRAL, LLAMA = "[TOOL_CALLS]", "<|python_tag|>"
MAX_NAME_CHARS = 200


@dataclass(frozen=True)
class Said:
    """A reply, read."""

    text: str
    """What is no call."""
    calls: tuple[Call, ...] = ()
    """The calls, in their order."""
    broken: tuple[str, ...] = ()
    """What was to be a call and cannot be read."""


def read(reply: str) -> Said:
    """The calls in `reply`, of whatever form."""
    if "<tool_call>" in reply:
        found = [(body, _call(body)) for body in HERMES.findall(reply)]
        calls = tuple(call for _, call in found if call)
        return Said(HERMES.sub("", reply).strip(), calls, tuple(body.strip() for body, call in found if not call))
    whole = reply.strip()
    if whole.startswith(MISTRAL):
        listed = _calls(whole.removeprefix(MISTRAL))
        return Said("", listed) if listed else Said("", broken=(whole,))
    if whole.startswith(LLAMA):
        call = _call(whole.removeprefix(LLAMA))
        return Said("", (call,)) if call else Said("", broken=(whole,))
    if whole.startswith("[") and (listed := _calls(whole)):
        return Said("", listed)
    if whole.startswith("{") and (call := _call(whole)):
        return Said("", (call,))
    return Said(reply)


def constrained(reply: str) -> Said:
    """The calls, or the answer, in a reply that followed the grammar of `Toolbox.grammar`, unless it was cut off."""
    value = _json(reply)
    if isinstance(value, dict) and isinstance(value.get("answer"), str):
        return Said(value["answer"])
    if isinstance(value, dict) and isinstance(value.get("calls"), list):
        calls = tuple(call for item in value["calls"] if (call := _of(item)))
        if len(calls) == len(value["calls"]) > 0:
            return Said("", calls)
    return Said("", broken=(reply,))


def _call(text: str) -> Call | None:
    return _of(_json(text))


def _calls(text: str) -> tuple[Call, ...]:
    value = _json(text)
    found = [_of(item) for item in value] if isinstance(value, list) else []
    return tuple(call for call in found if call) if None not in found else ()


def _of(value: Any) -> Call | None:
    if not isinstance(value, dict):
        return None
    given = value.get("arguments", value.get("parameters"))
    name = value.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS or not isinstance(given, dict):
        return None
    if set(value) - {"name", "arguments", "parameters", "id", "type"} or {"arguments", "parameters"} <= set(value):
        return None
    return Call(name=name, arguments=json.dumps(given, ensure_ascii=False))


def _json(text: str) -> Any:
    try:
        return canonical.loads(text.strip().encode(), "call")
    except (MalformedInput, UnicodeEncodeError):
        return None
