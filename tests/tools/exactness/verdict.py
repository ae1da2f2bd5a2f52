"""Runs the matrix in a process of its own, because an engine can abort, and sums up what it said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[3]

Word = Literal["exact", "differs", "refused", "aborted"]


@dataclass
class Verdict:
    """What all cells of one model showed."""

    architecture: str
    """Name of the family."""
    type: str
    """The file's type."""
    kv: str
    """The cache's type."""
    fingerprint: str = ""
    """SHA-256 of some rows, to compare between processes and machines."""
    cells: int = 0
    """Cells that ran."""
    rows: int = 0
    """Rows of logits that were compared."""
    differing: list[str] = field(default_factory=list)
    """Cells that showed a difference."""
    largest: float = 0.0
    """The largest difference of a logit."""
    error: str = ""
    """Why the engine refused."""
    done: bool = False
    """Whether all cells ran."""

    @property
    def word(self) -> Word:
        """The verdict in one word. `exact` needs every cell to have run, and rows to have been compared."""
        if self.differing:
            return "differs"
        if self.error:
            return "refused"
        return "exact" if self.done and self.rows else "aborted"

    def take(self, line: dict[str, Any]) -> None:
        """Add one line of the matrix."""
        self.fingerprint = line.get("fingerprint", self.fingerprint)
        self.error = line.get("error", self.error)
        self.done = line.get("done", self.done)
        if "cell" in line:
            self.cells += 1
            self.rows += line["rows"]
            self.largest = max(self.largest, line["largest"])
            if line["different"]:
                self.differing.append(line["cell"])


def examine(
    engine: Path,
    architecture: str,
    types: Sequence[str],
    models: Path,
    *,
    cells: str = "quick",
    kv: Sequence[str] = ("f16",),
) -> list[Verdict]:
    """The verdicts on one architecture, one for each type of file and cache."""
    command = [sys.executable, "-m", "tests.tools.exactness", str(engine), architecture, "--models", str(models)]
    command += ["--cells", cells, *(f"--type={name}" for name in types), *(f"--kv={name}" for name in kv)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    verdicts = [Verdict(architecture, name, cache) for name in types for cache in kv]
    gather(verdicts, done.stdout.splitlines())
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no word"]
        for verdict in verdicts:
            if not verdict.done and not verdict.error and verdict.fingerprint:
                verdict.error = f"exit {done.returncode}: {last[0]}"
    return verdicts


def gather(verdicts: Iterable[Verdict], lines: Iterable[str]) -> None:
    """Give each line of the matrix to its verdict."""
    by_model = {(item.architecture, item.type, item.kv): item for item in verdicts}
    for text in lines:
        line = json.loads(text)
        by_model[line["architecture"], line["type"], line["kv"]].take(line)
