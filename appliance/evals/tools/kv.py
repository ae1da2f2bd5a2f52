"""`kv`: a key-value world that each sample has for itself: get, set, delete, list. Scored by its end: `end_state`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from appliance.evals.tools.tool import (
    EMPTY,
    Arguments,
    Function,
    ToolError,
    ToolSpec,
    World,
    arguments,
    nothing,
)
from attest.canonical import Model

MAX_KEYS = 200
Key = Annotated[str, Field(min_length=1, max_length=200)]
Value = Annotated[str, Field(max_length=4000)]


class KeyValue(ToolSpec):
    """Its settings."""

    tool: Literal["kv"]
    """Which tool."""
    values: dict[Key, Value] = Field(default_factory=dict, max_length=MAX_KEYS)
    """What the world holds at first."""

    def functions(self) -> tuple[Function, ...]:
        """Get, set, delete, list."""
        return (
            Function("kv_list", "Lists all keys.", EMPTY, _list),
            Function("kv_get", "Gets the value of a key.", KEY_SCHEMA, _get),
            Function("kv_set", "Sets a key to a value.", ITEM_SCHEMA, _set),
            Function("kv_delete", "Deletes a key.", KEY_SCHEMA, _delete),
        )

    def start(self) -> dict[str, str]:
        """A world of its own for each sample."""
        return dict(self.values)


class KeyArguments(Model):
    """The arguments of `kv_get` and `kv_delete`."""

    key: Key
    """Which one."""


class ItemArguments(Model):
    """The arguments of `kv_set`."""

    key: Key
    """Which one."""
    value: Value
    """What it is to hold."""


KEY_SCHEMA: Final = {
    "type": "object",
    "properties": {"key": {"type": "string", "minLength": 1, "maxLength": 200}},
    "required": ["key"],
}
ITEM_SCHEMA: Final = {
    "type": "object",
    "properties": {"key": {"type": "string", "minLength": 1, "maxLength": 200}, "value": {"type": "string"}},
    "required": ["key", "value"],
}


def _list(given: Arguments, world: World) -> str:
    nothing(given)
    return "\n".join(sorted(world.values)) or "no keys"


def _get(given: Arguments, world: World) -> str:
    return world.values[_known(given, world)]


def _set(given: Arguments, world: World) -> str:
    item = arguments(ItemArguments, given)
    if item.key not in world.values and len(world.values) >= MAX_KEYS:
        raise ToolError(f"the world has room for {MAX_KEYS} keys")
    world.values[item.key] = item.value
    return "done"


def _delete(given: Arguments, world: World) -> str:
    del world.values[_known(given, world)]
    return "done"


def _known(given: Arguments, world: World) -> str:
    key: str = arguments(KeyArguments, given).key
    if key not in world.values:
        raise ToolError("no such key")
    return key
