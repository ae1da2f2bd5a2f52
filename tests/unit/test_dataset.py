"""Data sets: CSV and JSON lines, read strictly, and refused with one kind of error."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.evals import dataset
from appliance.evals.dataset import Dataset
from attest.digest import digest_of
from attest.errors import MalformedInput

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def read(data: bytes | str, form: Literal["csv", "jsonl", "json", "text"]) -> list[dict[str, Any]]:
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


def packed(data: bytes, **more: Any) -> list[dict[str, Any]]:
    value = {"path": "rows", "digest": digest_of(b""), "format": "text", "compression": "gzip", **more}
    return dataset.read(data, Dataset.model_validate(value))


def test_lines_and_arrays() -> None:
    assert read("a\r\n\nb c\n", "text") == [{"text": "a"}, {"text": "b c"}]
    assert read('\ufeff[{"a": 1}, {"a": [2]}]', "json") == [{"a": 1}, {"a": [2]}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{}", "array"), ("[1]", "item 0"), ("[]", "at least one row"), ("[", "line 1"), ('[{"a": 1, "a": 2}]', "twice")],
)
def test_arrays_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        read(text, "json")


def test_a_packed_file() -> None:
    assert packed(gzip.compress(b"a\nb\n")) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"a\n", "expected gzip"),
        (b"", "whole gzip member"),
        (gzip.compress(b"a" * 99)[:-4], "whole gzip member"),
        (gzip.compress(b"a") + b"b", "whole gzip member"),
        (gzip.compress(b"a") * 2, "whole gzip member"),
        (gzip.compress(b"a")[:-8] + bytes(8), "expected gzip"),
    ],
)
def test_packed_files_that_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        packed(data)


def test_a_packed_file_may_not_become_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MAX_BYTES", 1000)
    with pytest.raises(MalformedInput, match="at most 1000 bytes unpacked"):
        packed(gzip.compress(b"a" * 1001))


def test_columns_of_a_file() -> None:
    assert packed(gzip.compress(b"a"), columns={"subject": "law"}) == [{"text": "a", "subject": "law"}]
    with pytest.raises(MalformedInput, match="text"):
        packed(gzip.compress(b"a"), columns={"text": "law"})


def bare(text: str) -> list[dict[str, Any]]:
    value = {"path": "rows", "digest": digest_of(b""), "format": "csv", "quotes": "bare"}
    return dataset.read(text.encode(), Dataset.model_validate(value))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('"x","y"', [("x", "y")]),
        ('"say "hi", you","y"', [('say "hi", you', "y")]),
        ('""a"",""b""', [('"a"', '"b"')]),
        ('"a","b "c"",', None),
        ('"two\nlines",3\n"next",4\n', [("two\nlines", "3"), ("next", "4")]),
        ('"a ["x", "y"]","b"\r\nplain,""', [('a ["x", "y"]', "b"), ("plain", "")]),
        ('"a","b","c"', None),
        ('"a', None),
        ('a"b,c', None),
    ],
)
def test_quotation_marks_as_they_are(text: str, rows: list[tuple[str, str]] | None) -> None:
    if rows is None:
        with pytest.raises(MalformedInput, match="row 0"):
            bare("p,q\n" + text)
    else:
        assert [tuple(row.values()) for row in bare("p,q\n" + text)] == rows


@given(st.text(st.sampled_from('",\na1'), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(MalformedInput):
        assert all(set(row) == {"p", "q"} for row in bare("p,q\n" + text))


def test_every_published_file_of_mmlu_is_read(data: Path) -> None:
    files = sorted((data / "datasets/mmlu_subset200").glob("*.csv"))
    assert files
    for path in files:
        rows = bare(path.read_text("utf-8"))
        assert len(rows) >= 100
        assert {row["answer"] for row in rows} <= set("0123")
