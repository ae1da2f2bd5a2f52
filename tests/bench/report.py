"""What the record says, for people: a table, and `python -m tests.bench.report` for the figures of docs/benchmarks.md.

The page's figures stand between two markers and come from build/bench.jsonl alone, never from a keyboard.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attest.errors import EnvironmentProblem
from tests.bench import plots

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
RECORD = ROOT / "build" / "bench.jsonl"
BEGIN, END = "<!-- figures: written by the bench, from here -->", "<!-- figures: to here -->"
HEADER = ("measure", "model", "threads", "context", "ours", "theirs", "CPU", "wall", "bar", "")
Row = dict[str, Any]


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table, as text."""
    name = f"{row['measure']}, {row['at']}" if "at" in row else row["measure"]
    where = tuple(str(row.get(key, "")) for key in ("model", "threads", "context"))
    verdict = {True: "met", False: "**below**", None: ""}[row["met"]]
    if "value" in row:
        return (name, *where, f"{row['value']:g} {row['unit']}", "", "", "", row["bar"], verdict)
    sides = (_side(row["ours"]), f"{_side(row['theirs'])}, {row['against']}")
    ratios = (f"{row['ratio_cpu']:.3g}", f"{row['ratio_wall']:.3g}")
    return (name, *where, *sides, *ratios, row["bar"] or "", verdict)


def line(row: Row) -> str:
    """The row on one line, for progress."""
    return "; ".join(cell for cell in cells(row) if cell)


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of all comparisons but the sweeps."""
    found = [HEADER, *(cells(row) for row in rows if "met" in row and "at" not in row)]
    widths = [max(len(line[i]) for line in found) for i in range(len(HEADER))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in found
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def write(rows: Sequence[Row]) -> None:
    """Write plots and figures of a whole run into docs. Raises `EnvironmentProblem` for a page without its markers."""
    text = PAGE.read_text("utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise EnvironmentProblem(f"expected the lines {BEGIN!r} and {END!r} in {PAGE}")
    about = rows[0]
    busy = max(row.get("other_processes", 0.0) for row in rows)
    lines = [
        f"`{about['command'].strip()}`, {about['started'][:10]}, {about['cores']} cores of {about['cpu']}, Linux "
        f"{about['kernel']}, Python {about['python']}; {about.get('wall_s', 0) / 60:.0f} minutes. Engine "
        f"`{about['engine']['profile']}`, `{about['engine']['library']}`. Stock: {about['stock']}. Other processes "
        f"used at most {busy:.0%} of the cores during a measure.",
        table(rows),
        *(f"![{path.stem}](plots/{path.name})" for path in plots.write(rows, PAGE.parent / "plots")),
    ]
    PAGE.write_text(f"{head}{BEGIN}\n\n" + "\n\n".join(lines) + f"\n\n{END}{tail}", "utf-8")


def _side(side: Row) -> str:
    """Speed by wall time, and what the work took."""
    unit = next(key.removesuffix("s_per_s") for key in side if key.endswith("s_per_s"))
    took = f"{side['cpu_s']:.3g} s CPU, {side['wall_s']:.3g} s wall"
    return took if unit in ("job", "byte") else f"{side[f'{unit}s_per_s']:.3g} {unit}s/s ({took})"


def main() -> None:
    """Write the page from the record of the last whole run."""
    write([json.loads(row) for row in RECORD.read_text("utf-8").splitlines()])


if __name__ == "__main__":
    main()
