"""Decode and prefill, ours against llama-bench and llama-batched-bench, at several depths and numbers of sequences.

Each test runs on both sides directly after each other, in turn the one and the other first, over several rounds; the
ratio is the median of the rounds' ratios. Every stock program starts anew for its test, as a user starts it; what is
timed begins after its start and its warm-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.bench import programs
from tests.bench.lane import Batched, Lane, Single
from tests.bench.record import Bar, Measure, Side

T = TypeVar("T")
PROMPT = 512
GENERATE = 64
STEPS = {8: 24, 32: 12}
"""Steps of the many-sequence tests."""
SWEEP_SEQUENCES = (1, 2, 4, 8, 16, 32)
SWEEP_PROMPTS = (16, 32, 64, 128, 256, 512, 1024)
ALONE, BAR = Bar("speed", 0.97), Bar("speed", 1.0)


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    threads: int
    rounds: int
    depths: tuple[int, ...]
    """Tokens of context before what is timed."""
    scale: float = 1.0
    """Share of the usual number of tokens."""

    def count(self, usual: int) -> int:
        """That many tokens, scaled."""
        return max(round(usual * self.scale), 2)


@dataclass(frozen=True)
class Duel:
    """The two sides, with one model file. They never compute at the same time."""

    lane: Lane
    model: Path

    def single(self, number: int, test: Single, measures: dict[str, Measure]) -> None:
        """Round `number` of a test with one sequence, for the measures of `prefill` and `decode`."""
        ours, theirs = _in_turn(
            number, lambda: self.lane.single(test), lambda: programs.llama_bench(self.model, test)
        )  # fmt: skip
        for name, measure in measures.items():
            tokens = test.prompt if name == "prefill" else test.generate
            measure.add(Side(ours[name], tokens), Side(theirs[name], tokens))

    def batched(self, number: int, test: Batched, measure: Measure) -> None:
        """Round `number` of a test with many sequences."""
        ours, theirs = _in_turn(
            number, lambda: self.lane.batched(test), lambda: programs.llama_batched_bench(self.model, test)
        )  # fmt: skip
        tokens = test.sequences * test.steps
        measure.add(Side(ours, tokens), Side(theirs, tokens))


def compare(duel: Duel, plan: Plan, facts: dict[str, Any], say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The rows of one model: decode of 1, 8 and 32 sequences and prefill, at every depth."""
    for depth in plan.depths:
        facts = {**facts, "threads": plan.threads, "context": depth}
        single = Single(plan.count(PROMPT), plan.count(GENERATE), depth, plan.threads)
        alone = {
            "decode": Measure("decode, 1 sequence", "llama-bench", "token", ALONE, facts=facts),
            "prefill": Measure(f"prefill of {single.prompt}", "llama-bench", "token", BAR, facts=facts),
        }
        many = {
            Batched(sequences, plan.count(steps), depth, plan.threads): Measure(
                f"decode, {sequences} sequences", "llama-batched-bench", "token", BAR, facts=facts
            )
            for sequences, steps in STEPS.items()
        }
        for number in range(plan.rounds):
            say(f"context {depth}, {plan.threads} threads, round {number + 1} of {plan.rounds}")
            duel.single(number, single, alone)
            for test, measure in many.items():
                duel.batched(number, test, measure)
        for measure in (alone["decode"], *many.values(), alone["prefill"]):
            yield measure.row()


def sweep(duel: Duel, plan: Plan, facts: dict[str, Any], say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Rows for the plots: decode against the number of sequences, prefill against the length of the prompt."""
    facts = {**facts, "threads": plan.threads, "context": 0}
    say("sweep over numbers of sequences")
    for sequences in SWEEP_SEQUENCES:
        test = Batched(sequences, plan.count(max(256 // sequences, 16)), 0, plan.threads)
        measure = Measure("sweep of sequences", "llama-batched-bench", "token", None, facts={**facts, "at": sequences})
        for number in range(plan.rounds):
            duel.batched(number, test, measure)
        yield measure.row()
    say("sweep over lengths of the prompt")
    for length in (length for length in SWEEP_PROMPTS if length <= SWEEP_PROMPTS[-1] * plan.scale):
        measure = Measure("sweep of prompts", "llama-bench", "token", None, facts={**facts, "at": length})
        for number in range(plan.rounds):
            duel.single(number, Single(length, 0, 0, plan.threads), {"prefill": measure})
        yield measure.row()


def _in_turn(number: int, ours: Callable[[], T], theirs: Callable[[], T]) -> tuple[T, T]:
    """Both results; the sides take turns in being first."""
    if number % 2:
        other = theirs()
        return ours(), other
    return ours(), theirs()
