"""A plugin of pytest for `make fuzz`: the tests that mutate formats alone, and of those only what has not passed yet.

    VITRINE_MUTATIONS=10000 python -m pytest -p tests.tools.fuzz tests/unit tests/integration/test_hostile_bundle.py

What passed stands in `build/fuzz.jsonl`, a line a test, so that a run that was interrupted goes on where it was. Remove
that file after a change of the code.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes.mutate import EXAMPLES

PASSED = Path(__file__).resolve().parents[2] / "build" / "fuzz.jsonl"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests that mutate and have not passed with as many mutations before."""
    lines = PASSED.read_text("utf-8").splitlines() if PASSED.exists() else []
    passed = {line["test"] for line in map(json.loads, lines) if line["mutations"] >= EXAMPLES}
    chosen = [item for item in items if _mutates(item) and item.nodeid not in passed]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _mutates(item: pytest.Item) -> bool:
    # Where Hypothesis keeps the settings of a test; it has no public name for that.
    settings = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
    return settings is not None and settings.max_examples == EXAMPLES


class Log:
    """Writes what passes."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A line for each test that passed."""
        if report.when == "call" and report.passed:
            line = {"test": report.nodeid, "mutations": EXAMPLES, "seconds": round(report.duration, 1)}
            PASSED.parent.mkdir(exist_ok=True)
            with PASSED.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Reports of the workers of pytest-xdist reach the process that started them, which alone writes."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Log())
