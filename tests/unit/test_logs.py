"""Logs hold names, counts and digests, whatever is passed to them; errors that nobody caught are not quoted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from appliance import logs
from tests.conftest import ROOT

SECRET = "zyxomma-4711-quagga"


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run some Python with logging set up as a command line does it."""
    start = "import structlog; from appliance import logs; logs.configure(verbose=True); LOG = structlog.get_logger()\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, cwd=ROOT, timeout=60)


def logged(code: str) -> dict[str, object]:
    """The one line that some Python logs."""
    done = python(code)
    assert done.returncode == 0, done.stderr
    value: dict[str, object] = json.loads(done.stderr)
    return value


def test_names_counts_and_digests_pass() -> None:
    line = logged("LOG.info('sealed', worker='eval', layers=12, share=0.5, done=True, digest='sha256:' + 'a' * 64)")
    assert line["event"] == "sealed"
    assert (line["worker"], line["layers"], line["share"], line["done"]) == ("eval", 12, 0.5, True)
    assert line["digest"] == "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (f"b'{SECRET}'", "(19 bytes)"),
        (f"bytearray(b'{SECRET}')", "(19 bytes)"),
        (f"'{SECRET} ' * 100", "(2000 characters)"),
        (f"ValueError('{SECRET}')", "ValueError (message withheld)"),
        (f"{{'prompt': '{SECRET}'}}", "(dict)"),
        (f"['{SECRET}'] * 100", "(100 items)"),
        (f"[b'{SECRET}']", ["(19 bytes)"]),
    ],
)
def test_what_may_hold_content_is_replaced_by_its_kind_and_size(value: str, shown: object) -> None:
    line = logged(f"LOG.info('event', value={value})")
    assert line["value"] == shown
    assert SECRET not in json.dumps(line)


def test_an_exception_is_logged_by_its_class() -> None:
    done = python(f"prompt = '{SECRET}'\ntry:\n    {{}}[prompt]\nexcept KeyError:\n    LOG.exception('failed')")
    assert "KeyError (message withheld)" in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "raise RuntimeError(SECRET)",
        "try:\n    {}[SECRET]\nexcept KeyError as error:\n    raise ValueError(SECRET) from error",
        "try:\n    {}[SECRET]\nexcept KeyError:\n    raise ValueError(SECRET)",
        "from threading import Thread\ndef f(): raise RuntimeError(SECRET)\nt = Thread(target=f); t.start(); t.join()",
        "class Last:\n    def __del__(self): raise RuntimeError(SECRET)\nlast = Last(); del last",
        "from pydantic import TypeAdapter\nTypeAdapter(int).validate_python(SECRET)",
    ],
    ids=["plain", "cause", "context", "thread", "finalizer", "pydantic"],
)
def test_an_error_that_nobody_caught_is_not_quoted(code: str) -> None:
    spoken = python(f"SECRET = bytes.fromhex('{SECRET.encode().hex()}').decode()\n{code}")
    assert "(message withheld)" in spoken.stderr
    assert "ERROR: a bug" in spoken.stderr
    assert SECRET not in spoken.stderr
    assert (spoken.returncode == 0) == ("Thread" in code or "__del__" in code)


def test_python_itself_would_have_quoted_it() -> None:
    done = subprocess.run([sys.executable, "-c", f"raise RuntimeError('{SECRET}')"], capture_output=True, text=True)
    assert SECRET in done.stderr


def test_causes_that_go_round_in_a_circle_end() -> None:
    first, second = ValueError(SECRET), KeyError(SECRET)
    first.__cause__, second.__cause__ = second, first
    assert logs.crash(first).splitlines() == ["KeyError (message withheld)", "ValueError (message withheld)"]


def test_places_in_this_installation_are_named() -> None:
    done = python("from attest import canonical\ncanonical.dumps({'a': 1.5})")
    assert "attest/canonical.py:" in done.stderr
    assert "in _is_plain" in done.stderr
    assert "1.5" not in done.stderr
