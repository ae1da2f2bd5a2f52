"""Multiple choice by log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Literal

from pydantic import Field

from appliance.evals.scorers.scorer import Outcome, Reference, Scorer, Solver, Unscored, bit
from attest.sample import Choice as Option


class Choice(Scorer):
    """1 when the right option is the likeliest; of equal ones, the earlier option counts as the model's.

    `acc`, `acc_norm` and `acc_bytes` of lm-eval (https://github.com/EleutherAI/lm-evaluation-harness,
    `ConfigurableTask.process_results`): the sums of log-probabilities as they are, divided by the option's number of
    characters, or by its number of UTF-8 bytes; what stands between prompt and option is not counted.
    """

    solvers: ClassVar[tuple[Solver, ...]] = ("choose",)
    needs_target: ClassVar[bool] = True

    scorer: Literal["choice"]
    """`choice`"""
    per: Literal["option", "character", "byte"] = "option"
    """What a log-likelihood is divided by: nothing (`acc`), characters (`acc_norm`), bytes (`acc_bytes`)."""
    delimiter: str = Field(default=" ", max_length=100)
    """What an option may begin with that is no part of it: lm-eval's `target_delimiter`."""

    def score_choices(self, choices: Sequence[Option], reference: Reference, /) -> Outcome:
        """Compare the likeliest option's number with the target."""
        if reference.target not in {str(number) for number in range(len(choices))}:
            return Unscored(f"expected a target from 0 to {len(choices) - 1}, found {reference.target!r:.80}")
        likelihoods = [Fraction(choice.logprob) / self._length(choice.text) for choice in choices]
        return bit(likelihoods.index(max(likelihoods)) == int(reference.target))

    def _length(self, text: str) -> int:
        text = text.removeprefix(self.delimiter)
        lengths = {"option": 1, "character": len(text), "byte": len(text.encode("utf-8", "surrogatepass"))}
        return lengths[self.per] or 1


def likeliest(choices: Sequence[Option]) -> int:
    """The number of the option with the highest log-likelihood; of equal ones, the first."""
    likelihoods = [Fraction(choice.logprob) for choice in choices]
    return likelihoods.index(max(likelihoods))
