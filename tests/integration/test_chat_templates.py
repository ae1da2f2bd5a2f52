"""The chat templates of models in use: those that the pinned llama.cpp source carries print what plain Jinja prints."""

from __future__ import annotations

import json
import tarfile
from typing import Any, NoReturn

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from appliance.runtime.chat import DATE, ChatTemplate, ChatTemplateError
from appliance.template_syntax import Generation
from attest.sample import Call, Message
from tests.conftest import ROOT

pytestmark = pytest.mark.engine

SYSTEM = Message(role="system", content="Be brief.")
USER = Message(role="user", content="Why is a < b & c?\n")
CONVERSATIONS = [[USER], [SYSTEM, USER], [SYSTEM, USER, Message(role="assistant", content="So."), USER]]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|eot_id|>", "[INST]", "<|end|>"]


def templates() -> dict[str, str]:
    (archive,) = (ROOT / "build" / "engine" / "source").glob("*.tar.gz")
    found = {}
    with tarfile.open(archive) as files:
        for member in files:
            if "/models/templates/" in member.name and member.name.endswith(".jinja"):
                content = files.extractfile(member)
                assert content is not None
                found[member.name.rpartition("/")[2]] = content.read().decode()
    return found


def as_dict(message: Message) -> dict[str, Any]:
    """A message in the form that templates are written for, its calls numbered from 0."""
    value = message.model_dump(exclude_none=True)
    if message.tool_calls:
        value["tool_calls"] = [
            {
                "type": "function",
                "id": f"call0000{number}",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for number, call in enumerate(message.tool_calls)
        ]
    return value | ({"tool_call_id": "call00000"} if message.role == "tool" else {})


def refuse(message: str) -> NoReturn:
    raise ValueError(message)


def date(pattern: str) -> str:
    for field, text in DATE.items():
        pattern = pattern.replace(field, text)
    return pattern


def plain(source: str, messages: list[Message], tools: list[Any] | None = None) -> str | None:
    """What Jinja prints, set up as the libraries do that chat templates are written for; None where it fails."""

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": refuse, "strftime_now": date}
    variables = {"messages": [as_dict(message) for message in messages], "tools": tools, **TOKENS}
    try:
        return environment.from_string(source).render(variables, add_generation_prompt=True)
    except Exception:
        return None


def test_templates_of_models_print_what_they_print_elsewhere() -> None:
    if not list((ROOT / "build" / "engine" / "source").glob("*.tar.gz")):
        pytest.skip("no source archive in build/engine/source: run `make engine`")
    rendered, both_fail = 0, 0
    for name, source in templates().items():
        for messages in CONVERSATIONS:
            expected = plain(source, messages)
            try:
                template = ChatTemplate(source, bos="<s>", eos="</s>", special=SPECIAL)
                found = "".join(part.text for part in template.render(messages))
            except ChatTemplateError as error:
                assert expected is None, (name, str(error))
                both_fail += 1
                continue
            assert found == expected, name
            rendered += 1
    assert rendered > 150
    assert both_fail < 30


CALL = Call(name="calc", arguments='{"a": 1, "op": "+", "b": [2.5, null]}')
WITH_TOOLS = [
    [USER],
    [USER, Message(role="assistant", content="", tool_calls=(CALL,)), Message(role="tool", content="46", name="calc")],
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "calc",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {"a": {"type": "number", "description": "One."}}},
        },
    }
]


def test_templates_with_tools_print_what_they_print_elsewhere() -> None:
    if not list((ROOT / "build" / "engine" / "source").glob("*.tar.gz")):
        pytest.skip("no source archive in build/engine/source: run `make engine`")
    told, refused, others = set(), {}, set()
    for name, source in templates().items():
        for messages in WITH_TOOLS:
            expected = plain(source, messages, TOOLS)
            try:
                template = ChatTemplate(source, bos="<s>", eos="</s>", special=SPECIAL)
                found = "".join(part.text for part in template.render(messages, TOOLS))
            except ChatTemplateError as error:
                if expected is not None:
                    refused[name] = str(error)
                continue
            if found != expected:
                others.add(name)
            elif "46" in found and "calc" in found:
                told.add(name)
    assert refused == {}
    assert len(told) > 50
    # Plain Jinja cannot write the JSON of a generator, and after `safe` escapes what is added for HTML.
    assert others == {"llama-cpp-deepseek-r1.jinja", "meetkai-functionary-medium-v3.1.jinja"}
