"""Reads data sets, strictly: UTF-8, no missing or surplus columns, bounded sizes. Refuses with `MalformedInput`."""

from __future__ import annotations

import csv
import io
from typing import Any

from appliance.evals.suite import Dataset
from attest import canonical
from attest.errors import MalformedInput

MAX_BYTES = 1 << 30
MAX_FIELD_CHARS = 4 << 20

Row = dict[str, Any]
"""Column to value: text from CSV, any JSON value from JSON lines."""


def read(data: bytes, dataset: Dataset) -> list[Row]:
    """The rows of `data`, in order; at least one."""
    what = f"data set {dataset.path}"
    if len(data) > MAX_BYTES:
        raise MalformedInput(what, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    rows = _csv(data, what) if dataset.format == "csv" else _jsonl(data, what)
    if not rows:
        raise MalformedInput(what, "expected at least one row, found none")
    return rows


def _csv(data: bytes, what: str) -> list[Row]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedInput(what, f"expected UTF-8, found an invalid byte at offset {error.start}") from None
    csv.field_size_limit(MAX_FIELD_CHARS)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if not header or len(set(header)) != len(header) or "" in header:
            raise MalformedInput(what, f"expected a first line of unique column names, found {header[:20]}")
        rows = []
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise MalformedInput(
                    what, f"line {reader.line_num}: expected {len(header)} columns, found {len(fields)}"
                )
            rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise MalformedInput(what, f"line {reader.line_num}: {error}") from None
    return rows


def _jsonl(data: bytes, what: str) -> list[Row]:
    rows = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        row = canonical.loads(line, f"{what}, line {number}")
        if not isinstance(row, dict):
            raise MalformedInput(what, f"line {number}: expected an object, found {type(row).__name__}")
        rows.append(row)
    return rows
