"""What a cell of the matrix does, as data: stories of tokens, and steps that decode, copy and trim them in slots."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Story = Sequence[int]
"""The tokens of one sequence."""

JUNK = -1
"""The story of tokens that are decoded only to be thrown away."""
SHARED = 48
"""Tokens that some stories have in common."""
LENGTHS = (560, 5, 17, 33, 64, 100, 150, 257)
"""Of the first stories. The first goes past 512 tokens, and past every sliding window of the models."""
MATES = 60
"""Further stories of 3 to 40 tokens."""


class Part(NamedTuple):
    """Some tokens of a story, decoded into a slot that holds exactly those before them."""

    slot: int
    """The slot."""
    story: int
    """The story's number, or `JUNK`."""
    start: int
    """The first token."""
    stop: int
    """One after the last token."""
    wanted: int
    """Logits are wanted after this token and all later ones of the part."""


class Decode(NamedTuple):
    """One batch."""

    parts: tuple[Part, ...]
    """In batch order."""


class Copy(NamedTuple):
    """Slot `target` becomes what slot `source` is."""

    source: int
    target: int


class Trim(NamedTuple):
    """Slot `slot` keeps its first `length` tokens."""

    slot: int
    length: int


class Threads(NamedTuple):
    """Go on with this many threads."""

    number: int


Step = Decode | Copy | Trim | Threads
Load = Literal["memory", "mmap", "read"]
"""The model's file as a sealed memory file, mapped, or read into memory."""


@dataclass(frozen=True)
class Cell:
    """One way to decode stories; their logits have to be those of each story alone."""

    name: str
    """Its name in the table."""
    steps: tuple[Step, ...]
    """What it does."""
    slots: int = 1
    """Sequences of the context."""
    slot_tokens: int = 1024
    """Tokens of each."""
    micro_batch: int = 512
    """`n_ubatch`."""
    threads: int = 1
    """Threads at the start."""
    load: Load = "memory"
    """How the model comes into memory."""
    product: bool = field(default=False)
    """Run by the product's own context in place of the matrix's."""


def stories(vocabulary: int, seed: int = 3) -> list[list[int]]:
    """Tokens from 4 on (those below are special). Stories 5, 6 and 7 begin as story 0 does."""
    source = random.Random(seed)
    lengths = [*LENGTHS, *(source.randint(3, 40) for _ in range(MATES))]
    made = [[source.randrange(4, vocabulary) for _ in range(length)] for length in lengths]
    for number in (5, 6, 7):
        made[number][:SHARED] = made[0][:SHARED]
    return made


def feed(slot: int, story: int, start: int, stop: int, *, chunk: int = 512, last_only: bool = False) -> list[Step]:
    """Tokens `start` to `stop`, `chunk` in a batch; logits after each, or after the last of each batch."""
    steps: list[Step] = []
    for at in range(start, stop, chunk):
        end = min(at + chunk, stop)
        steps.append(Decode((Part(slot, story, at, end, end - 1 if last_only else at),)))
    return steps
