"""The cells of the matrix: everything that may happen around a sample in a run, one thing at a time, then all at once.

Every cell decodes some of the stories of `plan.stories`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

from tests.tools.exactness.plan import (
    JUNK,
    LENGTHS,
    SHARED,
    Cell,
    Copy,
    Decode,
    Part,
    Step,
    Story,
    Threads,
    Trim,
    feed,
)

MICRO_BATCHES = (1, 2, 3, 7, 8, 16, 17, 31, 32, 64, 128, 512)
MATES = (1, 2, 3, 7, 8, 15, 16, 31, 32, 63)
ODD = (1, 2, 3, 5, 7, 11, 13, 17, 31, 33, 63, 65, 127, 129)
LONG, MIDDLE = 0, 5
"""The story of 560 tokens, and the one of 100 that begins alike."""


def quick(stories: Sequence[Story]) -> list[Cell]:
    """The short matrix: the cells that together touch everything that the full one does."""
    return [
        Cell("micro-batch 17", tuple(feed(0, LONG, 0, 150)), micro_batch=17),
        _by_token(),
        _whole_prefix(),
        _together(stories, "32 mates", 33),
        chaos(stories, 1, most_tokens=120),
        chaos(stories, 2, most_tokens=120, micro_batch=33),
        Cell("past 512 tokens", (*feed(0, LONG, 0, 530), *feed(0, LONG, 530, 542, chunk=1)), micro_batch=128),
    ]


def full(stories: Sequence[Story]) -> list[Cell]:
    """Every cell."""
    length = len(stories[LONG])
    cells = [Cell("again", tuple(feed(0, LONG, 0, length)))]
    cells += threads(stories)
    for size in MICRO_BATCHES:
        story = MIDDLE if size < 16 else LONG
        cells.append(Cell(f"micro-batch {size}", tuple(feed(0, story, 0, len(stories[story]))), micro_batch=size))
    cells += [
        _by_token(),
        Cell("past 512 tokens", _prompt_and_tail(LONG, 530, length), micro_batch=128),
        Cell("odd chunks", tuple(_odd_chunks(LONG, length))),
        Cell("last row only", tuple(feed(0, LONG, 0, length, chunk=64, last_only=True))),
        Cell("large context", tuple(feed(0, MIDDLE, 0, 100)), slots=2, slot_tokens=4096),
        Cell("mapped file", tuple(feed(0, MIDDLE, 0, 100)), load="mmap"),
        Cell("file read", tuple(feed(0, MIDDLE, 0, 100)), load="read"),
        _order(stories),
        _whole_prefix(),
        _prefix(),
        _kept_prefix(),
        _reuse(stories),
        _rollback(),
        _arrivals(stories),
    ]
    cells += [_together(stories, f"{n} mates", n + 1) for n in MATES]
    for seed, micro_batch in enumerate((512, 512, 8, 16, 33, 64)):
        cells.append(chaos(stories, seed, micro_batch=micro_batch))
    cells.append(chaos(stories, 7, product=True))
    return cells


def threads(stories: Sequence[Story]) -> list[Cell]:
    """Two threads, and one more than there are cores."""
    return [_threads(stories, count) for count in sorted({2, len(os.sched_getaffinity(0)) + 1})]


def uncut(cells: Sequence[Cell]) -> list[Cell]:
    """Those cells that never go back to an earlier token, which a running state cannot."""
    return [cell for cell in cells if not any(isinstance(step, Trim) and step.length for step in cell.steps)]


def _prompt_and_tail(story: int, prompt: int, stop: int) -> tuple[Step, ...]:
    return (*feed(0, story, 0, prompt), *feed(0, story, prompt, stop, chunk=1))


def _by_token() -> Cell:
    """What was prefilled in the baseline is decoded one by one."""
    return Cell("token by token", tuple(feed(0, MIDDLE, 0, LENGTHS[MIDDLE], chunk=1)))


def _threads(stories: Sequence[Story], count: int) -> Cell:
    """A prompt, a few tokens one by one, and a wide batch; then the same on one thread in between.

    Few steps, because threads wait for each other by spinning: where cores are short, every wait lasts a time slice.
    """
    wide = tuple(Part(slot, story, 0, len(stories[story]), 0) for slot, story in enumerate((3, 4, 2, 1), 1))
    steps: tuple[Step, ...] = (
        *feed(0, LONG, 0, 290, chunk=290),
        *feed(0, LONG, 290, 292, chunk=1),
        Threads(1),
        *feed(0, LONG, 292, 293),
        Threads(count),
        Decode((Part(0, LONG, 293, 294, 293), *wide)),
    )
    return Cell(f"{count} threads", steps, slots=5, threads=count)


def _odd_chunks(story: int, length: int) -> list[Step]:
    steps, at = [], 0
    while at < length:
        for size in ODD:
            steps += feed(0, story, at, min(at + size, length))
            at = min(at + size, length)
    return steps


def _together(stories: Sequence[Story], name: str, count: int) -> Cell:
    """`count` stories at once: all prompts in one batch, then token after token until each has ended."""
    # The story of 100 tokens first, so that it has mates whatever their number; the longest ones are left to others.
    chosen = [MIDDLE, *(n for n in range(1, len(stories)) if n != MIDDLE and len(stories[n]) <= 100)][:count]
    assert len(chosen) == count, (count, len(chosen))
    tail = 4
    held = {slot: max(len(stories[story]) - tail - slot % 3, 1) for slot, story in enumerate(chosen)}
    steps: list[Step] = [Decode(tuple(Part(slot, chosen[slot], 0, end, 0) for slot, end in held.items()))]
    while active := [slot for slot in held if held[slot] < len(stories[chosen[slot]])]:
        parts = tuple(Part(slot, chosen[slot], held[slot], held[slot] + 1, held[slot]) for slot in active)
        steps.append(Decode(parts))
        for slot in active:
            held[slot] += 1
    return Cell(name, tuple(steps), slots=count, slot_tokens=256)


def _order(stories: Sequence[Story]) -> Cell:
    """Eight prompts in one batch, the slots in no order; then again with others first."""
    source, steps = random.Random(5), list[Step]()
    for _ in range(2):
        numbers = list(range(8))
        source.shuffle(numbers)
        parts = [Part(slot, story, 0, min(len(stories[story]), 200), 0) for slot, story in enumerate(numbers)]
        source.shuffle(parts)
        steps += [Trim(slot, 0) for slot in range(8)]
        steps.append(Decode(tuple(parts)))
    return Cell("any order", tuple(steps), slots=8)


def _prefix() -> Cell:
    """A prefix that another slot holds is copied, and what is too much of it is cut."""
    steps: list[Step] = [
        *feed(0, LONG, 0, 100),
        Copy(0, 1),
        Trim(1, SHARED),
        *feed(1, MIDDLE, SHARED, 100),
        Copy(0, 2),
        Trim(2, 29),
        *feed(2, 6, 29, 150),
        *feed(0, LONG, 100, 160),
    ]
    return Cell("copied prefix", tuple(steps), slots=4)


def _whole_prefix() -> Cell:
    """A prefix is copied as it is, with nothing cut: what a model with a running state can do as well."""
    steps: tuple[Step, ...] = (
        *feed(0, LONG, 0, SHARED),
        Copy(0, 1),
        Copy(0, 2),
        *feed(1, MIDDLE, SHARED, 100),
        *feed(0, LONG, SHARED, 100),
        *feed(2, 6, SHARED, 150),
    )
    return Cell("whole prefix", steps, slots=4)


def _kept_prefix() -> Cell:
    """A slot keeps what the next story shares with the one before."""
    steps: list[Step] = []
    for story in (LONG, 6, MIDDLE, 7):
        shared = SHARED if steps else 0
        steps += [Trim(0, shared), *feed(0, story, shared, 100)]
    return Cell("kept prefix", tuple(steps), slots=2)


def _reuse(stories: Sequence[Story]) -> Cell:
    """A slot takes shorter stories after a long one, without being cleared."""
    steps: list[Step] = []
    for story in (LONG, 2, MIDDLE, 1, 7):
        steps += [Trim(1, 0), *feed(1, story, 0, len(stories[story]))]
    return Cell("slot used before", tuple(steps), slots=2)


def _rollback() -> Cell:
    """Tokens that turn out unwanted are cut off, and others, or the same ones, come in their place."""
    steps: tuple[Step, ...] = (
        *feed(0, MIDDLE, 0, 20),
        *feed(0, JUNK, 20, 60),
        Trim(0, 20),
        *feed(0, MIDDLE, 20, 60),
        *feed(0, JUNK, 60, 75),
        Trim(0, 60),
        *feed(0, MIDDLE, 60, 70, chunk=1),
        Trim(0, 65),
        *feed(0, MIDDLE, 65, 100),
    )
    return Cell("rollback", steps, slots=2)


def _arrivals(stories: Sequence[Story]) -> Cell:
    """A long prompt comes in pieces while others are being generated."""
    steps: list[Step] = [Decode(tuple(Part(n, n, 0, 2, 0) for n in range(1, 5)))]
    held = dict.fromkeys(range(1, 5), 2)
    for at in range(0, 448, 64):
        parts = [Part(0, LONG, at, at + 64, at)]
        for slot, place in held.items():
            if place < len(stories[slot]):
                parts.append(Part(slot, slot, place, place + 1, place))
                held[slot] += 1
        steps.append(Decode(tuple(parts)))
    return Cell("long prompt beside others", tuple(steps), slots=5)


def chaos(
    stories: Sequence[Story],
    seed: int,
    *,
    micro_batch: int = 512,
    slots: int = 6,
    most_tokens: int = 560,
    product: bool = False,
) -> Cell:
    """Everything at once, drawn by `seed`: arrivals, pieces of any size, copies, cuts; on one thread."""
    source = random.Random(seed)
    waiting = source.sample(range(16), 16)
    ends = {story: min(len(stories[story]), most_tokens) for story in waiting}
    holds: list[tuple[int, int]] = [(JUNK, 0)] * slots
    """For each slot its story and how many of its tokens it has; what has ended stays until it is replaced."""
    active: set[int] = set()
    steps: list[Step] = []
    while waiting or active:
        for slot in sorted(set(range(slots)) - active):
            if waiting and source.random() < 0.4:
                story = waiting.pop()
                steps += _arrive(source, stories, holds, slot, story)
                active.add(slot)
        parts, junk = [], []
        for slot in source.sample(sorted(active), len(active)):
            story, held = holds[slot]
            if source.random() < 0.05:
                junk.append(Part(slot, JUNK, held, held + source.randint(1, 40), held))
            elif source.random() < 0.85:
                size = source.choice((1, 1, 1, 1, 2, 5, 12, 31, 64, 127))
                stop = min(held + size, ends[story])
                parts.append(Part(slot, story, held, stop, source.choice((held, stop - 1))))
                holds[slot] = story, stop
        if parts or junk:
            steps.append(Decode((*parts, *junk)))
            steps += [Trim(part.slot, part.start) for part in junk]
        active = {slot for slot in active if holds[slot][1] < ends[holds[slot][0]]}
    name = f"all at once {seed}, micro-batch {micro_batch}" + (", the product's context" if product else "")
    return Cell(name, tuple(steps), slots=slots, micro_batch=micro_batch, product=product)


def _arrive(
    source: random.Random, stories: Sequence[Story], holds: list[tuple[int, int]], slot: int, story: int
) -> list[Step]:
    """Give `slot` to `story`, at times with what a slot has of it already."""
    common = [_common(stories[story], stories[other][:held]) if other >= 0 else 0 for other, held in holds]
    best = max(range(len(holds)), key=common.__getitem__)
    keep = source.randint(0, common[best]) if source.random() < 0.8 else 0
    keep = min(keep, len(stories[story]) - 1)
    holds[slot] = story, keep
    copied: list[Step] = [Copy(best, slot)] if keep and best != slot else []
    return [*copied, Trim(slot, keep)]


def _common(left: Story, right: Story) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
