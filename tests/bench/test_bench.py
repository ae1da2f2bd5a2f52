"""The bench's own arithmetic: a ratio that points the wrong way would praise what is slow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from tests.bench import plots, record, report, stock_scoring, tree
from tests.bench.clock import Sampled, Spent, run
from tests.bench.record import Bar, Measure, Side


def _measure(bar: Bar, ours: float, theirs: float, *, units: tuple[float, float] = (10, 10)) -> dict[str, object]:
    measure = Measure("m", "other", "token", bar, facts={"model": "Q", "threads": 1, "context": 0})
    measure.add(Side(Spent(ours, ours), units[0]), Side(Spent(theirs, theirs), units[1]))
    return measure.row()


def test_twice_as_fast_is_a_speed_of_two() -> None:
    row = _measure(Bar("speed", 1.0), 1.0, 2.0)
    assert row["ratio_cpu"] == row["ratio_wall"] == 2.0
    assert row["met"] is True


def test_twice_as_much_is_a_cost_of_two() -> None:
    row = _measure(Bar("cost", 1.03), 2.0, 1.0)
    assert row["ratio_cpu"] == 2.0
    assert row["met"] is False


def test_sides_with_different_amounts_of_work_are_compared_per_unit() -> None:
    assert _measure(Bar("speed", 8.0), 10.0, 5.0, units=(100, 5))["ratio_cpu"] == 10.0


@pytest.mark.parametrize(("ours", "met"), [(1.0, True), (1.03, True), (1.031, True), (1.04, False)])
def test_a_speed_bar_is_met_as_it_is_printed(ours: float, met: bool) -> None:
    assert _measure(Bar("speed", 0.97), ours, 1.0)["met"] is met


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    measure = Measure("m", "other", "token", Bar("speed", 1.0))
    for theirs in (1.0, 2.0, 30.0):
        measure.add(Side(Spent(1.0, 1.0), 1), Side(Spent(theirs, theirs), 1))
    row = measure.row()
    assert row["ratio_cpu"] == 2.0
    assert row["ratios_of_rounds"] == [1.0, 2.0, 30.0]


def test_a_limit_is_met_up_to_it() -> None:
    assert record.value_row("memory", 250.0, "MB", 250.0)["met"] is True
    assert record.value_row("memory", 250.1, "MB", 250.0)["met"] is False


def test_the_table_shows_what_misses_its_bar_and_leaves_the_sweeps_out() -> None:
    slow, sweep = _measure(Bar("speed", 1.0), 2.0, 1.0), {**_measure(Bar("speed", 1.0), 1.0, 1.0), "at": 8}
    lines = report.table([{"measure": "environment"}, slow, sweep]).splitlines()
    assert len(lines) == 3
    assert "**below**" in lines[2] and "0.5" in lines[2]


def test_the_record_is_one_object_a_line(tmp_path: Path) -> None:
    rows = [_measure(Bar("speed", 1.0), 1.0, 1.0), record.value_row("memory", 1.0, "MB", 250.0)]
    record.write(rows, tmp_path / "bench.jsonl")
    assert [json.loads(line) for line in (tmp_path / "bench.jsonl").read_text().splitlines()] == rows


def test_the_cpu_time_of_the_last_phase_is_told_from_the_one_before() -> None:
    program = """
import time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
burn(0.6)
start = time.perf_counter()
time.sleep(0.2); burn(0.3)
print(time.perf_counter() - start, flush=True)
"""
    sampled = Sampled([sys.executable, "-c", program], environment={})
    spent = [sampled.last(float(line)) for line in sampled.lines()]
    assert len(spent) == 1
    assert spent[0].wall_s >= 0.5
    assert 0.25 < spent[0].cpu_s < 0.45


def test_a_program_that_fails_is_not_a_result() -> None:
    program = [sys.executable, "-c", "import sys; print(1); sys.exit('no model')"]
    with pytest.raises(RuntimeError, match="no model"):
        list(Sampled(program, environment={}).lines())
    with pytest.raises(RuntimeError, match="no model"):
        run(program, cwd=Path.cwd())


def test_a_plot_is_well_formed_and_higher_is_faster() -> None:
    lines = [
        plots.Line("Q8_0 <ours>", [(1, 10.0), (2, 40.0)], dashed=False),
        plots.Line("Q8_0 stock", [(1, 20.0), (2, 30.0)], dashed=True),
    ]
    root = ET.fromstring(plots.plot("Decode", "sequences", "tokens/s", lines))
    circles = [
        (float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iter("{http://www.w3.org/2000/svg}circle")
    ]
    heights = [y for _, y in circles]
    assert heights[1] < heights[3] < heights[2] < heights[0]
    assert len({x for x, _ in circles}) == 2


def test_log_likelihood_adds_up_the_rows() -> None:
    scores = np.array([[0.0, 0.0], [0.0, np.log(3.0)]])
    assert stock_scoring.log_likelihood(scores, 0, [0, 1]) == pytest.approx(np.log(0.5) + np.log(0.75))


def test_cpu_time_of_a_worker_that_nobody_waits_for_is_counted() -> None:
    burn = (
        "import time; end = time.thread_time() + 0.5\nwhile time.thread_time() < end: pass\nprint('burnt', flush=True)"
    )
    # A keeper whose child has used its time, both killed at once: as a worker ends behind a wall.
    keeper = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"
    )
    before, clock = tree.tree_cpu_s(), tree.TreeClock()
    process = subprocess.Popen([sys.executable, "-c", keeper, burn], stdout=subprocess.PIPE, start_new_session=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        spent = clock.read()
        os.killpg(process.pid, signal.SIGKILL)
    assert spent >= before + 0.5
    assert clock.stop() >= spent - 0.1, "expected what the killed worker used to stay counted"
