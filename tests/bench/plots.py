"""Plots as small SVG files, written by hand: throughput against a number that doubles, ours and stock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 40, 70
COLOURS = ("#0b6e4f", "#b3541e", "#2b59c3", "#8a8a8a")


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    label: str
    points: Sequence[tuple[int, float]]
    """At powers of two, in rising order."""
    dashed: bool


def plot(title: str, across: str, up: str, lines: Sequence[Line]) -> str:
    """The SVG text. The horizontal axis is logarithmic, the vertical one begins at 0."""
    places = sorted({at for line in lines for at, _ in line.points})
    first, last = math.log2(places[0]), math.log2(places[-1])
    top = _ceiling(max(value for line in lines for _, value in line.points))

    def x(at: float) -> float:
        return LEFT + (math.log2(at) - first) / max(last - first, 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for step in range(6):
        value = top * step / 5
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for at in places:
        parts.append(f'<text x="{x(at):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{at}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(up)}</text>'
    )
    centre = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{centre}" y="{HEIGHT - BOTTOM + 36}" text-anchor="middle">{escape(across)}</text>')
    for number, line in enumerate(lines):
        colour, dash = COLOURS[number % len(COLOURS)], ' stroke-dasharray="6 4"' if line.dashed else ""
        path = "L".join(f"{x(at):.1f} {y(value):.1f}" for at, value in line.points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{x(at):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>' for at, value in line.points]
        key = LEFT + number * (WIDTH - LEFT - RIGHT) / len(lines)
        parts.append(f'<path d="M{key:.1f} {HEIGHT - 14}h24" stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{key + 30:.1f}" y="{HEIGHT - 10}">{escape(line.label)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def write(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """The plots that the sweeps in `rows` allow; their files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for measure, name, title, across in (
        ("sweep of sequences", "decode.svg", "Decode", "sequences decoded together"),
        ("sweep of prompts", "prefill.svg", "Prefill", "tokens of the prompt"),
    ):
        found = [row for row in rows if row["measure"] == measure]
        lines = [
            Line(f"{model} {label}", [(row["at"], row[side]["tokens_per_s"]) for row in of_model], side == "theirs")
            for model in dict.fromkeys(row["model"] for row in found)
            for side, label in (("ours", "Vitrine"), ("theirs", "stock"))
            if (of_model := [row for row in found if row["model"] == model])
        ]
        if lines:
            path = folder / name
            path.write_text(
                plot(f"{title}, {found[0]['threads']} threads", across, "tokens per second", lines), "utf-8"
            )
            files.append(path)
    return files


def _ceiling(value: float) -> float:
    """The next round number."""
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if step * scale >= value)
