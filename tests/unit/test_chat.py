"""The chat template of a model: what it sees, and that a hostile one fails with one kind of error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.runtime.chat import MAX_PROMPT_CHARS, ChatTemplate, ChatTemplateError
from attest.sample import Message

CHATML = """{%- if tools %}
{{- 'TOOLS' }}{{ tools | tojson }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role ' ~ message['role']) }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
MESSAGES = [Message(role="system", content="Be brief."), Message(role="user", content="Why?\n{{ 1 }} </s>")]


def render(source: str, messages: list[Message] = MESSAGES) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages)


def test_a_usual_template() -> None:
    assert render(CHATML) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?\n{{ 1 }} </s><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_template_raises_what_it_objects_to() -> None:
    with pytest.raises(ChatTemplateError, match="unknown role tool"):
        render(CHATML, [Message(role="tool", content="x")])


def test_what_a_template_sees() -> None:
    assert render("{{ bos_token }}|{{ eos_token }}|{{ add_generation_prompt }}|{{ tools }}") == "<s>|</s>|True|None"
    assert (
        render("{{ messages | length }}{{ messages[0] | dictsort }}")
        == "2[('content', 'Be brief.'), ('role', 'system')]"
    )
    assert render("{{ documents is defined }}{{ date_string }}") == "False"
    assert (
        render("{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}")
        == "2"
    )
    assert render("{{ messages[1].content | trim }}{{ messages[1]['content'].split('\\n')[0] }}").endswith("Why?")


def test_blocks_are_trimmed_as_templates_expect() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n") == "a\nb\nc"


def test_no_messages() -> None:
    assert render(CHATML, []) == "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ x",
        "{% nosuchtag %}",
        "{{ x | nosuchfilter }}",
        "{% for m in messages %}",
        "{% for m in messages %}" * 25 + "{% endfor %}" * 25,
        "{{ " + "1" * 5000 + " }}",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ " + "-" * 20_000 + "1 }}",
        "{{ '\\N{no such name}' }}",
        "{% set " + ".".join("a" * 5) + " = 1 %}",
        "{% block a %}{% endblock %}{% block a %}{% endblock %}",
    ],
    ids=lambda source: source[:20],
)
def test_a_template_that_does_not_compile(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source, bos="", eos="")


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ raise_exception() }}",
        "{{ messages.append(1) }}",
        "{{ messages.clear() }}",
        "{{ messages[0].update(role='user') }}",
        "{{ messages[0].pop('role') }}",
        "{% set messages[0].role = 'x' %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% for x in range(10**9) %}x{% endfor %}",
        "{{ 'a' * 10**15 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages[9].role }}",
        "{{ nothing.at_all }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{{ tools | length }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ raise_exception.__globals__['Message'] }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ (messages | attr('__class__')).__mro__ }}",
    ],
)
def test_a_template_that_fails_or_reaches_out(source: str) -> None:
    before = [message.model_dump() for message in MESSAGES]
    with pytest.raises(ChatTemplateError):
        render(source)
    assert [message.model_dump() for message in MESSAGES] == before


@pytest.mark.parametrize(
    "source",
    ["{{ ''.__class__ }}", "{{ messages.__class__ }}", "{{ raise_exception.__globals__ }}", "{{ self.__init__ }}"],
)
def test_private_attributes_are_not_there(source: str) -> None:
    assert render(source) == ""


def test_prompts_are_bounded() -> None:
    assert len(render(f"{{{{ 'a' * {MAX_PROMPT_CHARS} }}}}")) == MAX_PROMPT_CHARS
    with pytest.raises(ChatTemplateError, match="at most 1048576"):
        render(f"{{{{ 'a' * {MAX_PROMPT_CHARS + 1} }}}}")


@pytest.mark.parametrize("source", ["{{ range(99999) | random }}", "{{ lipsum() }}"])
def test_a_prompt_is_a_function_of_the_conversation(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        render(source)


@pytest.mark.parametrize("source", ["{{ bos_token.upper }}", "{{ raise_exception }}", "{{ [bos_token.upper] }}"])
def test_no_address_of_this_process_gets_into_a_prompt(source: str) -> None:
    try:
        text = render(source)
    except ChatTemplateError:
        return
    assert "0x" not in text


@given(st.text("{}%-#+ab()'.,|[]~=\n_ 0n\\", max_size=25))
def test_any_template_gives_text_or_its_error(source: str) -> None:
    try:
        assert isinstance(render(source), str)
    except ChatTemplateError as error:
        assert "chat template" in str(error)
