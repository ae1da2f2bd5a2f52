"""Turns a JSON schema into a GBNF grammar whose every text is JSON that is valid under the schema.

A keyword that cannot be kept is refused, never skipped: what the grammar allows may be less than the schema does, not
more. So objects have their properties in the schema's order and no others, white space is short, numbers have at most
15 digits before and after the point, and strings have no lone surrogates. References lead into the schema itself.
The converter that llama-cpp-python carries skips what it does not know (`minimum`, `not`), and writes constants with a
backslash or a line feed as text that is not their JSON.
"""

from __future__ import annotations

import json
from typing import Any

from appliance.runtime.gbnf import GrammarError
from attest import canonical

MAX_DEPTH = 32
MAX_RULES = 2000
MAX_CHARS = 1 << 16
MAX_COUNT = 1000
MAX_OPTIONS = 256
MAX_OPTIONAL = 32

BUILT_IN = r"""
ws ::= | " " | "\n" [ \t]{0,20}
char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" ([0-9A-CE-Fa-ce-f] [0-9A-Fa-f]{3} | [Dd] [0-7] [0-9A-Fa-f]{2}))
string ::= "\"" char* "\""
integer ::= "-"? ("0" | [1-9] [0-9]{0,14})
number ::= integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
boolean ::= "true" | "false"
null ::= "null"
value ::= object | array | string | number | boolean | null
object ::= "{" ws (string ws ":" ws value (ws "," ws string ws ":" ws value)*)? ws "}"
array ::= "[" ws (value (ws "," ws value)*)? ws "]"
"""
NOTES = {"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples"}
"""Keywords that constrain nothing."""
KEYWORDS: dict[str, set[str]] = {
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum"},
    "number": set(),
    "boolean": set(),
    "null": set(),
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}


def to_gbnf(schema: Any) -> str:
    """The grammar of `schema`, a value that `attest.canonical.loads` returned. Raises `GrammarError`."""
    try:
        canonical.dumps(schema)
    except (TypeError, ValueError, RecursionError):
        raise GrammarError("expected a schema without fractions and not nested deeply, found otherwise") from None
    writer = _Writer(schema)
    writer.rules["root"] = writer.visit(schema, "#", 0)
    while writer.open:
        name, part, where = writer.open.pop()
        writer.rules[name] = writer.visit(part, where, 0)
    text = "".join(f"{name} ::= {rule}\n" for name, rule in writer.rules.items()) + BUILT_IN
    if len(text) > MAX_CHARS:
        raise GrammarError(f"expected a schema that makes a grammar of at most {MAX_CHARS} characters, found more")
    return text


