"""Renders the chat template that a GGUF file carries, in the Jinja sandbox, inside the sealed model worker.

A template is part of the model, and so as hostile as the model: it sees the messages and the special tokens, and what
it costs is bounded (`appliance.templates`). Contents are as hostile as their data set: what looks like a special token
in a content stays text.

1. Whatever in a content is the text of a special token is put between two marks, which are no characters of any text.
2. The template renders the conversation; what stands between marks becomes a segment to be read without special tokens.
   A conversation without such texts is one segment, so its tokens are the usual ones.
3. The special tokens in the rest are compared with those of the same conversation with harmless contents. A template
   that cuts, joins or changes contents until one appears (or disappears) fails that sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from appliance.templates import Sandbox
from attest.sample import Message

MAX_PROMPT_CHARS = 1 << 20
MARK, END_OF_MARK = "\ufdd0", "\ufdd1"  # noncharacters: Unicode keeps them for uses like this one
MARKED = re.compile(f"{MARK}([^{MARK}{END_OF_MARK}]*){END_OF_MARK}")
HARMLESS = "x"
DATE = {
    "%Y": "2026", "%y": "26", "%m": "01", "%d": "01", "%-d": "1", "%e": " 1", "%-m": "1", "%j": "001",
    "%B": "January", "%b": "Jan", "%h": "Jan", "%A": "Thursday", "%a": "Thu",
    "%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM", "%F": "2026-01-01", "%D": "01/01/26", "%T": "00:00:00",
    "%Z": "UTC", "%z": "+0000", "%%": "%",
}  # fmt: skip
"""The first of January 2026, midnight UTC: a prompt is no function of the clock, so for templates it is always then."""
DATE_FIELD = re.compile(r"%-?.|%")


class ChatTemplateError(ValueError):
    """The template could not be compiled or rendered, or not with these contents."""


class Segment(NamedTuple):
    """A part of a prompt."""

    text: str
    """What it says; never empty."""
    special: bool
    """Whether the texts of special tokens in it are special tokens."""


class ChatTemplate:
    """A compiled template.

    `bos` and `eos` are the texts of the model's special tokens, `special` those of all its control tokens: whatever
    the tokenizer takes for one token when it reads special tokens, and for text when it does not. Raises
    `ChatTemplateError`.
    """

    def __init__(self, source: str, *, bos: str, eos: str, special: Iterable[str] = ()) -> None:
        self._environment = Sandbox(trim_blocks=True, lstrip_blocks=True)
        self._environment.globals["raise_exception"] = _refuse
        self._environment.globals["strftime_now"] = _date
        self._tokens = {"bos_token": bos, "eos_token": eos}
        longest_first = sorted({text for text in special if text}, key=lambda text: (-len(text), text))
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        try:
            self._template = self._environment.parsed(source)
        except Exception as error:
            # Jinja compiles to Python, whose compiler has errors of its own.
            raise ChatTemplateError(f"the model's chat template does not compile: {_short(error)}") from None

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """The prompt up to where the assistant speaks. Raises `ChatTemplateError`."""
        contents = [message.content for message in messages]
        if any(mark in content for content in contents for mark in (MARK, END_OF_MARK)):
            raise ChatTemplateError("expected a content of characters, found the noncharacter U+FDD0 or U+FDD1")
        # 1. Mark.
        marked = [self._special.sub(rf"{MARK}\g<0>{END_OF_MARK}", content) for content in contents]
        # 2. Render.
        text = self._render(messages, marked)
        segments = [Segment(part, special=place % 2 == 0) for place, part in enumerate(MARKED.split(text)) if part]
        if sum(len(part.text) for part in segments) > MAX_PROMPT_CHARS:
            raise ChatTemplateError(f"expected a prompt of at most {MAX_PROMPT_CHARS} characters, found {len(text)}")
        if any(mark in part.text for part in segments for mark in (MARK, END_OF_MARK)):
            raise ChatTemplateError("the model's chat template cuts through the text of a special token in a content")
        # 3. Compare.
        harmless = [HARMLESS if content.strip() else content for content in contents]
        expected = self._special.findall(self._render(messages, harmless))
        if [found for part in segments if part.special for found in self._special.findall(part.text)] != expected:
            raise ChatTemplateError("the special tokens of the prompt would depend on what a message says")
        return segments

    def _render(self, messages: Sequence[Message], contents: Sequence[str]) -> str:
        variables: dict[str, Any] = {
            "messages": [
                message.model_dump() | {"content": content} for message, content in zip(messages, contents, strict=True)
            ],
            "add_generation_prompt": True,
            "tools": None,
            **self._tokens,
        }
        try:
            return self._environment.text(self._template, variables)
        except Exception as error:
            # A hostile template can raise anything that Python can; its sample fails, the worker goes on.
            problem = f"{type(error).__name__}: {_short(error)}"
            raise ChatTemplateError(f"the model's chat template failed: {problem}") from None


def _short(error: Exception) -> str:
    return str(error)[:400]


def _refuse(message: str) -> NoReturn:
    raise ChatTemplateError(str(message)[:400])


def _date(pattern: str) -> str:
    """`DATE` as `strftime` would print it, without the C library's locale, and without its widths."""

    def field(found: re.Match[str]) -> str:
        if found.group() not in DATE:
            raise ChatTemplateError(f"expected a date of {' '.join(DATE)}, found {found.group()!r}")
        return DATE[found.group()]

    return DATE_FIELD.sub(field, pattern)
