"""The errors: one family, an exit code each, and messages that say expected and found."""

from __future__ import annotations

import pytest

from attest.errors import EnvironmentProblem, Exit, MalformedInput, Unsupported, VerificationError, VitrineError


def test_exit_codes_are_the_published_ones() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "ACCEPTED": 0,
        "FAULT": 1,
        "REJECTED": 10,
        "UNSUPPORTED": 20,
        "MALFORMED": 30,
    }


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MalformedInput("job", "expected a mapping"), 30, "job: expected a mapping"),
        (Unsupported("job", "found v2"), 20, "job: found v2"),
        (VerificationError("log", "size", expected=3, found=[4]), 10, "log/size: expected 3, found [4]"),
        (VerificationError("a", "b", expected="", found=None, advice="Ask."), 10, "a/b: expected , found None. Ask."),
        (EnvironmentProblem("no engine"), 1, "no engine"),
    ],
)
def test_every_error_has_its_code_and_message(error: VitrineError, code: int, text: str) -> None:
    assert isinstance(error, VitrineError)
    assert error.exit_code == code
    assert str(error) == text


def test_fields_are_kept_for_programs() -> None:
    error = VerificationError("log", "size", expected=3, found={"a": 1}, advice="Ask the lab")
    assert (error.layer, error.code, error.expected, error.found, error.advice) == (
        "log",
        "size",
        "3",
        "{'a': 1}",
        "Ask the lab",
    )
    assert (MalformedInput("a", "b").what, MalformedInput("a", "b").problem) == ("a", "b")
    assert (Unsupported("a", "b").what, Unsupported("a", "b").problem) == ("a", "b")


@pytest.mark.parametrize("kind", [MalformedInput, Unsupported, VerificationError, EnvironmentProblem])
def test_a_callers_own_mistake_is_not_of_the_family(kind: type[VitrineError]) -> None:
    assert not issubclass(kind, (ValueError, TypeError, RuntimeError, OSError))
    assert not any(issubclass(kind, other) for other in VitrineError.__subclasses__() if other is not kind)
