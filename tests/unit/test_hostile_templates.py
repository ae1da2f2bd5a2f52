"""Chat templates that want all time and memory: each is refused by counting, within seconds and 64 MiB."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

GROUPS: dict[str, dict[str, str]] = {
    "loops": {
        "range": "{% for x in range(10**9) %}x{% endfor %}",
        "nested": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "dropped": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        "continue": "{% for a in range(99999) %}{% for b in range(99999) %}{% continue %}{% endfor %}{% endfor %}",
        "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "recursive": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
        "body": "{% for i in range(99999) %}" + "{% set a = 1 %}" * 1000 + "{% endfor %}",
        "cycler": "{% for i in range(99999) %}{% set c = cycler(1, 2) %}{% for j in range(999) %}{{ c.next() }}"
        "{% endfor %}{% endfor %}",
        "map": "{% for i in range(9999) %}{% set y = range(9999) | map('string') | map('upper') | list %}{% endfor %}",
        "sort": "{% set x = range(9999) | list %}{% for i in range(9999) %}{% set y = x | sort(attribute='real') %}"
        "{% endfor %}",
    },
    "growth": {
        "multiply": "{{ 'a' * 10**15 }}",
        "multiply a list": "{{ ([0] * 10**9) | length }}",
        "double": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "add": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "add lists": "{% set n = namespace(x=[0]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "block": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}"
        "{% set n.x = y %}{% endfor %}",
        "keep": "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = n.x + [('a' * 99999) ~ i] %}"
        "{% endfor %}",
        "slices": "{% set b = 'a' * 1000000 %}{% set n = namespace(x=[]) %}{% for i in range(9999) %}"
        "{% set n.x = n.x + [b[1:]] %}{% endfor %}",
        "lists": "{% set n = namespace(x=[]) %}{% for i in range(999) %}{% set n.x = [n.x, ('ab' * 500000) | list] %}"
        "{% endfor %}",
        "split": "{% set n = namespace(x=[]) %}{% for i in range(999) %}{% set n.x = [n.x, ('a ' * 500000).split()] %}"
        "{% endfor %}",
        "data": "{% for i in range(99999) %}" + "a" * 60_000 + "{% endfor %}",
        "many operands": "{% set x = 'a' * 1000000 %}{{ " + "~".join(["x"] * 2000) + " }}",
        "printed list": "{% set x = '\\x00' * 1000000 %}{{ [x, x, x, x] }}",
    },
    "numbers": {
        "power": "{{ 10 ** 10 ** 10 }}",
        "squares": "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
        "round": "{{ 1.5 | round(10**8, 'ceil') }}",
        "digits": "{{ " + "9" * 60_000 + " }}",
        "width": "{{ '%999999999d' % 1 }}",
        "star": "{{ '%*d' % (999999999, 1) }}",
        "precision": "{{ '%.999999999f' | format(1) }}",
        "odd": "{{ '%999999999d' is odd }}",
        "divisible": "{{ '%999999999d' is divisibleby(5) }}",
        "date": "{{ strftime_now('%999999999Y') }}",
        "dates": "{% for i in range(99999) %}{% set x = strftime_now('%A' * 50000) %}{% endfor %}",
    },
    "filters": {
        "center": "{{ 'a' | center(10**9) }}",
        "center method": "{{ 'a'.center(10**9) }}",
        "zfill": "{{ 'a'.zfill(10**9) }}",
        "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
        "translate": "{{ ('a' * 1000000).translate({97: 'b' * 100000}) }}",
        "format": "{{ '{:>999999999}'.format(1) }}",
        "indent": "{{ ('\n' * 1000000) | indent(10**6) }}",
        "join": "{{ range(99999) | join('a' * 100000) }}",
        "join method": "{{ ('a' * 100000).join(('a' * 90000) | list) }}",
        "join long": "{% set x = 'a' * 900000 %}{{ [x, x, x, x, x, x, x, x, x, x, x, x, x, x] | join }}",
        "replace": "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
        "replace nothing": "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
        "batch": "{{ [1] | batch(10**9, 0) | list }}",
        "slice": "{{ [1] | slice(10**9) | list }}",
        "tojson": "{{ messages | tojson(indent=10**9) }}",
        "in": "{% set a = 'ab' * 250000 %}{% set b = ('ab' * 50000) ~ 'c' %}{% for i in range(99999) %}"
        "{% if b in a %}{% endif %}{% endfor %}",
        "strip": "{% set a = ' ' * 1000000 %}{% for i in range(99999) %}{% set b = a.strip() %}{% endfor %}",
    },
    "shapes": {
        "print": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
        "{{ n.x }}",
        "equal": "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
        "{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
        "hash": "{% set n = namespace(x=(1,)) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}"
        "{{ {}[n.x] }}",
        "key": "{% set n = namespace(x=(1,)) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}"
        "{{ {n.x: 1} }}",
        "json": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
        "{{ n.x | tojson }}",
        "unique": "{% set n = namespace(x=(1,)) %}{% for i in range(90000) %}{% set n.x = (n.x,) %}{% endfor %}"
        "{{ [n.x] | unique | list }}",
        "itself": "{% set n = namespace() %}{% set n.a = [n, n] %}{{ raise_exception(n) }}",
        "printed itself": "{% set n = namespace() %}{% set n.a = n %}{{ n | string }}",
        "brackets": "{{ " + "[" * 30_000,
        "nots": "{{ " + "not " * 15_000 + "1 }}",
        "dots": "{{ a" + ".a" * 30_000 + " }}",
        "ifs": "{% if 1 %}" * 6000,
        "parts": "{{ a }}" * 9000,
        "source": "x" * 100_000,
    },
}
RUN = """
import json, resource, sys, time
from appliance.runtime.chat import ChatTemplate, ChatTemplateError
from attest.sample import Message
templates = json.load(sys.stdin)
messages = [Message(role="user", content="Why?")]
ChatTemplate("{{ messages | tojson }}", bos="", eos="").render(messages)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20),) * 2)
for name, source in templates.items():
    start = time.process_time()
    try:
        ChatTemplate(source, bos="", eos="").render(messages)
        found = "rendered"
    except ChatTemplateError as error:
        found = str(error)
    print(json.dumps([name, found, time.process_time() - start]), flush=True)
"""


@pytest.mark.parametrize("group", GROUPS)
def test_a_template_that_wants_everything_is_refused(group: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(GROUPS[group]), capture_output=True, text=True, timeout=120
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (results[-1:], done.stderr[-500:])
    assert [name for name, _, _ in results] == list(GROUPS[group])
    for name, found, seconds in results:
        assert "chat template" in found, name
        assert "MemoryError" not in found, name
        assert seconds < 10, name


def test_the_bound_is_a_count() -> None:
    """The same template is refused at the same place however fast the machine is."""
    source = GROUPS["loops"]["tree"]
    runs = [
        subprocess.run([sys.executable, "-c", RUN], input=json.dumps({"x": source}), capture_output=True, text=True)
        for _ in range(2)
    ]
    found = {json.loads(run.stdout)[1] for run in runs}
    assert found == {"the model's chat template failed: Exceeded: expected at most 1000000 steps, found more"}
