"""Numbers in replies: the last one, or the one behind a marker, as GSM8K's authors mark it."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import ClassVar, Literal

from appliance.evals.scorers.scorer import Outcome, Reference, Scorer, Text, Unscored, bit

MINUS = "\u2212"
NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\]%])[-{MINUS}](?=[$\u20ac\u00a3\u00a5]?[0-9.]))?[$\u20ac\u00a3\u00a5]?"
    r"(?P<digits>[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?P<exponent>[eE][-+]?[0-9]{1,3}(?!\w))?"
)
"""A number: a minus that is no operator or dash (`10-5`, `GPT-4`), a currency, digits, an exponent."""


class Numeric(Scorer):
    """1 when the reply's number is the target's last number.

    GSM8K (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168, `dataset.py`) compares what stands behind a marker,
    `####`, without commas; a reply without one is wrong. With `marker` this does the same but for the comparison,
    which is of numbers: 42.0 is 42. Without it the last number of the reply counts, as in lm-eval's `flexible-extract`.
    """

    needs_target: ClassVar[bool] = True

    scorer: Literal["numeric"]
    """`numeric`"""
    marker: Text | None = None
    """What stands before the answer; the number behind the last one counts."""

    def score_text(self, text: str, reference: Reference, /) -> Outcome:
        """Compare as numbers."""
        wanted = last_number(reference.target or "")
        if wanted is None:
            return Unscored(f"the target {reference.target!r:.80} holds no number")
        if self.marker is None:
            return bit(last_number(text) == wanted)
        _, found, answer = text.rpartition(self.marker)
        return bit(bool(found) and first_number(answer) == wanted)


def last_number(text: str) -> Decimal | None:
    """The last number in `text`."""
    found = None
    for match in NUMBER.finditer(text):
        found = match
    return _value(found)


def first_number(text: str) -> Decimal | None:
    """The first number in `text`."""
    return _value(NUMBER.search(text))


def _value(match: re.Match[str] | None) -> Decimal | None:
    if match is None:
        return None
    sign, digits, exponent = match.groups(default="")
    try:
        return Decimal(("-" if sign else "") + digits.replace(",", "") + exponent)
    except InvalidOperation:
        return None
