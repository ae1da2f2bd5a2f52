"""The one family of errors, and the exit code that each carries.

Bad input never raises anything else: a parser raises `MalformedInput`, a check raises `VerificationError`, and a
form that is well made but not known here raises `Unsupported`. A caller's own mistake stays a `TypeError` or a
`RuntimeError`, and the command line reports it as our fault (exit code 1).
"""

from __future__ import annotations

from enum import IntEnum

MAX_QUOTED_CHARS = 600
"""Of what was expected and found, in a message; the error itself holds all of it."""


class Exit(IntEnum):
    """Exit codes of every command line."""

    ACCEPTED = 0
    """The input was accepted, the work was done."""
    FAULT = 1
    """Our fault: a bug, or an environment that the command cannot work in."""
    REJECTED = 10
    """The input is well formed and known, and a check failed."""
    UNSUPPORTED = 20
    """The input is well formed, but its kind or version is not known here."""
    MALFORMED = 30
    """The input cannot be read as what it claims to be."""


class VitrineError(Exception):
    """Base of all errors raised for bad input. `exit_code` is what a command line returns for it."""

    exit_code = Exit.FAULT


class MalformedInput(VitrineError):  # noqa: N818 - named after the outcome, as in the exit codes
    """Bytes that cannot be read as `what`. `problem` says what was expected and what was found."""

    exit_code = Exit.MALFORMED

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what}: {problem}")
        self.what = what
        self.problem = problem


class Unsupported(VitrineError):  # noqa: N818
    """A well-formed `what` of a kind or version that this release does not know. `problem` names it."""

    exit_code = Exit.UNSUPPORTED

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what}: {problem}")
        self.what = what
        self.problem = problem


class VerificationError(VitrineError):
    """A check that failed: `layer` and `code` name the check, `expected` and `found` say why.

    `advice` is what the reader can do next; it may be empty.
    """

    exit_code = Exit.REJECTED

    def __init__(self, layer: str, code: str, *, expected: object, found: object, advice: str = "") -> None:
        text = f"{layer}/{code}: expected {_short(expected)}, found {_short(found)}"
        super().__init__(f"{text}. {advice}" if advice else text)
        self.layer = layer
        self.code = code
        self.expected = str(expected)
        self.found = str(found)
        self.advice = advice


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_QUOTED_CHARS else text[:MAX_QUOTED_CHARS] + "..."


class EnvironmentProblem(VitrineError):  # noqa: N818
    """This host, or what is installed on it, cannot do what was asked. The message says what to do next."""
