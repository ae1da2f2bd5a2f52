"""Regular expressions in linear time: RE2's, which knows no back-reference and no look-around.

A pattern costs at most its size times the length of the text, whatever both say (https://github.com/google/re2,
"WhyRE2"): there is no deadline to set, and so no score that depends on the machine.
"""

from __future__ import annotations

from typing import Literal

import re2
from pydantic import Field, model_validator

from appliance.evals.scorers.scorer import Outcome, Reference, Scorer, Text, Unscored, bit

MAX_PROGRAM_BYTES = 8 << 20


class Regex(Scorer):
    """1 when the pattern matches anywhere in the reply, or when the group that it captures there is the target."""

    scorer: Literal["regex"]
    """`regex`"""
    pattern: Text
    """In RE2's syntax."""
    group: int | None = Field(default=None, ge=0, le=9)
    """The group that has to be the target, without space at the ends (0: the whole match); absent: any match is
    right."""
    occurrence: Literal["first", "last"] = "first"
    """Which match the group is taken from."""
    ignore_case: bool = False
    """Whether upper and lower case are the same, in pattern and comparison."""

    @model_validator(mode="after")
    def _pattern_is_one(self) -> Regex:
        groups = compiled(self.pattern, self.ignore_case).groups
        if self.group is not None and self.group > groups:
            raise ValueError(f"the pattern has {groups} groups, and group {self.group} is asked for")
        _ = self._search  # what is searched with is a pattern as well
        return self

    @property
    def _search(self) -> re2._Regexp:
        """The pattern as group 1, behind as much as possible where the last match is wanted.

        So the last match takes one search, where going from match to match may take as many as there are letters.
        """
        before = "(?s:.*)" if self.occurrence == "last" else ""
        return compiled(f"{before}({self.pattern})", self.ignore_case)

    def score_text(self, text: str, reference: Reference, /) -> Outcome:
        """Search the reply."""
        found = self._search.search(text)
        if self.group is None:
            return bit(found is not None)
        if reference.target is None:
            return Unscored("there is no target to compare the group with")
        if found is None:
            return bit(False)
        captured, target = (found.group(1 + self.group) or "").strip(), reference.target.strip()
        return bit(captured.casefold() == target.casefold() if self.ignore_case else captured == target)


def compiled(pattern: str, ignore_case: bool) -> re2._Regexp:
    """The pattern's program, bounded in size. Raises `ValueError`."""
    options = re2.Options()
    options.max_mem = MAX_PROGRAM_BYTES
    options.log_errors = False
    options.case_sensitive = not ignore_case
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"not a pattern of RE2: {reason}") from None
