"""IFEval's verdicts on a reply: strict or loose, all instructions or their share."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from appliance.evals.scorers.ifeval.arguments import Arguments, UnfitError
from appliance.evals.scorers.ifeval.instructions import follows
from appliance.evals.scorers.scorer import Column, Outcome, Reference, Scorer, Unscored, bit, share
from attest.aggregate import Aggregate, Ratio


class IfEval(Scorer):
    """Whether a reply follows the row's instructions.

    `strict` checks the reply as it stands; `loose` is satisfied with any of eight versions of it: without its first or
    last line or both, each also without asterisks. The mean of level `prompt` is the authors' prompt-level accuracy;
    of level `instruction` it is the mean share, and the metric `NAME.micro` the authors' instruction-level accuracy.
    """

    scorer: Literal["ifeval"]
    """`ifeval`"""
    mode: Literal["strict", "loose"] = "strict"
    """Which versions of a reply may follow."""
    level: Literal["prompt", "instruction"] = "prompt"
    """`prompt`: 1 when all instructions are followed. `instruction`: the share of those that are."""
    instructions: Column = "instruction_id_list"
    """The column that lists the instructions."""
    arguments: Column = "kwargs"
    """The column that lists the arguments of each."""

    @property
    def aggregates(self) -> tuple[Aggregate, ...]:
        """Followed instructions over all instructions."""
        if self.level == "prompt":
            return super().aggregates
        return (*super().aggregates, Ratio(name=f"{self.label}.micro", scorer=self.label, of="followed", over="asked"))

    def score_text(self, text: str, reference: Reference, /) -> Outcome:
        """Check each instruction."""
        ids, arguments = reference.row.get(self.instructions), reference.row.get(self.arguments)
        if not isinstance(ids, list) or not ids or not isinstance(arguments, list) or len(ids) != len(arguments):
            return Unscored(f"expected as many instructions as arguments, found {ids!r:.80} and {arguments!r:.80}")
        try:
            followed = verdicts(text, ids, arguments, self.mode)
        except UnfitError as error:
            return Unscored(str(error))
        if self.level == "prompt":
            return bit(all(followed))
        return share(Fraction(sum(followed), len(followed)), followed=str(sum(followed)), asked=str(len(followed)))


def verdicts(text: str, ids: list[object], arguments: list[object], mode: str) -> list[bool]:
    """Whether each instruction is followed. Raises `UnfitError`."""
    texts = [version for version in (versions(text) if mode == "loose" else [text]) if version.strip()]
    found = []
    for instruction, values in zip(ids, arguments, strict=True):
        if not isinstance(instruction, str) or not isinstance(values, dict):
            raise UnfitError(f"expected an instruction and its arguments, found {instruction!r:.80} and {values!r:.80}")
        found.append(any(follows(instruction, version, Arguments(values)) for version in texts))
    return found


def versions(text: str) -> list[str]:
    """The eight versions of `text` that loose verdicts look at."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(version.replace("*", "") for version in cut)]
