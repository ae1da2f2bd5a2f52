"""Renders the chat template that a GGUF file carries, in the Jinja sandbox, inside the sealed model worker.

A template is part of the model, and so as hostile as the model: it sees the messages and the special tokens, and what
it costs is bounded (`appliance.templates`). Contents are as hostile as their data set: what looks like a special token
in a content stays text. So does what is in the arguments of a tool call, which a model wrote, and in a tool's name; the
tools themselves are the suite's, and have no such texts.

1. Whatever in a content is the text of a special token is put between two marks, which are no characters of any text.
2. The template renders the conversation; what stands between marks becomes a segment to be read without special tokens.
   A conversation without such texts is one segment, so its tokens are the usual ones.
3. The special tokens in the rest are compared with those of the same conversation with harmless contents. A template
   that cuts, joins or changes contents until one appears (or disappears) fails that sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple, NoReturn

from appliance.templates import Sandbox
from attest import canonical
from attest.errors import MalformedInput
from attest.sample import Call, Message

MAX_PROMPT_CHARS = 1 << 20
MARK, END_OF_MARK = "\ufdd0", "\ufdd1"  # noncharacters: Unicode keeps them for uses like this one
MARKED = re.compile(f"{MARK}([^{MARK}{END_OF_MARK}]*){END_OF_MARK}")
HARMLESS = "x"
CALL_ID = "call{:05d}"
"""Of a tool call, by its number in the conversation: nine letters and digits, as Mistral's templates want it."""
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

    def render(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[Segment]:
        """The prompt up to where the assistant speaks; `tools` are what it may call. Raises `ChatTemplateError`."""
        if any(self._special.search(text) or MARK in text or END_OF_MARK in text for text in _texts(tools)):
            raise ChatTemplateError("expected tools without the texts of special tokens")
        # 1. Mark.
        marked = _conversation(messages, self._mark)
        # 2. Render.
        text = self._render(marked, tools)
        segments = [Segment(part, special=place % 2 == 0) for place, part in enumerate(MARKED.split(text)) if part]
        if sum(len(part.text) for part in segments) > MAX_PROMPT_CHARS:
            raise ChatTemplateError(f"expected a prompt of at most {MAX_PROMPT_CHARS} characters, found {len(text)}")
        if any(mark in part.text for part in segments for mark in (MARK, END_OF_MARK)):
            raise ChatTemplateError("the model's chat template cuts through the text of a special token in a content")
        # 3. Compare.
        harmless = _conversation(messages, lambda text: HARMLESS if text.strip() else text)
        expected = self._special.findall(self._render(harmless, tools))
        if [found for part in segments if part.special for found in self._special.findall(part.text)] != expected:
            raise ChatTemplateError("the special tokens of the prompt would depend on what a message says")
        return segments

    def _mark(self, text: str) -> str:
        if MARK in text or END_OF_MARK in text:
            raise ChatTemplateError("expected a content of characters, found the noncharacter U+FDD0 or U+FDD1")
        return self._special.sub(rf"{MARK}\g<0>{END_OF_MARK}", text)

    def _render(self, messages: list[dict[str, Any]], tools: Sequence[Any]) -> str:
        variables: dict[str, Any] = {
            "messages": messages,
            "add_generation_prompt": True,
            "tools": list(tools) or None,
            **self._tokens,
        }
        try:
            return self._environment.text(self._template, variables)
        except Exception as error:
            # A hostile template can raise anything that Python can; its sample fails, the worker goes on.
            problem = f"{type(error).__name__}: {_short(error)}"
            raise ChatTemplateError(f"the model's chat template failed: {problem}") from None


def _conversation(messages: Sequence[Message], change: Callable[[str], str]) -> list[dict[str, Any]]:
    """The messages as templates expect them, with each text changed. Calls are numbered, and results in their order."""
    found: list[dict[str, Any]] = []
    calls, results = count(), count()
    for message in messages:
        value: dict[str, Any] = {"role": message.role, "content": change(message.content)}
        if message.tool_calls is not None:
            value["tool_calls"] = [
                {
                    "type": "function",
                    "id": CALL_ID.format(next(calls)),
                    "function": {"name": change(call.name), "arguments": _arguments(call, change)},
                }
                for call in message.tool_calls
            ]
        if message.role == "tool":
            value["tool_call_id"] = CALL_ID.format(next(results))
        if message.name is not None:
            value["name"] = change(message.name)
        found.append(value)
    return found


def _arguments(call: Call, change: Callable[[str], str]) -> dict[str, Any]:
    """A call's arguments with each text changed; names of arguments keep apart from one another."""
    try:
        value = canonical.loads(call.arguments.encode(), "arguments")
    except MalformedInput as error:
        raise ChatTemplateError(f"a tool call has arguments that cannot be read: {_short(error)}") from None
    if not isinstance(value, dict):
        raise ChatTemplateError("expected a tool call whose arguments are an object, found another value")
    changed = _changed(value, change)
    assert isinstance(changed, dict)
    return changed


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    if isinstance(value, dict):
        changed: dict[str, Any] = {}
        for name, item in value.items():
            key = change(name)
            while key in changed:
                key += HARMLESS
            changed[key] = _changed(item, change)
        return changed
    return value


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names of objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


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
