"""Whether a reply is JSON that is valid under a schema (JSON Schema 2020-12, the keywords below).

A keyword that is not known here is refused when the suite is read, never skipped: a typing error in a schema would
otherwise make every reply valid. References lead into the schema itself, patterns are RE2's. What a check costs is
bounded by counting, so that a schema and a reply are too much on every machine or on none.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

from pydantic import field_validator

from appliance.evals.scorers.regex import compiled
from appliance.evals.scorers.scorer import Outcome, Reference, Scorer, Unscored, bit
from attest import canonical
from attest.errors import MalformedInput

MAX_STEPS = 1_000_000
MAX_DEPTH = 64
MAX_NESTING = 130
"""Schemas within schemas, while a value is checked: a reference for each level that a value may have, and some."""

NOTES = {"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples"}
"""Keywords that constrain nothing."""
TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: _is_number(value),  # noqa: PLW0108 - defined below
    "integer": lambda value: _is_number(value) and value == int(value),
}


class JsonSchema(Scorer):
    """1 when the reply is JSON and valid under the schema.

    JSON as strictly as everywhere here: no key twice, integers within 2^53, at most 64 levels deep.
    """

    scorer: Literal["json-schema"]
    """`json-schema`"""
    json_schema: dict[str, Any]
    """The schema."""
    fenced: bool = False
    """Whether a reply may stand in a Markdown code fence."""

    @field_validator("json_schema")
    @classmethod
    def _every_keyword_is_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        _Schema(value).check(value, "#", 0)
        return value

    def score_text(self, text: str, _reference: Reference, /) -> Outcome:
        """Parse strictly, then check."""
        reply = text.strip()
        if self.fenced and reply.startswith("```") and reply.endswith("```"):
            reply = reply[3:-3].removeprefix("json")
        try:
            value = canonical.loads(reply.encode(), "reply")
        except (MalformedInput, UnicodeEncodeError):
            return bit(False)
        try:
            return bit(_Schema(self.json_schema).allows(self.json_schema, value))
        except _TooMuchError:
            return Unscored(f"the schema takes more than {MAX_STEPS} steps, or {MAX_NESTING} at once, on this reply")


class _TooMuchError(Exception):
    """More steps, or schemas within schemas, than are allowed."""


class _Schema:
    """One check against the schema `root`."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.steps = 0
        self.nesting = 0

    def target(self, reference: Any) -> Any:
        """What a local reference names. Raises `ValueError`."""
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise ValueError(f"expected a reference into the schema itself, found {reference!r:.80}")
        part: Any = self.root
        for step in reference.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(part, dict) or name not in part:
                raise ValueError(f"reference {reference!r:.80} leads nowhere")
            part = part[name]
        return part

    def check(self, schema: Any, where: str, depth: int) -> None:
        """Raise `ValueError` over what is not a schema of the keywords known here."""
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            raise ValueError(f"expected a schema nested at most {MAX_DEPTH} deep at {where}, found {schema!r:.80}")
        for keyword, wanted in schema.items():
            if keyword in NOTES and keyword not in ("$defs", "definitions"):
                continue
            form = FORMS.get(keyword)
            if form is None:
                raise ValueError(f"keyword {keyword!r:.80} at {where} is not among {', '.join(FORMS)}")
            if not form(wanted):
                raise ValueError(f"keyword {keyword!r} at {where} has not the form it should have: {wanted!r:.80}")
            if keyword == "$ref":
                self.target(wanted)
            if keyword == "pattern":
                compiled(wanted, ignore_case=False)
            nested = wanted if keyword in ("properties", "$defs", "definitions") else {}
            nested = dict(enumerate(wanted)) if keyword in ("anyOf", "oneOf", "allOf") else nested
            nested = {"": wanted} if keyword in ("items", "additionalProperties", "not") else nested
            for name, part in nested.items():
                self.check(part, f"{where}/{keyword}/{name}", depth + 1)

    def allows(self, schema: Any, value: Any) -> bool:
        """Whether `value` is valid under `schema`. Raises `_TooMuchError`."""
        self.steps += 1
        if self.steps > MAX_STEPS or self.nesting >= MAX_NESTING:
            raise _TooMuchError
        if isinstance(schema, bool):
            return schema
        self.nesting += 1
        valid = all(self._keyword(schema, keyword, wanted, value) for keyword, wanted in schema.items())
        self.nesting -= 1
        return valid

    def _keyword(self, schema: dict[str, Any], keyword: str, wanted: Any, value: Any) -> bool:
        match keyword:
            case "$ref":
                return self.allows(self.target(wanted), value)
            case "anyOf":
                return any(self.allows(part, value) for part in wanted)
            case "oneOf":
                return sum(self.allows(part, value) for part in wanted) == 1
            case "allOf":
                return all(self.allows(part, value) for part in wanted)
            case "not":
                return not self.allows(wanted, value)
            case "type":
                return any(TYPES[name](value) for name in ([wanted] if isinstance(wanted, str) else wanted))
            case "enum":
                return any(_equal(value, one) for one in wanted)
            case "const":
                return _equal(value, wanted)
        if isinstance(value, dict):
            return self._object(schema, keyword, wanted, value)
        if isinstance(value, list):
            return self._array(keyword, wanted, value)
        if isinstance(value, str):
            return _string(keyword, wanted, value)
        return not _is_number(value) or _number(keyword, wanted, value)

    def _object(self, schema: dict[str, Any], keyword: str, wanted: Any, value: dict[str, Any]) -> bool:
        match keyword:
            case "properties":
                return all(self.allows(part, value[name]) for name, part in wanted.items() if name in value)
            case "additionalProperties":
                named = schema.get("properties", {})
                return all(self.allows(wanted, part) for name, part in value.items() if name not in named)
            case "required":
                return all(name in value for name in wanted)
            case "minProperties" | "maxProperties":
                return bool(len(value) >= wanted if keyword == "minProperties" else len(value) <= wanted)
        return True

    def _array(self, keyword: str, wanted: Any, value: list[Any]) -> bool:
        match keyword:
            case "items":
                return all(self.allows(wanted, part) for part in value)
            case "minItems" | "maxItems":
                return bool(len(value) >= wanted if keyword == "minItems" else len(value) <= wanted)
        return True


