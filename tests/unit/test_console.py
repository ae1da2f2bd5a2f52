"""What the command lines share: exit codes of real processes, and output that cannot steer a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest.console import one_line, printable

APP = """
import sys
import typer
from attest import console
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported, VerificationError

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def go(what: str) -> None:
    if what == "json":
        console.print_json({"b": [1, None], "a": "\\u00e9"})
    if what == "json-hostile":
        console.print_json({"a": "\\x1b[2J\\x9b2J\\u202e\\x7f\\r"})
    if what == "rejected":
        raise VerificationError("layer", "code", expected="a\\x1b[31mb\\x07", found="\\u202ec\\x9b31m")
    if what == "unsupported":
        raise Unsupported("thing", "[bold]v2[/bold] :smile:")
    if what == "malformed":
        raise MalformedInput("thing\\nACCEPTED", "x\\r\\nACCEPTED\\n\\nACCEPTED: all is well")
    if what == "environment":
        raise EnvironmentProblem("no engine")
    if what == "surrogate":
        raise MalformedInput("a\\ud800b", "c")
    if what == "long":
        raise MalformedInput("thing", "x" * 300 + " " + "y" * 300)
    if what == "bug":
        raise KeyError("bug")
    if what == "interrupted":
        raise KeyboardInterrupt
    if what == "missing":
        open("/nonexistent/\\x1b[1mfile")
    if what == "exit":
        raise typer.Exit(7)
    if what == "pipe":
        raise BrokenPipeError("the reader is gone")
    if what == "flood":
        for _ in range(100_000):
            console.OUT.print("x" * 80)
        raise VerificationError("layer", "code", expected="a", found="b")


console.run(app, "go")
"""
RUNS = {
    "nothing": 0,
    "json": 0,
    "json-hostile": 0,
    "rejected": 10,
    "unsupported": 20,
    "malformed": 30,
    "surrogate": 30,
    "long": 30,
    "environment": 1,
    "bug": 1,
    "missing": 1,
    "interrupted": 130,
    "exit": 7,
    "--unknown": 2,
}

Ended = subprocess.CompletedProcess[bytes]


def start(script: Path, what: str, **environment: str) -> subprocess.Popen[bytes]:
    path = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, str(script), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", **environment},
    )


def finish(process: subprocess.Popen[bytes]) -> Ended:
    out, error = process.communicate(timeout=60)
    return Ended(process.args, process.returncode, out, error)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("console") / "app.py"
    path.write_text(APP)
    return path


@pytest.fixture(scope="module")
def ended(script: Path) -> dict[str, Ended]:
    """Every run, started side by side."""
    processes = {what: start(script, what) for what in RUNS}
    return {what: finish(process) for what, process in processes.items()}


@pytest.mark.parametrize(("what", "status"), RUNS.items())
def test_exit_codes(ended: dict[str, Ended], what: str, status: int) -> None:
    assert ended[what].returncode == status


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("rejected", r"REJECTED: layer/code: expected a\x1b[31mb\x07, found \u202ec\x9b31m"),
        ("unsupported", "UNSUPPORTED: thing: [bold]v2[/bold] :smile:"),
        ("environment", "ERROR: no engine"),
        ("missing", r"ERROR: /nonexistent/\x1b[1mfile: No such file or directory"),
        ("surrogate", r"MALFORMED: a\ud800b: c"),
        ("long", f"MALFORMED: thing: {'x' * 300} {'y' * 300}"),
    ],
)
def test_errors_are_one_line_on_standard_error(ended: dict[str, Ended], what: str, text: str) -> None:
    assert ended[what].stderr.decode() == text + "\n"
    assert ended[what].stdout == b""


def test_an_error_cannot_pretend_to_be_a_verdict(ended: dict[str, Ended]) -> None:
    lines = ended["malformed"].stderr.decode().splitlines()
    assert lines[0].startswith("MALFORMED: thing")
    assert not [line for line in lines if line.startswith("ACCEPTED")]


def test_a_bug_shows_itself(ended: dict[str, Ended]) -> None:
    assert b"KeyError: 'bug'" in ended["bug"].stderr


def test_json_is_sorted_and_ends_with_a_newline(ended: dict[str, Ended]) -> None:
    assert json.loads(ended["json"].stdout) == {"a": "\u00e9", "b": [1, None]}
    assert ended["json"].stdout.index(b'"a"') < ended["json"].stdout.index(b'"b"')
    assert ended["json"].stdout.endswith(b"}\n")


def test_json_cannot_steer_a_terminal(ended: dict[str, Ended]) -> None:
    text = ended["json-hostile"].stdout.decode()
    assert json.loads(text) == {"a": "\x1b[2J\x9b2J\u202e\x7f\r"}
    assert all(char.isprintable() or char == "\n" for char in text)


def test_json_is_printed_whatever_the_terminal_can_show(script: Path) -> None:
    found = finish(start(script, "json", PYTHONIOENCODING="ascii"))
    assert (found.returncode, json.loads(found.stdout)["a"]) == (0, "\u00e9")


@pytest.mark.parametrize("what", ["pipe", "flood"])
def test_a_reader_that_goes_away_is_never_a_success(script: Path, what: str) -> None:
    process = start(script, what)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr is not None
    process.stderr.close()


@given(st.text())
def test_printable_text_steers_nothing(text: str) -> None:
    found = printable(text)
    assert all(char.isprintable() or char == "\n" for char in found)
    assert printable(found) == found
    assert text.isprintable() <= (found == text)
    assert one_line(text).isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, \u00e9 \U0001f600", "plain, \u00e9 \U0001f600"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\tc\bd\x00", "a\\rb\\tc\\x08d\\x00"),
        ("\x9b\x85\u2028\u202e\u2066\ufeff\u200b", "\\x9b\\x85\\u2028\\u202e\\u2066\\ufeff\\u200b"),
        ("\ud800\U000e0001", "\\ud800\\U000e0001"),
    ],
)
def test_printable(text: str, expected: str) -> None:
    assert printable(text) == expected
