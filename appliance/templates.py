"""The one Jinja sandbox: of suites' templates, and of the chat templates that models carry.

What a template prints is data, and a function of its input: nothing random, no address of this process, nothing that
UTF-8 cannot carry.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment


class OutputError(ValueError):
    """A template printed what is not data."""


def sandbox(**options: Any) -> ImmutableSandboxedEnvironment:
    """A sandboxed environment; `options` as Jinja's `Environment` takes them."""
    environment = ImmutableSandboxedEnvironment(finalize=_plain, **options)
    del environment.filters["random"], environment.globals["lipsum"]
    return environment


def checked(text: str) -> str:
    """`text`, rendered by a template. Raises `OutputError` where UTF-8 cannot carry it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise OutputError("expected Unicode text, found a lone surrogate") from None
    return text


def _plain(value: object) -> object:
    """What may be printed: data. The text of anything else would hold an address of this process."""
    items = [value]
    while items:
        item = items.pop()
        if isinstance(item, dict):
            items += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            items += item
        elif not (item is None or isinstance(item, str | int | float | Undefined)):
            raise OutputError(f"expected text, numbers and lists of them, found {type(item).__name__}")
    return value
