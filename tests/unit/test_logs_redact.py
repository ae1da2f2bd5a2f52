"""What is shown of a worker that has prompts comes from a fixed vocabulary; the rest is counted, or kept in a file."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import redact
from appliance.evals import run as evals_run
from appliance.redact import FAILURE_FILE, MAX_SHOWN_LINES, Discretion, Withheld, keep, kept, unquoted
from attest.errors import MalformedInput, VerificationError

SECRET = "zyxomma-4711-quagga"
CODE = evals_run.__file__


def discreet(*names: str) -> Discretion:
    """A worker that has prompts."""
    made = Discretion()
    made.begin(names)
    return made


def test_a_worker_without_prompts_may_say_what_it_likes() -> None:
    free = Discretion()
    assert free.line(f"loading {SECRET}\x1b[31m".encode()) == f"loading {SECRET}?[31m"
    assert free.failure("MalformedInput", f"model: found {SECRET}") == (f"model: found {SECRET}", "")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        (f'  File "{CODE}", line 12, in run', "  File appliance/evals/run.py, line 12"),
        (f'  File "{json.__file__}", line 3, in loads', "  File json/__init__.py, line 3"),
        (f'  File "/{SECRET}.py", line 3, in loads', "  File (elsewhere), line 3"),
        (f'  File "/x/appliance/{SECRET}.py", line 3, in loads', "  File (elsewhere), line 3"),
        (f'  File "{Path(CODE).parent}/../{SECRET}.py", line 3, in loads', "  File (elsewhere), line 3"),
        (f"ValueError: {SECRET}", "ValueError: (message withheld)"),
        (f"attest.errors.MalformedInput: {SECRET}", "MalformedInput: (message withheld)"),
        (f"pydantic_core._pydantic_core.ValidationError: 1 {SECRET}", "ValidationError: (message withheld)"),
        ("MemoryError", "MemoryError: (message withheld)"),
        (f"/b/llama-vocab.cpp:77: GGML_ASSERT({SECRET}) failed", "llama-vocab.cpp:77: GGML_ASSERT (message withheld)"),
        (f"ggml.c:9: GGML_ABORT({SECRET})", "ggml.c:9: GGML_ABORT (message withheld)"),
    ],
)
def test_places_and_classes_are_shown(line: str, shown: str) -> None:
    assert discreet().line(line.encode()) == shown


@pytest.mark.parametrize(
    "line",
    [
        SECRET,
        f"Traceback (most recent call last): {SECRET}",
        f"    raise ValueError('{SECRET}')",
        f"{SECRET}: no",
        f"{SECRET}Error: no",
        f"Zyxomma4711Error: {SECRET}",
        "print: x",
        "__import__",
        f"{SECRET}.cpp:77: GGML_ASSERT(x)",
        f"llama_tokenize: failed to tokenize {SECRET}",
        "",
    ],
)
def test_all_else_is_counted(line: str) -> None:
    quiet = discreet()
    shown = [quiet.line(line.encode()) for _ in range(1000)]
    said = [text for text in shown if text is not None]
    assert said == [f"({count} lines withheld: they may quote prompts)" for count in (1, 10, 100, 1000)]


@given(st.text(min_size=1, max_size=200))
def test_no_line_gets_through_as_it_is(text: str) -> None:
    shown = discreet().line(text.encode())
    assert shown is not None
    assert shown in ("(1 lines withheld: they may quote prompts)", "Traceback (most recent call last):") or any(
        mark in shown for mark in ("(message withheld)", "  File ")
    )


def test_not_many_lines_are_shown() -> None:
    quiet = discreet()
    said = [quiet.line(f"ValueError: {n}".encode()) for n in range(1000)]
    assert sum(text == "ValueError: (message withheld)" for text in said) == MAX_SHOWN_LINES


@pytest.mark.parametrize(
    ("code", "message", "begins"),
    [
        (
            "MalformedInput",
            f"suite canaries: row 3, template 'prompt.user': {SECRET}",
            "MalformedInput at suite canaries, row 3, template 'prompt.user';",
        ),
        ("MalformedInput", f"suite {SECRET}: row 12: expected, found {SECRET}", "MalformedInput at row 12;"),
        (
            "MalformedInput",
            f"row 3, template 'shots.user': {SECRET}",
            "MalformedInput at row 3, template 'shots.user';",
        ),
        ("MalformedInput", f"data set rows.jsonl, line 7: {SECRET}", "MalformedInput at line 7;"),
        (SECRET, SECRET, "an error;"),
        ("print", SECRET, "an error;"),
        ("RuntimeError", f"template '{SECRET}'", "RuntimeError;"),
    ],
)
def test_a_failure_is_told_by_class_and_place(code: str, message: str, begins: str) -> None:
    told, words = discreet("canaries").failure(code, message)
    assert told.startswith(begins)
    assert FAILURE_FILE in told
    assert SECRET not in told
    assert words == message


class FailedError(Exception):
    """An error with words of its own."""

    def __init__(self, words: str) -> None:
        super().__init__("told")
        self.words = words


def test_its_words_are_kept_for_the_owner_alone(tmp_path: Path) -> None:
    os.umask(os.umask(0))
    with pytest.raises(FailedError), kept(tmp_path):
        raise FailedError(f"{SECRET}\ud800" + "x" * 100_000)
    path = tmp_path / FAILURE_FILE
    assert path.read_text().startswith(f"FailedError: {SECRET}?xxx")
    assert path.stat().st_size < 20_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_in_its_place_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / FAILURE_FILE).symlink_to(tmp_path / "elsewhere")
    keep(FailedError(SECRET), tmp_path)
    assert (tmp_path / "elsewhere").read_text() == ""
    assert SECRET in (tmp_path / FAILURE_FILE).read_text()


def test_without_words_or_folder_nothing_is_written(tmp_path: Path) -> None:
    keep(FailedError(""), tmp_path)
    keep(ValueError(SECRET), tmp_path)
    keep(FailedError(SECRET), tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_what_a_worker_sent_is_not_quoted_once_it_has_prompts() -> None:
    with pytest.raises(MalformedInput, match=SECRET), unquoted(Discretion()):
        raise MalformedInput("results", f"found {SECRET}")
    with pytest.raises(Withheld) as caught, unquoted(discreet()):
        raise MalformedInput("results", f"found {SECRET}")
    assert SECRET not in str(caught.value)
    assert SECRET in caught.value.words
    assert caught.value.__suppress_context__
    with pytest.raises(VerificationError), unquoted(discreet()):
        raise VerificationError("seal", "kind", expected="a", found="b")


def test_a_place_is_a_file_of_this_installation() -> None:
    assert redact.place(CODE) == "appliance/evals/run.py"
    assert redact.place(str(Path(CODE).with_suffix(".txt"))) is None
    assert redact.place("appliance/evals/run.py") is None
