"""Runs cells on an engine and compares every row of logits, bit by bit, with that of the story decoded alone.

The calls are made on the binding itself and not through the product's context, so that a mistake there cannot hide; a
cell can ask for the product's context too.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from appliance.memfd import load_sealed
from tests.tools.exactness.plan import JUNK, Cell, Copy, Decode, Load, Part, Story, Threads, Trim, feed

BATCH_TOKENS = 2048
KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}  # ggml.h, enum ggml_type

Rows = NDArray[np.float32]


class Settings(NamedTuple):
    """What is the same for all cells of a table."""

    kv: str = "f16"
    """Type of the key-value cache."""
    flash: bool = True
    """Flash attention."""


class Outcome(NamedTuple):
    """What one cell showed."""

    rows: int
    """Rows that were compared."""
    different: int
    """Rows with another bit."""
    largest: float
    """The largest difference of a logit."""
    first: tuple[int, int] | None
    """Story and position of the first row that differs."""


class Bench:
    """One model on one engine, and each story's rows when it is alone: one slot, one thread, 512 tokens a batch."""

    def __init__(self, library: Any, path: Path, settings: Settings) -> None:
        self._library = library
        self._path = path
        self._settings = settings
        self._models: dict[Load, Any] = {}
        self._alone: dict[int, Rows] = {}
        self._sealed = load_sealed(path, name="model")
        self.digest = self._sealed.digest
        """SHA-256 of the model's file."""
        vocab = library.llama_model_get_vocab(self._model("memory"))
        self.vocabulary = int(library.llama_vocab_n_tokens(vocab))
        """Tokens of the model."""

    def alone(self, number: int, story: Story) -> Rows:
        """The rows of a story by itself: (tokens, vocabulary).

        Raises `ValueError` when they could hide a difference: not finite, or one like another.
        """
        if number not in self._alone:
            rows = np.zeros((len(story), self.vocabulary), np.float32)
            cell = Cell("alone", tuple(feed(0, number, 0, len(story))))
            self._run(cell, {number: story}, lambda part, got: rows.__setitem__(slice(part.wanted, part.stop), got))
            if not np.isfinite(rows).all() or len(np.unique(rows, axis=0)) != len(story):
                raise ValueError("expected finite rows, each unlike the others, found something else")
            self._alone[number] = rows
        return self._alone[number]

    def fingerprint(self, stories: Sequence[Story], count: int) -> str:
        """SHA-256 of the rows of the first `count` stories alone."""
        digest = hashlib.sha256()
        for number in range(count):
            digest.update(self.alone(number, stories[number]).tobytes())
        return digest.hexdigest()

    def run(self, cell: Cell, stories: Sequence[Story]) -> Outcome:
        """Run one cell."""
        for number in {part.story for step in cell.steps if isinstance(step, Decode) for part in step.parts} - {JUNK}:
            self.alone(number, stories[number])
        rows, different, largest, first = 0, 0, 0.0, None

        def compare(part: Part, got: Rows) -> None:
            nonlocal rows, different, largest, first
            if part.story == JUNK:
                return
            want = self._alone[part.story][part.wanted : part.stop]
            rows += len(got)
            wrong = np.flatnonzero((got.view(np.uint32) != want.view(np.uint32)).any(axis=1))
            if wrong.size:
                different += len(wrong)
                first = first or (part.story, part.wanted + int(wrong[0]))
                largest = max(largest, float(np.abs(got[wrong] - want[wrong]).max()))

        self._run(cell, dict(enumerate(stories)), compare)
        assert rows, f"cell {cell.name} compared nothing"
        return Outcome(rows, different, largest, first)

    def _run(self, cell: Cell, stories: dict[int, Story], take: Callable[[Part, Rows], object]) -> None:
        context: _OwnContext | _ProductContext
        if cell.product:
            context = _ProductContext(self._library, self._sealed.fd, cell, self._settings)
        else:
            context = _OwnContext(self._library, self._model(cell.load), self.vocabulary, cell, self._settings)
        try:
            for step in cell.steps:
                match step:
                    case Decode(parts):
                        tokens = [_tokens(part, stories) for part in parts]
                        for part, rows in zip(parts, context.decode(parts, tokens), strict=True):
                            if len(rows):
                                take(part, rows)
                    case Copy(source, target):
                        context.copy(source, target)
                    case Trim(slot, length):
                        context.trim(slot, length)
                    case Threads(number):
                        context.threads(number)
        finally:
            context.close()

    def _model(self, how: Load) -> Any:
        if how not in self._models:
            self._models[how] = _load(self._library, self._path, self._sealed.fd, how)
        return self._models[how]

    def close(self) -> None:
        """Free the models."""
        for model in self._models.values():
            self._library.llama_model_free(model)
        self._models.clear()
        self._sealed.close()


