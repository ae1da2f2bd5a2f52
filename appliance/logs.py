"""Structured logs on standard error: readable on a terminal, JSON lines elsewhere. They hold names, counts, digests.

Nothing of a prompt, a completion or a key is ever passed to a logger. What workers print is shown at level debug only,
and reduced to fixed words once a worker has prompts (`appliance.redact`). Two nets lie below that: a value that is not
a short text or a number is replaced by its kind and size, and an error that nobody caught is reported by its class and
the places of its traceback, without its message and without any variable.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterator, MutableMapping
from types import TracebackType
from typing import Any

import structlog

from appliance import redact

MAX_VALUE_CHARS = 600
"""The longest text that a field of a log line may have."""
MAX_ITEMS = 64
EXCEPTION_FIELDS = ("exc_info", "exception", "stack", "stack_info")


def configure(*, verbose: bool) -> None:
    """Set up logging for a command line, and how it reports errors that nobody caught."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            bounded,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%SZ", utc=True),
            structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)
            if terminal
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def bounded(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: numbers and short texts pass, all else is replaced by its kind and size."""
    for name in list(event):
        if name in EXCEPTION_FIELDS:
            error = sys.exc_info()[1] if event[name] is True else event[name]
            del event[name]  # a renderer would look for a traceback there
            event["error"] = f"{type(error).__name__} {redact.WITHHELD}"
        else:
            event[name] = _bounded(event[name])
    return event


def crash(error: BaseException) -> str:
    """The report of an error that nobody caught: its class, and the places of its traceback and of its causes."""
    lines = []
    for each in reversed(list(_causes(error))):
        lines += [f"  {_where(frame)}" for frame in traceback.extract_tb(each.__traceback__)]
        lines.append(f"{type(each).__name__} {redact.WITHHELD}")
    return "\n".join(lines)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """In place of Python's own hooks, which print the error's message, and so what it quotes."""
    del trace  # the error's own
    text = crash(error) if error is not None else kind.__name__
    sys.stderr.write(f"ERROR: a bug; please report these lines, which hold no prompts, completions or keys\n{text}\n")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _where(frame: traceback.FrameSummary) -> str:
    return f"{redact.place(frame.filename) or '(elsewhere)'}:{frame.lineno} in {frame.name}"


def _bounded(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if len(value) <= MAX_VALUE_CHARS else f"({len(value)} characters)"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    if isinstance(value, list | tuple | set | frozenset):
        return [_bounded(item) for item in value] if len(value) <= MAX_ITEMS else f"({len(value)} items)"
    if isinstance(value, BaseException):
        return f"{type(value).__name__} {redact.WITHHELD}"
    return f"({type(value).__name__})"
