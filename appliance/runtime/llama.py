"""One GGUF model in one llama.cpp context: tokenize, generate, score. Logits are read as they are, never rounded.

Numerics: two sequences with separate KV caches (`kv_unified` off), flash attention off, one micro-batch size; with
the reference engine the bits do not depend on any of these, nor on the number of threads.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from appliance.runtime import sampler
from appliance.runtime.chat import ChatTemplate
from attest.job import Sampling
from attest.sample import Choice, Generation, Message, StopReason

BATCH_TOKENS = 512


class RequestError(Exception):
    """A request that this model cannot serve; `code` as in a sample's error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Deadline:
    """The moment at which a request has to end."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    def check(self) -> None:
        """Raises `RequestError` once the time is over."""
        if time.monotonic() > self._end:
            raise RequestError("deadline", f"expected an answer within {self.timeout_s:g} s, found none")


class Model:
    """A loaded model. `library` is the binding's module, `fd` the sealed memory of its file."""

    def __init__(self, library: Any, fd: int, *, context_tokens: int, threads: int) -> None:
        self._c = library
        self._model = _load(library, fd)
        self._vocab = library.llama_model_get_vocab(self._model)
        self.vocabulary = int(library.llama_vocab_n_tokens(self._vocab))
        trained = int(library.llama_model_n_ctx_train(self._model))
        self.context_tokens = min(context_tokens, trained) if trained > 0 else context_tokens
        self._context = self._make_context(threads)
        self._memory = library.llama_get_memory(self._context)
        self._batch = library.llama_batch_init(BATCH_TOKENS, 0, 1)
        self.template = self._chat_template()

    # -- text ---------------------------------------------------------------------------------------------------------

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the conversation, rendered with the model's chat template (else the contents, joined)."""
        if self.template is None:
            return self.tokenize("\n".join(message.content for message in messages), special=False, add_bos=True)
        return self.tokenize(self.template.render(messages), special=True, add_bos=False)

    def tokenize(self, text: str, *, special: bool, add_bos: bool) -> list[int]:
        """Token ids of `text`; `special` reads special tokens in it, `add_bos` lets the model add its first token."""
        data = text.encode()
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        count = int(self._c.llama_tokenize(self._vocab, data, len(data), tokens, room, add_bos, special))
        if count < 0:
            raise RequestError("tokenize", f"the tokenizer wants {-count} tokens for {len(data)} bytes")
        return list(tokens[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token."""
        buffer = ctypes.create_string_buffer(256)
        count = int(self._c.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special))
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = int(self._c.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special))
        return buffer.raw[:count]

    # -- requests -----------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: Sequence[int],
        settings: Sampling,
        stop: Sequence[str],
        *,
        seed: int,
        stream: str,
        deadline: Deadline,
    ) -> Generation:
        """A completion of `prompt`. Raises `RequestError` when the prompt does not fit or time runs out."""
        logits = self._start(prompt, deadline)
        fingerprint, tokens, logprobs, text = hashlib.sha256(), [], [], b""
        stops, reason = [item.encode() for item in stop], "length"
        for position in range(settings.max_tokens):
            fingerprint.update(logits.tobytes())
            draw = sampler.choose(logits, settings, seed, stream, position)
            if self._c.llama_vocab_is_eog(self._vocab, draw.token):
                reason = "eos"
                break
            tokens.append(draw.token)
            logprobs.append(sampler.decimal(draw.logprob))
            text += self.piece(draw.token)
            if any(item in text for item in stops):
                text, reason = _cut(text, stops), "stop"
                break
            if len(prompt) + len(tokens) >= self.context_tokens:
                reason = "context"
                break
            if len(tokens) < settings.max_tokens:
                deadline.check()
                logits = self._decode([draw.token], len(prompt) + position, 0)[0]
        return Generation(
            tokens=tuple(tokens),
            text=_readable(text),
            stop=_stop_reason(reason),
            logprobs=tuple(logprobs),
            logits_digest="sha256:" + fingerprint.hexdigest(),
        )

    def choose(self, prompt: Sequence[int], options: Sequence[str], *, deadline: Deadline) -> list[Choice]:
        """Each option's log-likelihood after `prompt`; the prompt is decoded once and copied."""
        first = self._start(prompt, deadline).copy()
        choices = []
        for option in options:
            tokens = self.tokenize(option, special=False, add_bos=False)
            if not tokens or len(prompt) + len(tokens) > self.context_tokens:
                raise RequestError("option", f"option {option[:80]!r} is empty or does not fit into the context")
            self._c.llama_memory_seq_rm(self._memory, 1, -1, -1)
            self._c.llama_memory_seq_cp(self._memory, 0, 1, -1, -1)
            rows = [first, *self._decode(tokens[:-1], len(prompt), 1, every=True)]
            total = 0.0
            for row, token in zip(rows, tokens, strict=True):
                total += sampler.logprob(row, token)
            fingerprint = hashlib.sha256(b"".join(row.tobytes() for row in rows))
            choices.append(
                Choice(
                    text=option,
                    tokens=tuple(tokens),
                    logprob=sampler.decimal(total),
                    logits_digest="sha256:" + fingerprint.hexdigest(),
                )
            )
            deadline.check()
        return choices

    # -- llama.cpp ----------------------------------------------------------------------------------------------------

    def _start(self, prompt: Sequence[int], deadline: Deadline) -> sampler.Logits:
        """Decode `prompt` into an empty sequence 0; the logits after its last token."""
        if not prompt:
            raise RequestError("empty-prompt", "expected a prompt of at least one token, found none")
        if len(prompt) >= self.context_tokens:
            raise RequestError(
                "prompt-too-long", f"expected fewer than {self.context_tokens} prompt tokens, found {len(prompt)}"
            )
        self._c.llama_memory_clear(self._memory, False)
        rows: list[sampler.Logits] = []
        for at in range(0, len(prompt), BATCH_TOKENS):
            deadline.check()
            rows = self._decode(prompt[at : at + BATCH_TOKENS], at, 0)
        return rows[-1]

    def _decode(
        self, tokens: Sequence[int], position: int, sequence: int, *, every: bool = False
    ) -> list[sampler.Logits]:
        """Decode `tokens` from `position` on; logits after the last one, or after `every` one, as views or copies."""
        rows: list[sampler.Logits] = []
        for at in range(0, len(tokens), BATCH_TOKENS):
            part = tokens[at : at + BATCH_TOKENS]
            batch = self._batch
            batch.n_tokens = len(part)
            for i, token in enumerate(part):
                batch.token[i], batch.pos[i] = token, position + at + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
                batch.logits[i] = every or i == len(part) - 1
            code = int(self._c.llama_decode(self._context, batch))
            if code:
                raise RequestError("decode", f"llama_decode returned {code} for {len(part)} tokens at {position + at}")
            wanted = range(len(part)) if every else [len(part) - 1]
            for i in wanted:
                pointer = self._c.llama_get_logits_ith(self._context, i)
                rows.append(np.ctypeslib.as_array(pointer, (self.vocabulary,)).copy())
        return rows

    def _make_context(self, threads: int) -> Any:
        params = self._c.llama_context_default_params()
        params.n_seq_max = 2
        params.n_ctx = 2 * self.context_tokens
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = self._c.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.kv_unified = False
        params.no_perf = True
        context = self._c.llama_init_from_model(self._model, params)
        if not context:
            raise RequestError("context", f"llama.cpp made no context of {self.context_tokens} tokens")
        return context

    def _chat_template(self) -> ChatTemplate | None:
        source = self._c.llama_model_chat_template(self._model, None)
        if not source:
            return None
        bos, eos = (f(self._vocab) for f in (self._c.llama_vocab_bos, self._c.llama_vocab_eos))
        texts = [
            self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else "" for token in (bos, eos)
        ]
        return ChatTemplate(source.decode("utf-8", "replace"), bos=texts[0], eos=texts[1])


def _load(library: Any, fd: int) -> Any:
    params = library.llama_model_default_params()
    params.n_gpu_layers = 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fdopen.restype = ctypes.c_void_p
    os.lseek(fd, 0, os.SEEK_SET)
    stream = libc.fdopen(fd, b"rb")
    model = library.llama_model_load_from_file_ptr(stream, params)
    if not model:
        raise RequestError("load", "llama.cpp refused the model; its log, above, says why")
    return model


def _cut(text: bytes, stops: Sequence[bytes]) -> bytes:
    return text[: min(at for item in stops if (at := text.find(item)) >= 0)]


def _readable(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _stop_reason(reason: str) -> StopReason:
    assert reason in ("eos", "length", "stop", "context")
    return reason  # type: ignore[return-value]