class _OwnContext:
    """A llama.cpp context with the settings of a cell, by the binding alone."""

    def __init__(self, library: Any, model: Any, vocabulary: int, cell: Cell, settings: Settings) -> None:
        self._c = library
        self._vocabulary = vocabulary
        params = library.llama_context_default_params()
        params.n_seq_max, params.n_ctx = cell.slots, cell.slots * cell.slot_tokens
        params.n_batch, params.n_ubatch = BATCH_TOKENS, cell.micro_batch
        params.n_threads = params.n_threads_batch = cell.threads
        params.type_k = params.type_v = KV_TYPES[settings.kv]
        params.flash_attn_type = int(settings.flash)
        params.kv_unified = False
        params.swa_full = True
        params.no_perf = True
        self._context = library.llama_init_from_model(model, params)
        if not self._context:
            raise ValueError(f"llama.cpp made no context with {settings}")
        self._memory = library.llama_get_memory(self._context)
        self._batch = library.llama_batch_init(BATCH_TOKENS, 0, 1)

    def decode(self, parts: Sequence[Part], tokens: Sequence[Sequence[int]]) -> list[Rows]:
        batch, at = self._batch, 0
        for part, ids in zip(parts, tokens, strict=True):
            for place, token in enumerate(ids, part.start):
                batch.token[at], batch.pos[at], batch.logits[at] = token, place, place >= part.wanted
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, part.slot
                at += 1
        batch.n_tokens = at
        if code := self._c.llama_decode(self._context, batch):
            raise ValueError(f"llama_decode returned {code} for {at} tokens")
        counts = [part.stop - part.wanted for part in parts]
        if not sum(counts):
            return [np.empty((0, self._vocabulary), np.float32)] * len(parts)
        pointer = self._c.llama_get_logits(self._context)
        rows = np.ctypeslib.as_array(pointer, (sum(counts), self._vocabulary)).copy()
        return np.split(rows, np.cumsum(counts)[:-1])

    def copy(self, source: int, target: int) -> None:
        self._c.llama_memory_seq_rm(self._memory, target, -1, -1)
        self._c.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def trim(self, slot: int, length: int) -> None:
        if not self._c.llama_memory_seq_rm(self._memory, slot, length, -1):
            raise ValueError(f"llama.cpp did not cut slot {slot} to {length} tokens")

    def threads(self, count: int) -> None:
        self._c.llama_set_n_threads(self._context, count, count)

    def close(self) -> None:
        self._c.llama_batch_free(self._batch)
        self._c.llama_free(self._context)


class _ProductContext:
    """The context of `appliance.runtime`, behind the same five calls."""

    def __init__(self, library: Any, fd: int, cell: Cell, settings: Settings) -> None:
        from appliance.runtime.context import Context, Piece
        from appliance.runtime.model import Model

        assert settings.flash, "the product always uses flash attention"
        self._library, self._piece, self._model = library, Piece, Model(library, os.dup(fd))
        self._context = Context(
            self._model,
            slots=cell.slots,
            slot_tokens=cell.slot_tokens,
            threads=cell.threads,
            batch_tokens=1024,
            kv=settings.kv,  # type: ignore[arg-type]
        )

    def decode(self, parts: Sequence[Part], tokens: Sequence[Sequence[int]]) -> list[Rows]:
        pieces = [self._piece(p.slot, p.start, ids, p.wanted - p.start) for p, ids in zip(parts, tokens, strict=True)]
        empty = np.empty((0, self._model.vocabulary), np.float32)
        return [np.array(rows) if rows else empty for rows in self._context.decode(pieces)]

    def copy(self, source: int, target: int) -> None:
        self._context.copy(source, target)

    def trim(self, slot: int, length: int) -> None:
        self._context.trim(slot, length)

    def threads(self, count: int) -> None:
        self._context.set_threads(count)

    def close(self) -> None:
        self._context.close()
        self._library.llama_model_free(self._model.handle)


def _tokens(part: Part, stories: dict[int, Story]) -> Sequence[int]:
    if part.story == JUNK:
        return [9 + place % 7 for place in range(part.start, part.stop)]
    return stories[part.story][part.start : part.stop]


def _load(library: Any, path: Path, sealed: int, how: Load) -> Any:
    params = library.llama_model_default_params()
    params.n_gpu_layers = 0
    if how == "memory":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fdopen.restype = ctypes.c_void_p
        stream = libc.fdopen(os.open(f"/proc/self/fd/{sealed}", os.O_RDONLY), b"rb")
        model = library.llama_model_load_from_file_ptr(stream, params)
    else:
        params.load_mode = library.LLAMA_LOAD_MODE_MMAP if how == "mmap" else library.LLAMA_LOAD_MODE_NONE
        model = library.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ValueError(f"llama.cpp refused {path.name}")
    return model
