"""Comparison of a reply with the right answer: as it stands, normalised, or as a part of it."""

from __future__ import annotations

import re
import string
from typing import ClassVar, Literal

from appliance.evals.scorers.scorer import Column, Outcome, Reference, Scorer, Unscored, bit

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))


class Exact(Scorer):
    """1 when the reply, without space at its ends, is the target."""

    needs_target: ClassVar[bool] = True

    scorer: Literal["exact"]
    """`exact`"""

    def score_text(self, text: str, reference: Reference, /) -> Outcome:
        """Compare letter by letter."""
        return bit(reference.target is not None and text.strip() == reference.target.strip())


class Normalized(Scorer):
    """1 when the reply is a right answer once both are normalised as in SQuAD's evaluation script.

    Lower case; no ASCII punctuation; no articles; single spaces (Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250,
    `normalize_answer`; the maximum over the ground truths as in `metric_max_over_ground_truths`).
    """

    scorer: Literal["normalized"]
    """`normalized`"""
    answers: Column | None = None
    """A column that holds a list of right answers, any of which counts, in place of `columns.target`."""

    def score_text(self, text: str, reference: Reference, /) -> Outcome:
        """Compare what is left of both."""
        answers = [reference.target] if self.answers is None else reference.row.get(self.answers)
        if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
            return Unscored(f"expected a right answer or a list of them, found {answers!r:.80}")
        return bit(normalize(text) in {normalize(answer) for answer in answers})


class Includes(Scorer):
    """1 when the target is part of the reply."""

    needs_target: ClassVar[bool] = True

    scorer: Literal["includes"]
    """`includes`"""
    ignore_case: bool = False
    """Whether upper and lower case are the same."""

    def score_text(self, text: str, reference: Reference, /) -> Outcome:
        """Look for the target in the reply."""
        target = (reference.target or "").strip()
        if reference.target is not None and not target:
            return Unscored("the target is empty, and so in every reply")
        if self.ignore_case:
            text, target = text.casefold(), target.casefold()
        return bit(reference.target is not None and target in text)


def normalize(text: str) -> str:
    """`text` as SQuAD compares it."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())
