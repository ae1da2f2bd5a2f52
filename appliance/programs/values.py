"""Plain values between candidate and referee, as JSON that keeps the types Python compares by.

None, booleans, integers, floats, complex numbers, texts, bytes, lists, tuples, sets and dictionaries. An instance of a
subclass travels as its plain type, so no method of a program ever runs where its value is compared. Anything else, and
anything that is not of this form, raises `ValueError`.
"""

from __future__ import annotations

import json
from typing import Any


def dump(value: Any) -> bytes:
    """The bytes of `value`. Raises `ValueError` for what is not plain, and for what is nested too deeply."""
    try:
        return json.dumps(_plain(value)).encode("ascii")
    except RecursionError:
        raise ValueError("a value that is nested too deeply") from None


def load(data: bytes) -> Any:
    """The value of `data`. Raises `ValueError`."""
    try:
        return _value(json.loads(data))
    # A key or member that cannot be one; a number that is too large.
    except (RecursionError, TypeError, OverflowError) as error:
        raise ValueError(f"expected a plain value: {error}") from None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return {"int": hex(int.__int__(value))}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, bytes):
        return {"bytes": bytes(value).hex()}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [_plain(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_plain(key), _plain(item)] for key, item in value.items()]}
    raise ValueError(f"expected a plain value, found {type(value).__name__}")


def _value(tagged: Any) -> Any:
    if tagged is None or isinstance(tagged, bool | str):
        return tagged
    if not isinstance(tagged, dict) or len(tagged) != 1:
        raise ValueError(f"expected a tagged value, found {tagged!r:.80}")
    ((tag, held),) = tagged.items()
    if isinstance(held, str):
        match tag:
            case "int":
                return int(held, 16)
            case "float":
                return float.fromhex(held)
            case "bytes":
                return bytes.fromhex(held)
    elif isinstance(held, list):
        match tag:
            case "complex":
                real, imaginary = held
                return complex(float.fromhex(real), float.fromhex(imaginary))
            case "list":
                return [_value(item) for item in held]
            case "tuple":
                return tuple(_value(item) for item in held)
            case "set":
                return {_value(item) for item in held}
            case "frozenset":
                return frozenset(_value(item) for item in held)
            case "dict":
                return {_value(key): _value(item) for key, item in held}
    raise ValueError(f"expected a tagged value, found {tag!r:.80}")
