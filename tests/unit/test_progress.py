"""Progress off a terminal: never beyond the whole, never back, and a time left that the rate gives."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from appliance import progress
from appliance.progress import BYTES, INTERVAL_S, Reporter

LINE = re.compile(
    r"(?P<phase>[a-z-]+): (?P<done>\d+)/(?P<total>\d+)(?P<unit> MiB)?"
    r"(?: (?P<rate>[\d.]+)(?: MiB)?/s)?(?:, (?P<left>-?\d+) s left)?"
)


class Clock:
    """Time that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def told(steps: list[tuple[float, int, int]], phase: str = "samples") -> list[dict[str, str | None]]:
    """The lines after steps of (seconds that passed, done, total)."""
    clock, console = Clock(), Console(width=200, file=None, record=True, quiet=False, force_terminal=False)
    with pytest.MonkeyPatch.context() as patch, console.capture() as captured:
        patch.setattr(progress, "time", clock)
        patch.setattr(progress, "ERR", console)
        with Reporter() as report:
            for passed, done, total in steps:
                clock.now += passed
                report(phase, done, total)
    lines = [LINE.fullmatch(line.strip()) for line in captured.get().splitlines()]
    assert all(lines), captured.get()
    return [found.groupdict() for found in lines if found]


def steps() -> Iterator[tuple[float, int, int]]:
    """Forty samples, one in three seconds, of which ten were there already."""
    yield 0.0, 10, 40
    for done in range(11, 41):
        yield 3.0, done, 40


def test_rate_and_time_left_are_of_this_run() -> None:
    lines = told(list(steps()))
    assert len(lines) == 15  # every six seconds: two samples, and not every one
    assert {line["rate"] for line in lines} == {"0.3"}
    for line in lines:
        assert int(line["left"] or 0) == 3 * (40 - int(line["done"] or 0))


def test_bytes_are_shown_in_mebibytes() -> None:
    (line,) = told([(0.0, 0, 64 * BYTES), (8.0, 16 * BYTES, 64 * BYTES)], "boot")
    assert (line["done"], line["total"], line["unit"], line["rate"], line["left"]) == ("16", "64", " MiB", "2.0", "24")


@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.integers(0, 12), st.integers(0, 10)),
        min_size=1,
        max_size=30,
    )
)
def test_whatever_comes_it_stays_within_bounds(steps: list[tuple[float, int, int]]) -> None:
    """A worker that reports more than was planned, or less than before, is no reason for nonsense."""
    before = 0
    total = max(total for _, _, total in steps)
    for line in told([(passed, done, total) for passed, done, _ in steps]):
        done = int(line["done"] or 0)
        assert before <= done <= int(line["total"] or 0) == total
        assert int(line["left"] or 0) >= 0
        before = done


def test_nothing_is_said_of_what_is_quick() -> None:
    assert told([(0.0, 0, 10), (INTERVAL_S / 2, 5, 10), (INTERVAL_S / 4, 10, 10)]) == []
