"""Scorers: pure functions of a suite's settings, what the model did, and the row. One file each.

`ScorerSpec` is any scorer's settings, told apart by `scorer`; `score` gives a score or the reason for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from appliance.evals.scorers.bbq import Bbq
from appliance.evals.scorers.choice import Choice
from appliance.evals.scorers.ifeval.scorer import IfEval
from appliance.evals.scorers.json_schema import JsonSchema
from appliance.evals.scorers.match import Exact, Includes, Normalized
from appliance.evals.scorers.numeric import Numeric
from appliance.evals.scorers.program import Program
from appliance.evals.scorers.recorded import Recorded
from appliance.evals.scorers.refusal import Refusal
from appliance.evals.scorers.regex import Regex
from appliance.evals.scorers.scorer import Outcome, Reference, Scored, Scorer, Unscored
from appliance.evals.scorers.toxicity import Toxicity
from appliance.evals.scorers.truthfulqa import TruthfulQA
from appliance.evals.scorers.words import Words
from attest.sample import Choice as Option

__all__ = ["Outcome", "Reference", "Scored", "Scorer", "ScorerSpec", "Unscored", "score"]

ScorerSpec = Annotated[
    Bbq
    | Choice
    | Exact
    | IfEval
    | Includes
    | JsonSchema
    | Normalized
    | Numeric
    | Program
    | Recorded
    | Refusal
    | Regex
    | Toxicity
    | TruthfulQA
    | Words,
    Field(discriminator="scorer"),
]
"""The settings of one scorer."""


def score(spec: Scorer, did: str | Sequence[Option], reference: Reference, /) -> Outcome:
    """The score of a completion or of the options' log-likelihoods."""
    if isinstance(did, str):
        return spec.score_text(did, reference)
    return spec.score_choices(did, reference)
