"""JSON schemas as grammars: every text is valid, what is valid is a text, and what cannot be kept is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from appliance.runtime import gbnf
from appliance.runtime.gbnf import GrammarError
from appliance.runtime.grammar import Constraint, Grammars
from appliance.runtime.schema import to_gbnf
from attest import canonical
from tests.tools.toy_grammar import END, LOGITS, PIECES, TEXTS, accepts

TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
            "required": ["v"],
        }
    },
    "$ref": "#/$defs/tree",
}
SCHEMAS: dict[str, Any] = {
    "judge": {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "maxLength": 20},
            "score": {"type": "integer", "minimum": 1, "maximum": 10},
        },
        "required": ["reason", "score"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "minimum": 0},
            "b": {"enum": ["x\\y", 'q"\n\x7f', "é\u2028", None, True, 3]},
            "c": {"type": ["null", "number"]},
            "d": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        },
        "required": ["b"],
    },
    "all optional": {"type": "object", "properties": {name: {"const": name} for name in 'ab"'}},
    "tree": TREE,
    "map": {"type": "object", "additionalProperties": {"type": "string", "minLength": 2, "maxLength": 3}},
    "any of": {"anyOf": [{"type": "array", "minItems": 2, "items": {"type": "null"}}, {"type": "number"}]},
    "nothing": {"type": "array", "maxItems": 0},
    "empty": {"type": "object", "additionalProperties": False},
    "anything": True,
    "positive": {"type": "integer", "minimum": 1},
    "negative": {"type": "integer", "minimum": -3, "maximum": 2},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_a_schemas_grammar_allows_is_valid(name: str) -> None:
    text, source = to_gbnf(SCHEMAS[name]), random.Random(name)
    grammars, finished = Grammars(PIECES), set()
    for _ in range(60):
        state, said = grammars.constraint(text), b""
        for _ in range(400):
            options = sorted(allowed_tokens(state))
            if END in options and (len(options) == 1 or source.random() < 0.5):
                finished.add(said)
                break
            closing = [token for token in options if TEXTS[token] in (b'"', b"}", b"]")]
            token = source.choice(closing if closing and source.random() < 0.6 else [item for item in options if item])
            state.accept(token)
            said += TEXTS[token]
    assert finished
    for said in finished:
        jsonschema.validate(canonical.loads(said), SCHEMAS[name])


def allowed_tokens(state: Constraint) -> list[int]:
    found: list[int] = np.flatnonzero(np.isfinite(state.mask(LOGITS))).tolist()
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("judge", {"reason": "because", "score": 10}),
        ("optional", {"b": 'q"\n\x7f'}),
        ("optional", {"a": 0, "b": "x\\y", "c": -1.5e10, "d": [True, False]}),
        ("optional", {"b": None, "d": [True]}),
        ("all optional", {}),
        ("all optional", {"b": "b"}),
        ("all optional", {"a": "a", '"': '"'}),
        ("tree", {"v": 1, "kids": [{"v": 2}, {"v": 3, "kids": []}]}),
        ("map", {}),
        ("map", {"a": "bc", "d": "efg"}),
        ("any of", [None, None]),
        ("any of", 0.25),
        ("anything", {"a": [1, "b", None, {}]}),
        ("negative", -3),
    ],
)
def test_what_a_schemas_grammar_has_to_allow(name: str, value: Any) -> None:
    assert accepts(to_gbnf(SCHEMAS[name]), json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$ref": "https://example.org/a.json"}, "into this schema"),
        ({"$ref": "other.json#/a"}, "into this schema"),
        ({"$ref": "#/$defs/none"}, "a part that exists"),
        ({"$ref": 5}, "into this schema"),
        ({"type": "string", "pattern": "^a$"}, "pattern"),
        ({"type": "string", "format": "date"}, "format"),
        ({"oneOf": [{"type": "null"}]}, "anyOf"),
        ({"not": {}}, "a type of"),
        ({"type": "object", "properties": {"a": True}, "minProperties": 1}, "minProperties"),
        ({"type": "object", "required": ["a"]}, "described under properties"),
        ({"type": "object", "properties": {"a": True}, "required": "a"}, "list of names"),
        ({"type": "string", "maxLength": 10**9}, "0 to 1000"),
        ({"type": "string", "minLength": True}, "0 to 1000"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems up to maxItems"),
        ({"type": "integer", "minimum": 3}, "minimum"),
        ({"type": "integer", "minimum": 0, "maximum": 10**6}, "1 to 256 integers"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "1 to 256 integers"),
        ({"type": "number", "minimum": 0}, "minimum"),
        ({"type": "integer", "enum": ["a"]}, "plain values"),
        ({"enum": [[1]]}, "plain values"),
        ({"enum": []}, "1 to 256"),
        ({"enum": list(range(257))}, "1 to 256"),
        ({"const": 0.5}, "fractions"),
        ({"type": "thing"}, "a type of"),
        ({"type": [["null"]]}, "a type of"),
        ({"properties": {}}, "a type of"),
        (False, "an object"),
        ("string", "an object"),
        ({"type": "object", "properties": {str(n): True for n in range(40)}}, "at most 32"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused(schema: Any, problem: str) -> None:
    with pytest.raises(GrammarError, match=problem):
        to_gbnf(schema)


def test_schemas_that_would_grow() -> None:
    deep: Any = {"type": "null"}
    for _ in range(40):
        deep = {"type": "array", "items": deep}
    with pytest.raises(GrammarError, match="32 levels"):
        to_gbnf(deep)
    wide = {"anyOf": [{"anyOf": [{"type": "null"}] * 200}] * 200}
    with pytest.raises(GrammarError, match="2000 parts"):
        to_gbnf(wide)
    with pytest.raises(GrammarError, match="never end"):
        gbnf.parse(to_gbnf({"$ref": "#"}))
    with pytest.raises(GrammarError, match="left recursion"):
        gbnf.parse(to_gbnf({"anyOf": [{"$ref": "#"}, {"type": "null"}]}))
