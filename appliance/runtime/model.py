"""A GGUF model in memory: its weights, its vocabulary and its chat template. It holds no state of any request.

The weights come from sealed memory. Texts are read without their special tokens unless the caller asks for them, so
what a data set says cannot forge a turn of the conversation.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

from appliance.runtime.chat import ChatTemplate, ChatTemplateError
from attest.sample import Message


class RequestError(Exception):
    """A request that this model cannot serve; `code` as in a sample's error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Model:
    """A loaded model. `library` is the binding's module, `fd` a descriptor of the model's file.

    With `vocabulary_only` nothing of the weights is read: it makes prompts, and can run nothing.
    Raises `RequestError` for a file that llama.cpp refuses (`load`) and for an architecture that the scheduler cannot
    run (`unsupported`), `ChatTemplateError` for a template that does not
    compile.
    """

    def __init__(self, library: Any, fd: int, *, vocabulary_only: bool = False) -> None:
        self.library = library
        self.handle = _load(library, fd, vocabulary_only=vocabulary_only)
        """The `llama_model *`."""
        self.vocab = library.llama_model_get_vocab(self.handle)
        """The `llama_vocab *`."""
        self.vocabulary = int(library.llama_vocab_n_tokens(self.vocab))
        """Number of tokens, the length of a row of logits."""
        stated = self._stated_context() if vocabulary_only else library.llama_model_n_ctx_train(self.handle)
        self.trained_tokens = int(stated)
        """Context length that the model was trained for; 0 where the file does not say."""
        if problem := _unsupported(library, self.handle):
            raise RequestError("unsupported", problem)
        self.template = self._chat_template()

    def prompt(self, messages: Sequence[Message], *, raw: bool = False, tools: Sequence[Any] = ()) -> list[int]:
        """Token ids of the conversation, rendered with the model's chat template, which is given the `tools`.

        Without a template, and when it is to be `raw`, they are those of the contents, joined by line feeds.
        """
        if self.template is None and tools:
            raise ChatTemplateError("the model has no chat template, and so no form for tools: use calls: grammar")
        if self.template is None or raw:
            return self.tokenize("\n".join(message.content for message in messages), special=False, add_bos=True)
        tokens: list[int] = []
        for text, special in self.template.render(messages, tools):
            tokens += self.tokenize(text, special=special, add_bos=False)
        return tokens

    def tokenize(self, text: str, *, special: bool, add_bos: bool) -> list[int]:
        """Token ids of `text`; `special` reads special tokens in it, `add_bos` lets the model add its first token."""
        data = text.encode()
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        count = int(self.library.llama_tokenize(self.vocab, data, len(data), tokens, room, add_bos, special))
        if count < 0:
            raise RequestError("tokenize", f"the tokenizer wants {-count} tokens for {len(data)} bytes")
        return list(tokens[:count])

    @property
    def first(self) -> int:
        """The token that a text begins after: the model's first token, or where it has none its last."""
        bos, eos = (int(f(self.vocab)) for f in (self.library.llama_vocab_bos, self.library.llama_vocab_eos))
        if bos < 0 and eos < 0:
            raise RequestError("empty-prompt", "expected a model with a first or a last token, found one without")
        return bos if bos >= 0 else eos

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token."""
        buffer = ctypes.create_string_buffer(256)
        count = int(self.library.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special))
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = int(self.library.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special))
        return buffer.raw[:count]

    def ends(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        return bool(self.library.llama_vocab_is_eog(self.vocab, token))

    def _stated_context(self) -> int:
        """The context length in the file's header: without the weights llama.cpp leaves its own number at zero."""
        text = self._metadata(self._metadata("general.architecture") + ".context_length")
        return int(text) if text.isascii() and text.isdecimal() else 0

    def _metadata(self, key: str) -> str:
        """The value of `key` in the file's header, as text; empty where there is none."""
        buffer = ctypes.create_string_buffer(64)
        found = int(self.library.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))) >= 0
        return buffer.value.decode("utf-8", "replace") if found else ""

    def _chat_template(self) -> ChatTemplate | None:
        source = self.library.llama_model_chat_template(self.handle, None)
        if not source:
            return None
        bos, eos = (f(self.vocab) for f in (self.library.llama_vocab_bos, self.library.llama_vocab_eos))
        texts = [
            self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else "" for token in (bos, eos)
        ]
        return ChatTemplate(
            source.decode("utf-8", "replace"), bos=texts[0], eos=texts[1], special=self._control_texts()
        )

    def _control_texts(self) -> list[str]:
        """The texts that are one token when special tokens are read, and plain text when they are not."""
        mask = self.library.LLAMA_TOKEN_ATTR_CONTROL | self.library.LLAMA_TOKEN_ATTR_UNKNOWN
        controls = [i for i in range(self.vocabulary) if self.library.llama_vocab_get_attr(self.vocab, i) & mask]
        return [self.library.llama_vocab_get_text(self.vocab, i).decode("utf-8", "replace") for i in controls]


def _unsupported(library: Any, handle: Any) -> str | None:
    """Why the scheduler cannot run this model, if it cannot."""
    if library.llama_model_is_recurrent(handle) or library.llama_model_is_hybrid(handle):
        return (
            "expected an attention model, found one with a recurrent state (Mamba, RWKV or a hybrid), which cannot be "
            "cut back to an earlier token: docs/determinism.md lists what is supported"
        )
    if library.llama_model_has_encoder(handle):
        return "expected a decoder-only model, found one with an encoder: docs/determinism.md lists what is supported"
    return None


def _load(library: Any, fd: int, *, vocabulary_only: bool) -> Any:
    params = library.llama_model_default_params()
    params.n_gpu_layers = 0
    params.vocab_only = vocabulary_only
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fdopen.restype = ctypes.c_void_p
    os.lseek(fd, 0, os.SEEK_SET)
    stream = libc.fdopen(fd, b"rb")
    model = library.llama_model_load_from_file_ptr(stream, params)
    if not model:
        raise RequestError("load", "llama.cpp refused the model; its log, above, says why")
    return model
