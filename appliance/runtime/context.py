"""One llama.cpp context: slots that each hold one sequence of tokens, and decoding into many of them at once.

Numerics: flash attention on, one KV stream a slot (`kv_unified` off), the whole sliding window kept. With an engine of
an exact profile a row of logits then depends on the tokens before it and on nothing else: not on the other pieces of
the batch, the slot, the number of threads, or how the tokens were cut into pieces.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from appliance.runtime.model import Model, RequestError

BATCH_TOKENS = 512
"""Most tokens of one decode."""
CELLS_STEP = 256
"""The engine rounds the cells of a slot up to a multiple of this."""
KV = Literal["f32", "f16", "q8_0"]
"""Types of the KV cache."""

Logits = NDArray[np.float32]


class Piece(NamedTuple):
    """Tokens to decode into one slot."""

    slot: int
    """The slot, from 0."""
    position: int
    """The place of the first token in the slot; the slot holds exactly as many."""
    tokens: Sequence[int]
    """The tokens, at least one."""
    wanted: int
    """Logits are wanted after `tokens[wanted]` and all later ones; `len(tokens)` wants none."""


class Context:
    """`slots` sequences of up to `slot_tokens` tokens each. Raises `RequestError` (`context`) when it does not fit."""

    def __init__(
        self,
        model: Model,
        *,
        slots: int,
        slot_tokens: int,
        threads: int,
        batch_tokens: int = BATCH_TOKENS,
        kv: KV = "f16",
    ) -> None:
        self.model = model
        self.slots = slots
        self.slot_tokens = slot_tokens
        self.batch_tokens = batch_tokens
        self._c = model.library
        params = self._c.llama_context_default_params()
        params.n_seq_max = slots
        params.n_ctx = slots * -(-slot_tokens // CELLS_STEP) * CELLS_STEP
        params.n_batch = params.n_ubatch = batch_tokens
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = self._c.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.type_k = params.type_v = {"f32": 0, "f16": 1, "q8_0": 8}[kv]  # ggml.h, enum ggml_type
        params.kv_unified = False
        params.swa_full = True
        params.no_perf = True
        self._context = self._c.llama_init_from_model(model.handle, params)
        if not self._context:
            raise RequestError(
                "context",
                f"llama.cpp made no context of {slots} sequences with {slot_tokens} tokens; its log, above, says why. "
                "Where memory is short, lower numerics.sequences or limits.context_tokens, or raise "
                "limits.memory_bytes",
            )
        self._memory = self._c.llama_get_memory(self._context)
        self._batch = self._c.llama_batch_init(batch_tokens, 0, 1)
        shape = (batch_tokens,)
        self._tokens, self._positions = (np.ctypeslib.as_array(a, shape) for a in (self._batch.token, self._batch.pos))
        self._wanted = np.ctypeslib.as_array(self._batch.logits, shape)
        np.ctypeslib.as_array(self._batch.n_seq_id, shape)[:] = 1
        self._row_type = ctypes.c_float * model.vocabulary

    def decode(self, pieces: Sequence[Piece]) -> list[list[Logits]]:
        """Decode all pieces in one batch of at most `batch_tokens`; the wanted rows of each, in its order.

        A row is float32, as long as the vocabulary, a view that the next decode overwrites. Raises `RequestError`
        (`decode`); what the slots hold is then unknown, and they have to be cleared.
        """
        batch, at = self._batch, 0
        for piece in pieces:
            end = at + len(piece.tokens)
            if end > self.batch_tokens:
                raise RuntimeError(f"expected at most {self.batch_tokens} tokens in a batch, found more")
            self._tokens[at:end] = piece.tokens
            self._positions[at:end] = range(piece.position, piece.position + len(piece.tokens))
            self._wanted[at:end] = 0
            self._wanted[at + piece.wanted : end] = 1
            for i in range(at, end):
                batch.seq_id[i][0] = piece.slot
            at = end
        batch.n_tokens = at
        if code := int(self._c.llama_decode(self._context, batch)):
            raise RequestError("decode", f"llama_decode returned {code} for {at} tokens of {len(pieces)} sequences")
        rows: list[list[Logits]] = []
        at = 0
        for piece in pieces:
            rows.append([self._row(at + i) for i in range(piece.wanted, len(piece.tokens))])
            at += len(piece.tokens)
        return rows

    def copy(self, source: int, target: int) -> None:
        """Make slot `target` hold what slot `source` holds."""
        self._c.llama_memory_seq_rm(self._memory, target, -1, -1)
        self._c.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def trim(self, slot: int, length: int) -> None:
        """Keep the first `length` tokens of `slot`. Raises `RequestError` for a model that cannot go back."""
        if not self._c.llama_memory_seq_rm(self._memory, slot, length, -1):
            raise RequestError("trim", "this model's memory cannot be cut back to an earlier token")

    def clear(self) -> None:
        """Empty all slots."""
        self._c.llama_memory_clear(self._memory, False)

    def set_threads(self, threads: int) -> None:
        """Decode on this many threads from now on."""
        self._c.llama_set_n_threads(self._context, threads, threads)

    def close(self) -> None:
        """Free the context's memory."""
        if self._context:
            self._c.llama_batch_free(self._batch)
            self._c.llama_free(self._context)
            self._context = None

    def _row(self, index: int) -> Logits:
        pointer: Any = self._c.llama_get_logits_ith(self._context, index)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if not address:
            raise RequestError("decode", f"llama.cpp gave no logits for token {index} of the batch")
        row: Logits = np.frombuffer(memoryview(self._row_type.from_address(address)), np.float32)
        return row
