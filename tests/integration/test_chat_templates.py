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
from attest.sample import Message
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


def refuse(message: str) -> NoReturn:
    raise ValueError(message)


def date(pattern: str) -> str:
    for field, text in DATE.items():
        pattern = pattern.replace(field, text)
    return pattern


def plain(source: str, messages: list[Message]) -> str | None:
    """What Jinja prints, set up as the libraries do that chat templates are written for; None where it fails."""

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": refuse, "strftime_now": date}
    variables = {"messages": [message.model_dump() for message in messages], "tools": None, **TOKENS}
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
