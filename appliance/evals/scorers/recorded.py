"""Scores that another harness gave, as the row of a replay holds them."""

from __future__ import annotations

from typing import Literal

from appliance.evals.scorers.scorer import Outcome, Reference, Scored, Scorer, Text, Unscored


class Recorded(Scorer):
    """The harness's own score of the reply, taken over: nothing here says that it is right."""

    scorer: Literal["recorded"]
    """`recorded`"""
    of: Text
    """What the harness calls its scorer."""

    def score_text(self, _text: str, reference: Reference, /) -> Outcome:
        """Look it up."""
        recording = reference.row.get("replay")
        told = recording if isinstance(recording, dict) else {}
        value = told.get("scores", {}).get(self.of)
        if value is None:
            return Unscored(told.get("unscored", {}).get(self.of, "the harness gave no score")[:2000])
        return Scored(value)