def _string(keyword: str, wanted: Any, value: str) -> bool:
    match keyword:
        case "minLength" | "maxLength":
            return bool(len(value) >= wanted if keyword == "minLength" else len(value) <= wanted)
        case "pattern":
            return compiled(wanted, ignore_case=False).search(value) is not None
    return True


def _number(keyword: str, wanted: Any, value: float) -> bool:
    match keyword:
        case "minimum":
            return bool(value >= wanted)
        case "maximum":
            return bool(value <= wanted)
        case "exclusiveMinimum":
            return bool(value > wanted)
        case "exclusiveMaximum":
            return bool(value < wanted)
        case "multipleOf":
            return Fraction(str(value)) % Fraction(str(wanted)) == 0
    return True


def _equal(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 is 1.0, and no boolean is a number."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[name], right[name]) for name in left)
    return bool(left == right)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_types(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return isinstance(names, list) and bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def _is_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


FORMS: dict[str, Callable[[Any], bool]] = {
    "$ref": lambda value: isinstance(value, str),
    "$defs": lambda value: isinstance(value, dict),
    "definitions": lambda value: isinstance(value, dict),
    "type": _is_types,
    "enum": lambda value: isinstance(value, list) and bool(value),
    "const": lambda _value: True,
    "anyOf": _is_schemas,
    "oneOf": _is_schemas,
    "allOf": _is_schemas,
    "not": _is_schema,
    "properties": lambda value: isinstance(value, dict),
    "additionalProperties": _is_schema,
    "required": _is_names,
    "minProperties": _is_count,
    "maxProperties": _is_count,
    "items": _is_schema,
    "minItems": _is_count,
    "maxItems": _is_count,
    "minLength": _is_count,
    "maxLength": _is_count,
    "pattern": lambda value: isinstance(value, str) and len(value) <= 1000,
    "minimum": _is_number,
    "maximum": _is_number,
    "exclusiveMinimum": _is_number,
    "exclusiveMaximum": _is_number,
    "multipleOf": lambda value: _is_number(value) and value > 0,
}
"""Every keyword that constrains, and the form of its value."""
