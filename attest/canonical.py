"""Strict JSON in, RFC 8785 out.

`loads` refuses what JSON parsers disagree on: duplicate keys, NaN and infinities, trailing data, a byte-order mark,
lone surrogates, integers outside +-(2^53 - 1), nesting beyond `MAX_DEPTH`. `parse` reads a pydantic model from such
JSON. `dumps` writes the canonical form (RFC 8785); floats are refused there, scores travel as decimal strings.
`loads_canonical` reads that form alone. Where Python's own encoder, which is several times faster than `rfc8785`, gives
the same bytes, it is the one that writes them: keys in ASCII sort alike by code point and by UTF-16.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn, TypeVar

import rfc8785
from pydantic import BaseModel, ConfigDict, ValidationError

from attest.errors import MalformedInput

MAX_DEPTH = 64
MAX_INTEGER = 2**53 - 1
MAX_DIGITS = 16
_ANY_DIGIT = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * MAX_DIGITS
"""What stands in every text with an integer beyond `MAX_INTEGER`, once all of its digits are alike."""
_NO_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[^"\[\]{}]++', re.DOTALL)
"""Strings (one that is not closed goes to the end), and all else that is not a bracket."""
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":"))

JSON = Any
"""What `loads` returns: dict, list, str, int, float, bool or None."""


class Model(BaseModel):
    """Base of every model that crosses a boundary: frozen, no unknown fields, no coercion between types."""

    # Validators are built when they are first used: a command needs few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


M = TypeVar("M", bound=BaseModel)


class _RefusedError(ValueError):
    """JSON that a decoder of ours refuses. It leaves this module as `MalformedInput`."""


def loads(data: bytes, what: str = "JSON", *, levels: int = MAX_DEPTH) -> JSON:
    """The value of the strict JSON text `data` (UTF-8). Raises `MalformedInput`, whose subject is `what`."""
    try:
        text = data.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise MalformedInput(what, f"expected UTF-8, found an invalid byte at offset {error.start}") from None
    if text.startswith("\ufeff"):
        raise MalformedInput(what, "expected JSON, found a byte-order mark")
    _check_depth(text, what, levels)
    value = _read(_decoder(data, canonical=False).decode, text, what)
    if "\\u" in text:
        _check_text(value, what)
    return value


def loads_canonical(data: bytes, what: str = "JSON", *, levels: int = MAX_DEPTH) -> JSON:
    """The value of the canonical JSON text `data`. Raises `MalformedInput`, also for another spelling of the same."""
    if data.isascii():
        # Written again, it differs where a key comes twice or out of order, where there are spaces, or more than one
        # value, so that no decoder has to look for that.
        text = data.decode("ascii")
        _check_depth(text, what, levels)
        value, _ = _read(_decoder(data, canonical=True).raw_decode, text, what)
        same = _ENCODER.encode(value) == text
    else:
        value = loads(data, what, levels=levels)
        try:
            same = dumps(value) == data
        except TypeError as error:
            raise MalformedInput(what, str(error)) from None
    if not same:
        raise MalformedInput(what, "expected canonical JSON (RFC 8785), found another spelling of it")
    return value


def _decoder(data: bytes, *, canonical: bool) -> json.JSONDecoder:
    # Token ids are most of what a transcript holds; without a long number there is no integer to be looked at.
    return _made_decoder(canonical, _LONG_NUMBER in data.translate(_ANY_DIGIT))


@cache
def _made_decoder(canonical: bool, long: bool) -> json.JSONDecoder:
    parse_int = _integer if long else int
    if canonical:
        return json.JSONDecoder(parse_int=parse_int, parse_constant=_constant, parse_float=_no_float)
    return json.JSONDecoder(
        parse_int=parse_int, parse_constant=_constant, parse_float=_finite, object_pairs_hook=_unique
    )


def _read(read: Callable[[str], JSON], text: str, what: str) -> JSON:
    try:
        return read(text)
    except json.JSONDecodeError as error:
        raise MalformedInput(what, f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except _RefusedError as error:
        raise MalformedInput(what, str(error)) from None


def _unique(items: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(items)
    if len(value) != len(items):
        (twice, _), *_ = Counter(key for key, _ in items).most_common(1)
        raise _RefusedError(f"expected unique keys, found {twice[:80]!r} twice")
    return value


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS or abs(int(digits)) > MAX_INTEGER:
        raise _RefusedError(f"expected integers within 2^53, found one of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _RefusedError("expected a finite number, found one beyond float64")
    return value


def _no_float(digits: str) -> NoReturn:
    raise _RefusedError(f"canonical JSON carries no floats here, found {digits[:80]}: use a decimal string")


def _constant(name: str) -> NoReturn:
    raise _RefusedError(f"expected a finite number, found {name}")


def parse(model: type[M], data: bytes, what: str) -> M:
    """`data`, strict JSON, as a `model`. Raises `MalformedInput` that names the field, and what was expected."""
    return validate(model, loads(data, what), what)


def validate(model: type[M], value: JSON, what: str) -> M:
    """A value that `loads` returned (or a YAML loader, or a TOML parser) as a `model`. Raises `MalformedInput`."""
    try:
        # Through JSON, because a strict model takes a list for a tuple and a string for an enum only from JSON.
        text = json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedInput(what, f"cannot be read as {model.__name__}: {type(error).__name__}") from None
    return validate_text(model, text, what)


def validate_text(model: type[M], text: str | bytes, what: str) -> M:
    """JSON that was read strictly before, as a `model`. Raises `MalformedInput`."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise MalformedInput(what, explain(error)) from None


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
    return _ENCODER.encode(value).encode() if _is_plain(value) else rfc8785.dumps(value)


def dump_model(model: BaseModel) -> bytes:
    """The canonical JSON of a model; a field that is None is left out (absent means: no claim is made)."""
    return dumps(model.model_dump(mode="json", by_alias=True, exclude_none=True))


def _check_depth(text: str, what: str, levels: int) -> None:
    depth = 0
    for bracket in _NO_BRACKETS.sub("", text) if text.count("[") + text.count("{") > levels else "":
        depth += 1 if bracket in "[{" else -1
        if depth > levels:
            raise MalformedInput(what, f"expected at most {levels} levels, found more")


def _check_text(value: JSON, what: str) -> None:
    """Refuse lone surrogates, which `\\uD800` escapes can smuggle in and UTF-8 cannot carry out."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedInput(what, "expected Unicode text, found a lone surrogate") from None


def _is_plain(value: JSON) -> bool:
    """Whether Python's own encoder writes the canonical form of `value`. Raises `TypeError` for floats."""
    plain, stack = True, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            raise TypeError(f"canonical JSON carries no floats here, found {item!r}: use a decimal string")
        if isinstance(item, dict):
            plain = plain and all(isinstance(key, str) and key.isascii() for key in item)
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
        elif isinstance(item, int):
            plain = plain and abs(item) <= MAX_INTEGER
        else:
            plain = plain and (item is None or isinstance(item, str))
    return plain
