"""Words of a list in a reply."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from appliance.evals.scorers.scorer import Outcome, Reference, Scorer, Text, bit


class Words(Scorer):
    """1 when one of `words` occurs as a whole word, in any case."""

    scorer: Literal["words"]
    """`words`"""
    words: tuple[Text, ...] = Field(min_length=1, max_length=1000)
    """What to look for."""

    def score_text(self, text: str, _reference: Reference, /) -> Outcome:
        """Look for each."""
        return bit(occur(self.words, text))


def occur(words: tuple[str, ...], text: str) -> bool:
    """Whether one of `words` is in `text` with no letter, digit or `_` beside it, in any case."""
    lowered = text.lower()
    return any(re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", lowered) for word in words)
