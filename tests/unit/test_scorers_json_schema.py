"""The scorer `json-schema` against the jsonschema library, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from appliance.evals.scorers import Reference, Scored, Unscored, score
from appliance.evals.scorers.json_schema import JsonSchema

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -2.5]) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["null", "boolean", "object", "array", "string", "number", "integer"])
COUNTS = st.integers(0, 3)


def schemas() -> st.SearchStrategy[Any]:
    leaf = st.booleans() | st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "minimum": st.integers(-2, 2),
            "exclusiveMaximum": st.integers(-2, 2) | st.just(0.5),
            "multipleOf": st.sampled_from([1, 2, 0.5]),
            "minLength": COUNTS,
            "maxLength": COUNTS,
            "pattern": st.sampled_from(["^a", "b$", "a|b"]),
            "minItems": COUNTS,
            "maxItems": COUNTS,
            "minProperties": COUNTS,
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
        },
    )
    return st.recursive(
        leaf,
        lambda inner: st.fixed_dictionaries(
            {},
            optional={
                "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
                "additionalProperties": inner,
                "items": inner,
                "anyOf": st.lists(inner, min_size=1, max_size=2),
                "oneOf": st.lists(inner, min_size=1, max_size=2),
                "allOf": st.lists(inner, min_size=1, max_size=2),
                "not": inner,
                "$ref": st.just("#/$defs/x"),
            },
        ),
        max_leaves=5,
    )


def scorer(schema: Any, **settings: Any) -> JsonSchema:
    return JsonSchema.model_validate({"scorer": "json-schema", "json_schema": schema, **settings})


@settings(max_examples=300, deadline=None)
@given(schemas(), VALUES)
def test_the_same_as_the_library(schema: Any, value: Any) -> None:
    whole = {"$defs": {"x": {"type": ["integer", "array"]}}, "allOf": [schema]}
    expected = jsonschema.Draft202012Validator(whole).is_valid(value)
    assert score(scorer(whole), json.dumps(value), Reference()) == Scored("1" if expected else "0")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"a": 1}', "1"),
        (' {"a": 1}\n', "1"),
        ('{"a": 1, "a": 1}', "0"),
        ('{"a": NaN}', "0"),
        ('{"a": 1} x', "0"),
        ("[" * 100_000, "0"),
        ("\ud800", "0"),
        ("", "0"),
        ('```json\n{"a": 1}\n```', "0"),
    ],
)
def test_replies(reply: str, expected: str) -> None:
    one = scorer({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    assert score(one, reply, Reference()) == Scored(expected)


def test_a_fence_may_be_allowed() -> None:
    one = scorer({"const": 5}, fenced=True)
    assert [score(one, reply, Reference()) for reply in ("5", "```json\n5\n```", "``` 5```", "```json\n5")] == [
        Scored("1"),
        Scored("1"),
        Scored("1"),
        Scored("0"),
    ]


@pytest.mark.parametrize(
    "schema",
    [
        {"typ": "null"},
        {"type": "nul"},
        {"type": []},
        {"properties": {"a": {"minimun": 1}}},
        {"items": [{}]},
        {"items": {"required": "a"}},
        {"$ref": "https://example.org/x"},
        {"$ref": "#/$defs/none"},
        {"$defs": {"a": {"tipe": "null"}}},
        {"pattern": "(?=a)"},
        {"anyOf": []},
        {"minLength": -1},
        {"multipleOf": 0},
        {"not": 5},
        {"enum": []},
    ],
)
def test_what_is_not_known_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        scorer(schema)


def test_a_schema_that_leads_into_itself_or_multiplies_is_unscored() -> None:
    itself = scorer({"$ref": "#"})
    doubling = {"$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}}
    doubling["$defs"]["d40"] = {}
    for one in (itself, scorer(doubling | {"$ref": "#/$defs/d0"})):
        assert isinstance(score(one, "{}", Reference()), Unscored)


def test_schemas_and_replies_that_are_deep_at_once_are_unscored() -> None:
    schema: dict[str, Any] = {"items": {"$ref": "#"}}
    for _ in range(30):
        schema = {"allOf": [schema]}
    reply = "[" * 60 + "]" * 60
    assert isinstance(score(scorer(schema), reply, Reference()), Unscored)
    assert score(scorer({"items": {"$ref": "#"}}), reply, Reference()) == Scored("1")


def test_a_schema_may_name_itself_for_the_parts() -> None:
    tree = scorer({"type": "array", "items": {"$ref": "#"}})
    assert score(tree, "[[], [[[]]]]", Reference()) == Scored("1")
    assert score(tree, "[[], [[5]]]", Reference()) == Scored("0")