class _Writer:
    """Collects one rule for each part of the schema that is referred to."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._names: dict[str, str] = {}
        self.rules: dict[str, str] = {}
        self.open: list[tuple[str, Any, str]] = []
        """Parts that are referred to and not yet visited: the rule's name, the part, where it stands."""
        self._visited = 0

    def visit(self, schema: Any, where: str, depth: int) -> str:
        """The right side of a rule for `schema`."""
        self._visited += 1
        if depth > MAX_DEPTH or self._visited > MAX_RULES:
            raise GrammarError(f"expected a schema of at most {MAX_DEPTH} levels and {MAX_RULES} parts, found more")
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            raise _error(where, "an object", schema)
        keywords = set(schema) - NOTES
        if "$ref" in keywords:
            self._only(keywords, {"$ref"}, where)
            return self._reference(schema["$ref"], where)
        if "anyOf" in keywords:
            self._only(keywords, {"anyOf"}, where)
            options = _options(schema["anyOf"], f"{where}/anyOf")
            found = [self.visit(option, f"{where}/anyOf/{at}", depth + 1) for at, option in enumerate(options)]
            return " | ".join(found)
        if "const" in keywords or "enum" in keywords:
            self._only(keywords, {"const", "enum", "type"}, where)
            return self._constants(schema, where)
        kind = schema.get("type")
        if isinstance(kind, list):
            self._only(keywords, {"type"}, where)
            kinds = [item if isinstance(item, str) else None for item in _options(kind, where)]
            return " | ".join(self.visit({"type": item}, where, depth + 1) for item in kinds)
        if not isinstance(kind, str) or kind not in KEYWORDS:
            raise _error(where, f"a type of {sorted(KEYWORDS)}, const, enum, anyOf or $ref", kind or sorted(keywords))
        self._only(keywords, KEYWORDS[kind] | {"type"}, where)
        if kind == "object" and keywords != {"type"}:
            return self._object(schema, where, depth)
        if kind == "array" and keywords != {"type"}:
            item = self._part(schema.get("items", True), f"{where}/items", depth)
            least, most = _bounds(schema, "minItems", "maxItems", where)
            return f'"[" ws {_list(item, least, most)} ws "]"'
        if kind == "string" and keywords != {"type"}:
            least, most = _bounds(schema, "minLength", "maxLength", where)
            return f'"\\"" char{{{least},{"" if most is None else most}}} "\\""'
        if kind == "integer" and keywords != {"type"}:
            return _integers(schema, where)
        return kind

    def _part(self, schema: Any, where: str, depth: int) -> str:
        return f"({self.visit(schema, where, depth + 1)})"

    def _only(self, found: set[str], known: set[str], where: str) -> None:
        if found - known:
            raise _error(where, f"no keywords beside {sorted(known)}", sorted(found - known))

    def _reference(self, target: Any, where: str) -> str:
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise _error(where, "a $ref into this schema, '#/...'", target)
        if target not in self._names:
            part = self._schema
            for step in (name.replace("~1", "/").replace("~0", "~") for name in target.split("/")[1:]):
                if not isinstance(part, dict) or step not in part:
                    raise _error(where, "a $ref to a part that exists", target)
                part = part[step]
            name = self._names[target] = f"ref-{len(self._names)}"
            self.open.append((name, part, target))
        return self._names[target]

    def _constants(self, schema: dict[str, Any], where: str) -> str:
        values = [schema["const"]] if "const" in schema else _options(schema["enum"], f"{where}/enum")
        if "const" in schema and "enum" in schema:
            raise _error(where, "const or enum", "both")
        kinds = schema.get("type", list(KEYWORDS))
        kinds = [str(kind) for kind in kinds] if isinstance(kinds, list) else [str(kinds)]
        for value in values:
            if not _kinds(value) & set(kinds):
                raise _error(where, f"plain values of type {kinds}", value)
        return " | ".join(_literal(json.dumps(value, ensure_ascii=False)) for value in values)

    def _object(self, schema: dict[str, Any], where: str, depth: int) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        extra = schema.get("additionalProperties", True)
        if not isinstance(properties, dict) or not isinstance(extra, dict | bool):
            raise _error(where, "properties and additionalProperties as objects", [properties, extra])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _error(where, "a list of names under required", required)
        if missing := sorted(set(required) - set(properties)):
            raise _error(where, "required properties to be described under properties", missing)
        if not properties:
            if extra is False:
                return '"{" ws "}"'
            value = self._part(extra, f"{where}/additionalProperties", depth)
            member = f'(string ws ":" ws {value})'
            return f'"{{" ws {_list(member, 0, None)} ws "}}"'
        members = []
        for name, part in properties.items():
            value = self._part(part, f"{where}/properties/{name}", depth)
            members.append((f'{_literal(json.dumps(name, ensure_ascii=False))} ws ":" ws {value}', name in required))
        if sum(not needed for _, needed in members) > MAX_OPTIONAL:
            raise _error(where, f"at most {MAX_OPTIONAL} properties that are not required", len(members))
        return f'"{{" ws {self._members(members)} ws "}}"'

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """Members in their order, commas only between those that are there: one rule for "some came before"."""
        later, first = "", ""
        for text, needed in reversed(members):
            alone = f"{text} {later}" if later else text
            after = f'ws "," ws {text}'
            first = alone if needed else f"{alone} | {first}" if first else f"({alone})?"
            later = self._named(f"{after} {later}" if needed else f"({after})? {later}")
            first = self._named(first)
        return first

    def _named(self, rule: str) -> str:
        name = f"part-{len(self.rules)}"
        self.rules[name] = rule
        return name


def _list(item: str, least: int, most: int | None) -> str:
    if most == 0:
        return ""
    rest = f'(ws "," ws {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
    return f"{item} {rest}" if least else f"({item} {rest})?"


def _integers(schema: dict[str, Any], where: str) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if most is None and least in (0, 1):
        return '"0" | [1-9] [0-9]{0,14}' if least == 0 else "[1-9] [0-9]{0,14}"
    for bound in (least, most):
        if type(bound) is not int:
            raise _error(where, "minimum and maximum as integers, or a minimum of 0 or 1 alone", bound)
    assert least is not None and most is not None
    if not 0 <= most - least < MAX_OPTIONS:
        raise _error(where, f"a range of 1 to {MAX_OPTIONS} integers", f"{least} to {most}")
    return " | ".join(_literal(str(value)) for value in range(least, most + 1))


def _bounds(schema: dict[str, Any], least: str, most: str, where: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    for bound in (low, high):
        if bound is not None and not (type(bound) is int and 0 <= bound <= MAX_COUNT):
            raise _error(where, f"{least} and {most} from 0 to {MAX_COUNT}", bound)
    if high is not None and high < low:
        raise _error(where, f"{least} up to {most}", [low, high])
    return low, high


def _options(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_OPTIONS:
        raise _error(where, f"a list of 1 to {MAX_OPTIONS}", value)
    return value


def _kinds(value: Any) -> set[str]:
    """The types that a constant has; fractions do not come here."""
    known = {bool: {"boolean"}, int: {"integer", "number"}, str: {"string"}, type(None): {"null"}}
    return known.get(type(value), set())


def _literal(text: str) -> str:
    """A GBNF literal of exactly `text`."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in escaped) + '"'


def _error(where: str, expected: str, found: object) -> GrammarError:
    return GrammarError(f"schema {where}: expected {expected}, found {str(found)[:120]}")
