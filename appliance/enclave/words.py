"""What the inside of a wall prints on standard error: untrusted lines, cut, cleaned, counted, and shown as ours.

Lines that the appliance inside logs become log lines here, marked as `inside`; others are shown at level debug. A run
logs some dozens. So what is shown is bounded, and standard error is no second way out of the wall; the rest is read,
counted and thrown away.
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import Any

import structlog

from appliance.enclave.channel import printable

LOG = structlog.get_logger()
MAX_SHOWN_LINES = 2000
LAST_WORDS = 5
WORDS_CHARS = 300
SHOWN_LEVELS = ("debug", "info", "warning", "error")
MAX_FIELDS = 16
FIELD = re.compile(r"[a-z][a-z0-9_]{0,31}")
OURS = frozenset({"self", "event", "inside", "timestamp", "exc_info", "stack_info"})
"""Names of fields that the host writes itself, or that mean something to the logger."""


class Words:
    """Takes the lines, one by one."""

    def __init__(self) -> None:
        self._last: deque[str] = deque(maxlen=LAST_WORDS)
        self._lines = 0

    def __str__(self) -> str:
        return " / ".join(self._last) or "none"

    def take(self, line: bytes) -> None:
        """One line, of any bytes."""
        text = printable(line.decode("utf-8", "replace").strip())
        if not text:
            return
        self._lines += 1
        if self._lines == MAX_SHOWN_LINES + 1:
            LOG.warning("lines of the inside are withheld from here on", inside=True, shown=MAX_SHOWN_LINES)
        shown = self._lines <= MAX_SHOWN_LINES
        record = _record(text)
        level, event = record.pop("level", None), record.pop("event", None)
        if level not in SHOWN_LEVELS or not isinstance(event, str):
            self._last.append(text[:WORDS_CHARS])
            if shown:
                LOG.debug("container log", line=text)
            return
        event = printable(event)
        if level in ("warning", "error"):
            self._last.append(event[:WORDS_CHARS])
        if shown:
            getattr(LOG, level)(event, inside=True, **_fields(record))


def _record(text: str) -> dict[str, Any]:
    """A log line of the appliance inside; empty for any other line."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _fields(record: dict[str, Any]) -> dict[str, str | int]:
    """What of a record can be a field here: short names, texts without control characters (which JSON escapes), and
    whole numbers."""
    found: dict[str, str | int] = {}
    for name, value in record.items():
        if FIELD.fullmatch(name) and name not in OURS and isinstance(value, (str, int)):
            found[name] = printable(value) if isinstance(value, str) else value
    return dict(list(found.items())[:MAX_FIELDS])
