"""Programs: whether what the model wrote passes the data set's tests, in a seal of its own (`appliance.programs`).

HumanEval (Chen et al. 2021, https://arxiv.org/abs/2107.03374): prompt, completion, test and `check(entry_point)`, as in
`execution.py` of the authors' repository. There a program can name its own verdict, because it runs with its tests;
here it runs apart from them, and a function has to return plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from appliance.evals.scorers.scorer import Column, Outcome, Reference, Scorer, Unscored, bit


class Program(Scorer):
    """1 when the tests come to their end; a program that fails or takes too long has 0, and a fact that says which."""

    scorer: Literal["program"]
    """`program`"""
    prompt: Column = "prompt"
    """The column with the head of the program, which the completion goes on with."""
    test: Column = "test"
    """The column with the tests, which define `check`."""
    entry_point: Column = "entry_point"
    """The column with the name of the function that `check` is given."""
    timeout_s: int = Field(default=10, ge=1, le=60)
    """Wall time for a program and its tests; the authors take 3 s. A slow machine may need more."""

    def trial(self, text: str, reference: Reference, /) -> dict[str, Any] | Unscored:
        """What is to be tried: the completion with the row's tests."""
        columns = {"prompt": self.prompt, "test": self.test, "entry_point": self.entry_point}
        parts = {name: reference.row.get(column) for name, column in columns.items()}
        for name, part in parts.items():
            if not isinstance(part, str):
                return Unscored(f"expected column {columns[name]!r} to hold a text, found {part!r:.80}")
        return parts | {"completion": text, "timeout_s": self.timeout_s}

    def outcome(self, verdict: Mapping[str, Any], /) -> Outcome:
        """The score of a verdict."""
        found = verdict.get("verdict")
        if found not in ("passed", "failed", "timeout"):
            return Unscored(f"expected a verdict, found {verdict!r:.80}")
        return bit(found == "passed", verdict=found)
