"""What both command lines share: exit codes from errors, JSON on request, one place that prints."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console

from attest.errors import Exit, VitrineError

INTERRUPTED = 130
OUT = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
ERR = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def run(app: typer.Typer, name: str) -> None:
    """Run a command line and end the process with its exit code.

    0 accepted, 10 rejected, 20 unsupported, 30 malformed, 1 our fault, 2 wrong usage, 130 interrupted.
    """
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except VitrineError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Nobody read the verdict, so there is none. Nothing is left to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.FAULT)
    except OSError as error:
        fail(f"{error.filename or name}: {error.strerror or error}", Exit.FAULT)


def fail(message: str, status: int) -> None:
    """Print `message` and end the process with `status`."""
    text = printable(message).replace("\n", "\n  ")  # a line of an error never looks like a verdict
    verdict = {Exit.REJECTED: "REJECTED", Exit.UNSUPPORTED: "UNSUPPORTED", Exit.MALFORMED: "MALFORMED"}
    ERR.print(f"{verdict.get(Exit(status), 'ERROR') if status in set(Exit) else 'ERROR'}: {text}")
    sys.exit(status)


def print_json(value: Any) -> None:
    """Print a value as JSON, indented, keys sorted."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True) + "\n")


def printable(text: str) -> str:
    """`text` without what could steer a terminal: control characters become visible escapes."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def one_line(text: str) -> str:
    """`text` as `printable` has it, its line feeds escaped too: it stays on the line that it is printed on."""
    return printable(text).replace("\n", "\\n")


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns as wide as they have to be, whatever the terminal: what is cut off is no result."""
    lines = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        OUT.print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
