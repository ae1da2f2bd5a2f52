"""Strict JSON in, RFC 8785 out.

`loads` refuses what JSON parsers disagree on: duplicate keys, NaN and infinities, trailing data, a byte-order mark,
lone surrogates, integers outside +-(2^53 - 1), nesting beyond `MAX_DEPTH`. `parse` reads a pydantic model from such
JSON. `dumps` writes the canonical form (RFC 8785); floats are refused there, scores travel as decimal strings.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar, cast

import rfc8785
from pydantic import BaseModel, ConfigDict, ValidationError

from attest.errors import MalformedInput

MAX_DEPTH = 64
MAX_INTEGER = 2**53 - 1
MAX_DIGITS = 16

JSON = Any
"""What `loads` returns: dict, list, str, int, float, bool or None."""


class Model(BaseModel):
    """Base of every model that crosses a boundary: frozen, no unknown fields, no coercion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


M = TypeVar("M", bound=BaseModel)


def loads(data: bytes, what: str = "JSON") -> JSON:
    """The value of the strict JSON text `data` (UTF-8). Raises `MalformedInput`, whose subject is `what`."""
    try:
        text = data.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise MalformedInput(what, f"expected UTF-8, found an invalid byte at offset {error.start}") from None
    if text.startswith("\ufeff"):
        raise MalformedInput(what, "expected JSON, found a byte-order mark")
    _check_depth(text, what)

    def pairs(items: list[tuple[str, JSON]]) -> dict[str, JSON]:
        value: dict[str, JSON] = {}
        for key, item in items:
            if key in value:
                raise MalformedInput(what, f"expected unique keys, found {key[:80]!r} twice")
            value[key] = item
        return value

    def integer(digits: str) -> int:
        if len(digits.lstrip("-")) > MAX_DIGITS or abs(int(digits)) > MAX_INTEGER:
            raise MalformedInput(what, f"expected integers within 2^53, found one of {len(digits)} digits")
        return int(digits)

    def number(digits: str) -> float:
        value = float(digits)
        if value in (float("inf"), float("-inf")):
            raise MalformedInput(what, "expected a finite number, found one beyond float64")
        return value

    def constant(name: str) -> NoReturn:
        raise MalformedInput(what, f"expected a finite number, found {name}")

    try:
        value = json.loads(
            text, object_pairs_hook=pairs, parse_int=integer, parse_float=number, parse_constant=constant
        )
    except json.JSONDecodeError as error:
        raise MalformedInput(what, f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    _check_text(value, what)
    return value


def parse(model: type[M], data: bytes, what: str) -> M:
    """`data`, strict JSON, as a `model`. Raises `MalformedInput` that names the field, and what was expected."""
    return validate(model, loads(data, what), what)


def validate(model: type[M], value: JSON, what: str) -> M:
    """A value that `loads` returned (or a YAML loader, or a TOML parser) as a `model`. Raises `MalformedInput`."""
    try:
        # Through JSON, because a strict model takes a list for a tuple and a string for an enum only from JSON.
        return model.model_validate_json(json.dumps(value, allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, ValidationError):
            raise MalformedInput(what, explain(error)) from None
        raise MalformedInput(what, f"cannot be read as {model.__name__}: {type(error).__name__}") from None


def explain(error: ValidationError) -> str:
    """The first problems of a pydantic error, one clause each: where, what was expected, what was found."""
    clauses = []
    for item in error.errors(include_url=False)[:3]:
        where = _short(".".join(str(part) for part in item["loc"])) or "the whole"
        clauses.append(f"{where}: {_short(item['msg'], 400)}, found {_short(repr(item['input']))}")
    rest = error.error_count() - len(clauses)
    return "; ".join(clauses) + (f"; and {rest} more" if rest > 0 else "")


def _short(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[:length] + "..."


def dumps(value: JSON) -> bytes:
    """The canonical JSON (RFC 8785) of `value`. Floats raise `TypeError`: formats here carry decimal strings."""
    _refuse_floats(value)
    return rfc8785.dumps(value)


def dump_model(model: BaseModel) -> bytes:
    """The canonical JSON of a model; a field that is None is left out (absent means: no claim is made)."""
    return dumps(model.model_dump(mode="json", by_alias=True, exclude_none=True))


def _check_depth(text: str, what: str) -> None:
    depth, in_string, escaped = 0, False, False
    for char in text if text.count("[") + text.count("{") > MAX_DEPTH else "":
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedInput(what, f"expected at most {MAX_DEPTH} levels, found more")
        elif char in "]}":
            depth -= 1


def _check_text(value: JSON, what: str) -> None:
    """Refuse lone surrogates, which `\\uD800` escapes can smuggle in and UTF-8 cannot carry out."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedInput(what, "expected Unicode text, found a lone surrogate") from None


def _refuse_floats(value: JSON) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            raise TypeError(f"canonical JSON carries no floats here, found {item!r}: use a decimal string")
        if isinstance(item, dict):
            stack.extend(cast("dict[str, JSON]", item).values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
