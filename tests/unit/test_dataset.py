"""Data sets: CSV and JSON lines, read strictly, and refused with one kind of error."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.evals import dataset
from appliance.evals.suite import Dataset
from attest.digest import digest_of
from attest.errors import MalformedInput

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def read(data: bytes | str, form: Literal["csv", "jsonl"]) -> list[dict[str, Any]]:
    raw = data.encode() if isinstance(data, str) else data
    return dataset.read(raw, Dataset(path="rows", digest=digest_of(b""), format=form))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n", [{"a": "1", "b": "2"}]),
        ("a,b\r\n1,2\r\n3,4", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        ("a,b\r1,2", [{"a": "1", "b": "2"}]),
        ('a,b\n"x,""y""\nz",\n', [{"a": 'x,"y"\nz', "b": ""}]),
        ('a,b\n"x\r\ny",2\n', [{"a": "x\r\ny", "b": "2"}]),
        ("\ufeffa\n1\n", [{"a": "1"}]),
        ("a,b\n\n1,2\n\n\n", [{"a": "1", "b": "2"}]),
        ("a, b\n 1 ,2\n", [{"a": " 1 ", " b": "2"}]),
        ("a\n\u2028\u0085\n", [{"a": "\u2028\u0085"}]),
        ("a\n=1+1\n", [{"a": "=1+1"}]),
        ("a\nNaN\n", [{"a": "NaN"}]),
    ],
)
def test_csv(text: str, rows: list[dict[str, str]]) -> None:
    assert read(text, "csv") == rows


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "column names"),
        (b"\n", "column names"),
        (b"a,a\n1,2\n", "unique column names"),
        (b"a,\n1,2\n", "column names"),
        (b"a,b\n", "at least one row"),
        (b"a,b\n\n\n", "at least one row"),
        (b"a,b\n1\n", "line 2: expected 2 columns, found 1"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: expected 2 columns, found 3"),
        (b'a,b\n"1,2\n', "line 2"),
        (b'a,b\n"1"x,2\n', "line 2"),
        (b"a\n\xff\n", "offset 2"),
        ("a\n1\n".encode("utf-16"), "UTF-8"),
        (b"a\n" + b"x" * (dataset.MAX_FIELD_CHARS + 1), "field larger"),
    ],
)
def test_csv_that_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        read(data, "csv")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"a":1}\n{"a":[{}]}', [{"a": 1}, {"a": [{}]}]),
        ('{"a":"x\\ny"}\r\n\r\n {"a":null} \n', [{"a": "x\ny"}, {"a": None}]),
        ('{"a":"\u2028\u0085\x0b"}'.replace("\x0b", "\\u000b"), [{"a": "\u2028\u0085\x0b"}]),
        ('{"a":1}\n{"b":2}\n', [{"a": 1}, {"b": 2}]),
    ],
)
def test_json_lines(text: str, rows: list[dict[str, Any]]) -> None:
    assert read(text, "jsonl") == rows


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "at least one row"),
        (b"\n \n\r\n", "at least one row"),
        (b"[]", "line 1: expected an object, found list"),
        (b'{"a":1}\n"x"', "line 2: expected an object, found str"),
        (b'{"a":1}\n\nnull', "line 3: expected an object, found NoneType"),
        (b'{"a":1} {"a":2}', "line 1.*Extra data"),
        (b'{"a":\n1}', "line 1"),
        (b'{"a":1}\n{"a":1,"a":2}', "line 2.*twice"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":1e999}', "beyond float64"),
        (b'{"a":9007199254740993}', "2\\^53"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'\xef\xbb\xbf{"a":1}', "byte-order mark"),
        (b'{"a":1}\n\xff', "line 2.*UTF-8"),
        (b'{"a":' + b"[" * 1000, "levels"),
    ],
)
def test_json_lines_that_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        read(data, "jsonl")


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MAX_BYTES", 8)
    assert read('{"a":12}', "jsonl") == [{"a": 12}]
    with pytest.raises(MalformedInput, match="at most 8 bytes, found 9"):
        read('{"a":123}', "jsonl")


@given(
    st.lists(TEXTS.filter(bool), min_size=1, max_size=4, unique=True).flatmap(
        lambda names: st.lists(st.fixed_dictionaries(dict.fromkeys(names, TEXTS)), min_size=1, max_size=4)
    )
)
def test_csv_round_trip(rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    assert read("\ufeff" + text.getvalue(), "csv") == rows


@settings(max_examples=50)
@given(st.lists(st.dictionaries(TEXTS, TEXTS | st.integers(0, 99) | st.lists(TEXTS)), min_size=1, max_size=4))
def test_json_lines_round_trip(rows: list[dict[str, Any]]) -> None:
    assert read("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "jsonl") == rows


@given(st.binary(max_size=40) | st.text('a,"\r\n{}[]:1\0\ufeff', max_size=30).map(str.encode))
def test_any_bytes_give_rows_or_our_error(data: bytes) -> None:
    for form in ("csv", "jsonl"):
        try:
            rows = read(data, form)  # type: ignore[arg-type]
        except MalformedInput:
            continue
        assert rows
        assert all(isinstance(row, dict) for row in rows)
