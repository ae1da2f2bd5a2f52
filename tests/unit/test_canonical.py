"""Strict JSON and its canonical form: what is read, what is refused, and that nothing makes it fail otherwise."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from attest import canonical
from attest.canonical import MAX_DEPTH, MAX_INTEGER, Model
from attest.errors import MalformedInput, VitrineError

VECTORS = Path("signing") / "rfc8785-jcs"
INTEGERS = st.integers(-MAX_INTEGER, MAX_INTEGER)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | INTEGERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)


class Inner(Model):
    """A part of a model."""

    name: str


class Outer(Model):
    """A model with everything that matters here."""

    count: int
    parts: tuple[Inner, ...] = ()
    note: str | None = None
    kind_: str = Field(default="x", alias="_kind")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0", 0),
        (" \t\r\n[ ] \n", []),
        ("9007199254740991", MAX_INTEGER),
        ("-9007199254740991", -MAX_INTEGER),
        ("1.5", 1.5),
        ("1e5", 100000.0),
        ("100000000000000000000.0", 1e20),
        ("true", True),
        ("null", None),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ('"\\u0000\\/"', "\x00/"),
        ('"\ufeff\u2028\x7f"', "\ufeff\u2028\x7f"),
        ('{"__proto__":1,"":2}', {"__proto__": 1, "": 2}),
        ('{"a":1,"A":2,"\\u00e5":3,"a\\u030a":4}', {"a": 1, "A": 2, "\u00e5": 3, "a\u030a": 4}),
    ],
)
def test_reads_json(text: str, value: Any) -> None:
    found = canonical.loads(text.encode())
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Expecting value"),
        (" ", "Expecting value"),
        ("nul", "Expecting value"),
        ("'a'", "Expecting value"),
        ("1 2", "Extra data"),
        ("{}{}", "Extra data"),
        ("01", "Extra data"),
        ("1.", "Extra data"),
        (".5", "Expecting value"),
        ("+1", "Expecting value"),
        ("--1", "Expecting value"),
        ("[1,]", "Expecting value"),
        ('{"a":1,}', "double quotes"),
        ("{a:1}", "double quotes"),
        ("// no\n1", "Expecting value"),
        ('"\t"', "control character"),
        ('"a', "Unterminated"),
        ("\x0c1", "Expecting value"),
        ("\u00a01", "Expecting value"),
        ("NaN", "found NaN"),
        ("Infinity", "found Infinity"),
        ('{"a":[-Infinity]}', "found -Infinity"),
        ("1e400", "beyond float64"),
        ("-1e400", "beyond float64"),
        ("9007199254740992", "2\\^53"),
        ("-9007199254740992", "2\\^53"),
        ("10000000000000000", "2\\^53"),
        ("9" * 5000, "5000 digits"),
        ('{"a":1,"a":1}', "'a' twice"),
        ('{"a":1,"\\u0061":2}', "'a' twice"),
        ('[{"b":{"":0,"":0}}]', "'' twice"),
        ("\ufeff1", "byte-order mark"),
        ('"\\ud800"', "lone surrogate"),
        ('"\\ude00\\ud83d"', "lone surrogate"),
        ('{"\\udfff":1}', "lone surrogate"),
        ('[[{"a":["x\\ud800y"]}]]', "lone surrogate"),
    ],
)
def test_refuses_what_parsers_disagree_on(text: str, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem) as caught:
        canonical.loads(text.encode(), "the thing")
    assert caught.value.what == "the thing"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"\xe2\x82',
        "1".encode("utf-16"),
        "1".encode("utf-16-le"),
        "1".encode("utf-32"),
        "\ufeff{}".encode(),
        b"1\x00",
    ],
)
def test_refuses_other_encodings(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        canonical.loads(data)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_ends_where_it_says(opening: str, closing: str) -> None:
    def nested(levels: int) -> bytes:
        return (opening * levels + ("1" if opening != "[" else "") + closing * levels).encode()

    assert canonical.loads(nested(MAX_DEPTH))
    with pytest.raises(MalformedInput, match="levels"):
        canonical.loads(nested(MAX_DEPTH + 1))


def test_depth_is_not_the_number_of_brackets() -> None:
    assert len(canonical.loads(("[" + "[]," * 500 + "{}]").encode())) == 501
    assert canonical.loads(('"' + "[{" * 200 + '"').encode()) == "[{" * 200
    assert canonical.loads(('{"\\"' + "[" * 200 + '":"\\\\"}').encode()) == {'"' + "[" * 200: "\\"}


@pytest.mark.parametrize("bomb", ["[", '{"a":', "[{", '["\\\\",['])
def test_nesting_bombs_are_refused_fast(bomb: str) -> None:
    data = (bomb * 300_000).encode()
    started = time.monotonic()
    with pytest.raises(MalformedInput):
        canonical.loads(data)
    assert time.monotonic() - started < 2


def test_a_string_that_only_looks_closed_does_not_hide_depth() -> None:
    with pytest.raises(MalformedInput, match="levels"):
        canonical.loads(('["\\\\",' + "[" * 100 + "]" * 101).encode())


@settings(max_examples=50)
@given(VALUES)
def test_round_trip(value: Any) -> None:
    data = canonical.dumps(value)
    assert canonical.loads(data) == value
    assert canonical.dumps(canonical.loads(data)) == data


@settings(max_examples=50)
@given(VALUES)
def test_spelling_does_not_matter_to_the_canonical_form(value: Any) -> None:
    loose = json.dumps(value, indent=2, ensure_ascii=True).encode()
    assert canonical.dumps(canonical.loads(loose)) == canonical.dumps(value)


@given(st.dictionaries(TEXTS, INTEGERS, max_size=6))
def test_key_order_does_not_matter_to_the_canonical_form(value: dict[str, int]) -> None:
    assert canonical.dumps(dict(reversed(value.items()))) == canonical.dumps(value)


@given(st.binary(max_size=40) | st.text('[]{}",:\\ue0-1.ENda \n\ufeff\x00', max_size=30).map(str.encode))
@example(b'{"a":1' + b"," * 40)
@example(b"]" * 70 + b"[" * 70)
@example(b"-")
def test_reads_no_more_than_json_and_raises_nothing_else(data: bytes) -> None:
    try:
        value = canonical.loads(data)
    except MalformedInput:
        return
    assert value == json.loads(data)


@given(st.floats())
def test_floats_are_refused_in_the_canonical_form(value: float) -> None:
    for holder in (value, [value], {"a": {"b": (1, value)}}):
        with pytest.raises(TypeError, match="decimal string"):
            canonical.dumps(holder)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_finite_floats_are_read(value: float) -> None:
    found = canonical.loads(repr(value).encode())
    assert found == value
    assert math.copysign(1, found) == math.copysign(1, value)


@settings(max_examples=200)
@given(VALUES)
@example({"\U0001f600": 1, "\ufb33": 2})
@example([True, None, {"b\x7f": "\x1f\u2028", "a": [MAX_INTEGER, ""]}])
def test_the_canonical_form_is_that_of_the_reference(value: Any) -> None:
    data = rfc8785.dumps(value)
    assert canonical.dumps(value) == data
    assert canonical.loads_canonical(data) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a":1 }', "another spelling"),
        ('{"b":1,"a":2}', "another spelling"),
        ('{"a":1,"a":1}', "another spelling"),
        ('{"a":1,"a":2}', "another spelling"),
        ('"\\u0041"', "another spelling"),
        ('"\\ud800"', "another spelling"),
        ('"\\/"', "another spelling"),
        ("-0", "another spelling"),
        (" 1", "Expecting"),
        ('{"\u00e9":1,"\u00e9":1}', "twice"),
        ('{"\u00e9":1,"a":2}', "another spelling"),
        ('{"\ufb33":1,"\U0001f600":2}', "another spelling"),
        ("1.5", "decimal string"),
        ('{"a":1e2}', "decimal string"),
        ('["\u00e9",1.5]', "decimal string"),
        ("NaN", "found NaN"),
        ("9007199254740992", "2\\^53"),
        ("[" * 65 + "]" * 65, "levels"),
        ("{", "Expecting"),
    ],
)
def test_only_the_canonical_form_is_canonical(text: str, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem) as caught:
        canonical.loads_canonical(text.encode(), "the thing")
    assert caught.value.what == "the thing"


@pytest.mark.parametrize("spelling", ["{}", " {}", "[1,{}]", "-{}", "[-{}]", '{{"a":{}}}', '{{"a": {}}}', "\t{}\n"])
def test_a_long_integer_is_seen_wherever_it_stands(spelling: str) -> None:
    assert canonical.loads(spelling.replace("{}", "9007199254740991").replace("{{", "{").replace("}}", "}").encode())
    with pytest.raises(MalformedInput, match="2\\^53"):
        canonical.loads(spelling.replace("{}", "9007199254740992").replace("{{", "{").replace("}}", "}").encode())


def test_integers_beyond_float64_are_refused_in_the_canonical_form() -> None:
    assert canonical.dumps([MAX_INTEGER, -MAX_INTEGER]) == b"[9007199254740991,-9007199254740991]"
    for value in (MAX_INTEGER + 1, -MAX_INTEGER - 1):
        with pytest.raises(ValueError, match="safe integer"):
            canonical.dumps(value)


def test_canonical_strings_escape_what_rfc_8785_says_and_no_more() -> None:
    text = "".join(map(chr, range(0x20))) + '"\\/\x7f\u0080\u2028\u20ac\U0001f600'
    expected = (
        '"\\u0000\\u0001\\u0002\\u0003\\u0004\\u0005\\u0006\\u0007\\b\\t\\n\\u000b\\f\\r\\u000e\\u000f\\u0010\\u0011'
        "\\u0012\\u0013\\u0014\\u0015\\u0016\\u0017\\u0018\\u0019\\u001a\\u001b\\u001c\\u001d\\u001e\\u001f"
        '\\"\\\\/\x7f\u0080\u2028\u20ac\U0001f600"'
    )
    assert canonical.dumps(text) == expected.encode()


def test_canonical_keys_are_sorted_by_utf_16() -> None:
    # The example of RFC 8785, section 3.2.3: U+1F600 is a surrogate pair, and so sorts before U+FB33.
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    found = list(canonical.loads(canonical.dumps(dict.fromkeys(keys, 0))))
    assert found == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize("name", ["arrays", "french"])
def test_rfc_8785_vectors(data: Path, name: str) -> None:
    value = canonical.loads((data / VECTORS / "input" / f"{name}.json").read_bytes())
    expected = bytes.fromhex((data / VECTORS / "outhex" / f"{name}.txt").read_text())
    assert canonical.dumps(value) == expected
    assert canonical.dumps(canonical.loads(expected)) == expected


def test_the_rfc_8785_vector_with_floats_is_refused(data: Path) -> None:
    with pytest.raises(TypeError):
        canonical.dumps(json.loads((data / VECTORS / "input" / "values.json").read_bytes()))


def test_models_are_read_strictly() -> None:
    found = canonical.parse(Outer, b'{"count":2,"parts":[{"name":"a"}],"_kind":"k"}', "outer")
    assert found == Outer(count=2, parts=(Inner(name="a"),), _kind="k")
    with pytest.raises(ValidationError):
        found.count = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "the whole"),
        ("null", "the whole"),
        ("{}", "count: Field required"),
        ('{"count":"2"}', "count.*found '2'"),
        ('{"count":2.0}', "count.*found 2.0"),
        ('{"count":true}', "count.*found True"),
        ('{"count":1,"surplus":0}', "surplus"),
        ('{"count":1,"kind_":"k"}', "kind_"),
        ('{"count":1,"parts":{"0":{"name":"a"}}}', "parts"),
        ('{"count":1,"parts":[{"name":"a"},{"name":3}]}', "parts.1.name.*found 3"),
        ('{"count":1,"count":1}', "twice"),
    ],
)
def test_models_refuse_and_say_where(text: str, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        canonical.parse(Outer, text.encode(), "outer")


def test_what_is_refused_is_quoted_in_short() -> None:
    for text in (
        '{"count":"' + "x" * 100_000 + '"}',
        '{"' + "k" * 100_000 + '":1}',
        '{"a":1,' + ",".join(f'"k{number}":0' for number in range(2000)) + "}",
        '{"count":1,"parts":[' + ",".join(["0"] * 2000) + "]}",
    ):
        with pytest.raises(MalformedInput) as caught:
            canonical.parse(Outer, text.encode(), "outer")
        assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "value",
    [{"count": {1}}, {"count": float("nan")}, {"count": b"x"}, {"count": 10**5000}, {"note": "\ud800", "count": 1}],
    ids=["set", "nan", "bytes", "5001 digits", "surrogate"],
)
def test_values_that_json_cannot_carry_are_refused(value: Any) -> None:
    with pytest.raises(MalformedInput):
        canonical.validate(Outer, value, "outer")


def test_a_value_nested_too_deep_for_the_stack_is_refused() -> None:
    value: Any = 1
    for _ in range(50_000):
        value = [value]
    with pytest.raises(MalformedInput):
        canonical.validate(Outer, value, "outer")


@settings(max_examples=50)
@given(st.binary(max_size=30) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_parse_raises_only_our_errors(data: bytes) -> None:
    try:
        canonical.parse(Outer, data, "outer")
    except VitrineError as error:
        assert isinstance(error, MalformedInput)


def test_dump_model_uses_the_wire_names_and_leaves_out_what_is_absent() -> None:
    model = Outer(count=1, parts=(Inner(name="\u00e9"),), _kind="k")
    data = canonical.dump_model(model)
    assert data == '{"_kind":"k","count":1,"parts":[{"name":"\u00e9"}]}'.encode()
    assert canonical.parse(Outer, data, "outer") == model
