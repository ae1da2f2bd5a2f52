"""One measure: two sides over several rounds, their ratio, and the bar that was set for it beforehand."""

from __future__ import annotations

import json
import os
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.bench.clock import Spent


@dataclass(frozen=True)
class Side:
    """What one side did in one round."""

    spent: Spent
    units: float
    """How much work that was: tokens, rows, bytes, jobs."""


@dataclass(frozen=True)
class Bar:
    """What the ratio has to be. `speed`: ours over theirs, at least; `cost`: ours over theirs, at most."""

    kind: Literal["speed", "cost"]
    value: float

    def __str__(self) -> str:
        return f"{'>=' if self.kind == 'speed' else '<='} {self.value:g}x"

    def ratio(self, ours: float, theirs: float) -> float:
        """Of the seconds per unit of the two sides."""
        return theirs / ours if self.kind == "speed" else ours / theirs

    def met(self, ratio: float) -> bool:
        """Whether `ratio`, as it is printed, passes."""
        return round(ratio, 2) >= self.value if self.kind == "speed" else round(ratio, 3) <= self.value


@dataclass
class Measure:
    """A comparison, its rounds so far, and how it reads in the record."""

    name: str
    against: str
    """Which program is on the other side."""
    unit: str
    """`token`, `row`, `job`, `byte`."""
    bar: Bar | None
    """None: measured for the record, without a bar."""
    clock: Literal["cpu", "wall"] = "cpu"
    """Which ratio the bar is about."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Model, threads, context: whatever tells this measure from the others, and notes."""
    rounds: list[tuple[Side, Side]] = field(default_factory=list)
    """Ours and theirs, next to each other in time."""

    def add(self, ours: Side, theirs: Side) -> None:
        """One more round."""
        self.rounds.append((ours, theirs))

    def row(self) -> dict[str, Any]:
        """The JSON object: medians over the rounds; the ratio is the median of the rounds' ratios."""
        bar = self.bar or Bar("speed", 1.0)
        ratios = {
            clock: [bar.ratio(_per_unit(ours, clock), _per_unit(theirs, clock)) for ours, theirs in self.rounds]
            for clock in ("cpu", "wall")
        }
        ratio = statistics.median(ratios[self.clock])
        return {
            "measure": self.name,
            **self.facts,
            "ours": _summary([ours for ours, _ in self.rounds], self.unit),
            "against": self.against,
            "theirs": _summary([theirs for _, theirs in self.rounds], self.unit),
            "ratio_is": "ours over theirs, speed" if bar.kind == "speed" else "ours over theirs, cost",
            "ratio_cpu": _round(statistics.median(ratios["cpu"])),
            "ratio_wall": _round(statistics.median(ratios["wall"])),
            "ratios_of_rounds": [_round(value) for value in ratios[self.clock]],
            "bar": None if self.bar is None else f"{self.bar} {self.clock}",
            "met": None if self.bar is None else self.bar.met(ratio),
        }


def value_row(name: str, value: float, unit: str, limit: float, **facts: Any) -> dict[str, Any]:
    """The JSON object of a measure that has one side: `value`, which is to be at most `limit`."""
    return {
        "measure": name,
        **facts,
        "value": _round(value),
        "unit": unit,
        "bar": f"<= {limit:g} {unit}",
        "met": value <= limit,
    }


class Machine:
    """How busy the machine was with other things, from construction to `share`."""

    def __init__(self) -> None:
        self._start = (time.monotonic(), _busy_s(), _own_s())

    def share(self) -> float:
        """Part of all cores that other processes used. What this process has not waited for yet counts as other."""
        now = (time.monotonic(), _busy_s(), _own_s())
        wall, busy, own = (after - before for after, before in zip(now, self._start, strict=True))
        return round(max(busy - own, 0.0) / (wall * (os.cpu_count() or 1)), 2)


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """All rows, one JSON object a line; the file appears whole."""
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    part.replace(path)


def _busy_s() -> float:
    """CPU seconds that all processes used since the machine started: user, nice, system, irq, softirq, steal."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[i]) for i in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _per_unit(side: Side, clock: str) -> float:
    return (side.spent.cpu_s if clock == "cpu" else side.spent.wall_s) / side.units


def _summary(sides: Sequence[Side], unit: str) -> dict[str, Any]:
    cpu, wall = (statistics.median(_per_unit(side, clock) for side in sides) for clock in ("cpu", "wall"))
    units = statistics.median(side.units for side in sides)
    return {
        "cpu_s": _round(cpu * units),
        "wall_s": _round(wall * units),
        f"{unit}s": units,
        f"{unit}s_per_cpu_s": _round(1 / cpu),
        f"{unit}s_per_s": _round(1 / wall),
        "rounds": len(sides),
    }


def _round(value: float) -> float:
    """Four digits are more than these clocks know."""
    return float(f"{value:.4g}")
