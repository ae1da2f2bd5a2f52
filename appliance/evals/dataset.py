"""Data sets: which file, by digest, and how its rows are read. Strict and bounded; refuses with `MalformedInput`."""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import Field

from attest import canonical
from attest.canonical import Model
from attest.digest import Digest
from attest.errors import MalformedInput

MAX_BYTES = 1 << 30
"""Of a file, and of what a compressed one becomes."""
MAX_FIELD_CHARS = 4 << 20
BARE_FIELD = re.compile(
    r'"(?P<quoted>.*?)"(?=,"|,[^",\n]*(?:\n|\Z)|\n|\Z)|(?P<plain>[^",\n]*)(?=[,\n]|\Z)',
    re.DOTALL,
)

Row = dict[str, Any]
"""Column to value: text from CSV, any JSON value from JSON."""


class Dataset(Model):
    """One file of rows."""

    path: str = Field(min_length=1, max_length=400)
    """The file, relative to the suite file, or to one of the data folders that the command names."""
    digest: Digest
    """Its digest. A file with another one is refused."""
    format: Literal["csv", "jsonl", "json", "text"]
    """`csv`: comma-separated, first line names the columns (RFC 4180). `jsonl`: one JSON object a line. `json`: an
    array of objects. `text`: a line is a row, with one column, `text`."""
    quotes: Literal["doubled", "bare"] = "doubled"
    """Of `csv`: how a quotation mark inside a quoted field is written, twice as in RFC 4180, or as it is. With `bare` a
    quoted field ends at a quotation mark before a comma and a quotation mark, before a last field without quotes, or at
    a line's end: some published files were written so, and can be read in no other way."""
    compression: Literal["none", "gzip"] = "none"
    """How the file is packed; the digest is that of the packed file."""
    columns: dict[str, str] = Field(default_factory=dict, max_length=32)
    """Columns that all rows of this file have besides, and the text in them: where the file's name says something."""


def read(data: bytes, dataset: Dataset) -> list[Row]:
    """The rows of `data`, in order; at least one."""
    what = f"data set {dataset.path}"
    if len(data) > MAX_BYTES:
        raise MalformedInput(what, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    if dataset.compression == "gzip":
        data = _gunzip(data, what)
    plain_csv = _csv if dataset.quotes == "doubled" else _bare_csv
    readers: dict[str, Callable[[bytes, str], Iterator[Row]]] = {
        "csv": plain_csv,
        "jsonl": _jsonl,
        "json": _json,
        "text": _lines,
    }
    rows = [_with(dataset.columns, row, what) for row in readers[dataset.format](data, what)]
    if not rows:
        raise MalformedInput(what, "expected at least one row, found none")
    return rows


def _with(columns: dict[str, str], row: Row, what: str) -> Row:
    if both := sorted(columns.keys() & row.keys()):
        raise MalformedInput(what, f"expected columns that the file has not, found {both}")
    return {**row, **columns}


def _gunzip(data: bytes, what: str) -> bytes:
    """One gzip member, whole, with nothing after it."""
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        found = unpacker.decompress(data, MAX_BYTES + 1)
    except zlib.error as error:
        raise MalformedInput(what, f"expected gzip, found: {error}") from None
    if len(found) > MAX_BYTES:
        raise MalformedInput(what, f"expected at most {MAX_BYTES} bytes unpacked, found more")
    if not unpacker.eof or unpacker.unused_data:
        raise MalformedInput(what, "expected one whole gzip member, found a cut one, or something after it")
    return found


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedInput(what, f"expected UTF-8, found an invalid byte at offset {error.start}") from None


def _csv(data: bytes, what: str) -> Iterator[Row]:
    text = _text(data, what)
    csv.field_size_limit(MAX_FIELD_CHARS)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = _header(next(reader, []), what)
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise MalformedInput(
                    what, f"line {reader.line_num}: expected {len(header)} columns, found {len(fields)}"
                )
            yield dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise MalformedInput(what, f"line {reader.line_num}: {error}") from None


def _header(names: list[str], what: str) -> list[str]:
    if not names or len(set(names)) != len(names) or "" in names:
        raise MalformedInput(what, f"expected a first line of unique column names, found {names[:20]}")
    return names


def _bare_csv(data: bytes, what: str) -> Iterator[Row]:
    text = _text(data, what).replace("\r\n", "\n").removesuffix("\n")
    header: list[str] = []
    fields: list[str] = []
    at, row = 0, 0
    while at <= len(text):
        field = BARE_FIELD.match(text, at)
        if field is None:
            raise MalformedInput(what, f"row {row}: expected a field and a comma or a line's end, found neither")
        fields.append(field["plain"] if field["quoted"] is None else field["quoted"])
        at = field.end() + 1
        if field.end() < len(text) and text[field.end()] == ",":
            continue
        if not header:
            header = _header(fields, what)
        elif len(fields) != len(header):
            raise MalformedInput(what, f"row {row}: expected {len(header)} columns, found {len(fields)}")
        else:
            yield dict(zip(header, fields, strict=True))
            row += 1
        fields = []


def _jsonl(data: bytes, what: str) -> Iterator[Row]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        row = canonical.loads(line, f"{what}, line {number}")
        if not isinstance(row, dict):
            raise MalformedInput(what, f"line {number}: expected an object, found {type(row).__name__}")
        yield row


def _json(data: bytes, what: str) -> Iterator[Row]:
    rows = canonical.loads(_text(data, what).encode(), what)
    if not isinstance(rows, list):
        raise MalformedInput(what, f"expected an array of objects, found {type(rows).__name__}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise MalformedInput(what, f"item {number}: expected an object, found {type(row).__name__}")
        yield row


def _lines(data: bytes, what: str) -> Iterator[Row]:
    for line in _text(data, what).split("\n"):
        if text := line.removesuffix("\r"):
            yield {"text": text}
