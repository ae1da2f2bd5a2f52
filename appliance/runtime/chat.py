"""Renders the chat template that a GGUF file carries, in Jinja's immutable sandbox, inside the sealed model worker.

A template is part of the model, and so as hostile as the model: it sees the messages and the special tokens, and it
can at worst waste the worker's time, which the controller bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from appliance.templates import checked, sandbox
from attest.sample import Message

MAX_PROMPT_CHARS = 1 << 20


class ChatTemplateError(ValueError):
    """The template could not be compiled or rendered."""


class ChatTemplate:
    """A compiled template. `bos` and `eos` are the texts of the model's special tokens."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        environment = sandbox(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        self._special = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = environment.from_string(source)
        except Exception as error:
            # Jinja compiles to Python, whose compiler has errors of its own.
            raise ChatTemplateError(f"the model's chat template does not compile: {error}") from None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt up to where the assistant speaks. Raises `ChatTemplateError`."""
        variables: dict[str, Any] = {
            "messages": [message.model_dump() for message in messages],
            "add_generation_prompt": True,
            "tools": None,
            **self._special,
        }
        try:
            text = checked(self._template.render(variables))
        except Exception as error:
            # A hostile template can raise anything that Python can; its sample fails, the worker goes on.
            raise ChatTemplateError(f"the model's chat template failed: {type(error).__name__}: {error}") from None
        if len(text) > MAX_PROMPT_CHARS:
            raise ChatTemplateError(f"expected a prompt of at most {MAX_PROMPT_CHARS} characters, found {len(text)}")
        return text


def _refuse(message: str) -> NoReturn:
    raise ChatTemplateError(message)
