"""The process that runs a data set's tests against a program that another process holds.

The tests are the data set's, pinned by its digest; they call a function that sends its arguments away and returns what
comes back. HumanEval's tests also use functions that the prompt defines (`poly`, `encode_shift`), so the prompt is
defined here as well, as its authors wrote it and without the model's completion.
"""

from __future__ import annotations

import builtins
import time
from dataclasses import dataclass
from typing import Any, Literal

from appliance.frames import ChannelError, Kind, Reader, pack, write_all
from appliance.programs import values
from attest.canonical import Model

MAX_REASON_CHARS = 200


class Trial(Model):
    """What is to be tried, as the eval worker asks for it."""

    prompt: str
    """What the model was to complete: definitions, and the head of the function."""
    completion: str
    """What the model wrote."""
    test: str
    """The data set's tests; they define `check`."""
    entry_point: str
    """The function that `check` is given."""
    timeout_s: int
    """Wall time for defining and testing."""


class Verdict(Model):
    """What came of it."""

    verdict: Literal["passed", "failed", "timeout"]
    """`passed` alone means that `check` came to its end."""
    reason: str = ""
    """For people: the error's class, where there was one. Never a program's own words."""


class _EndedError(BaseException):
    """The program can answer no more. Not an `Exception`, so that a test that expects one does not swallow it."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


@dataclass
class Candidate:
    """The program's process, as seen from here."""

    reader: Reader
    """Its answers."""
    requests: int
    """The pipe to it."""
    deadline: float
    """A `time.monotonic()` value."""
    ended: Verdict | None = None
    """Why it can answer no more."""

    def define(self, program: str, entry_point: str) -> None:
        """Have it define `program`."""
        self._ask([program, entry_point])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Have it call the function."""
        return self._ask([args, kwargs])

    def _ask(self, request: Any) -> Any:
        try:
            write_all(self.requests, pack(Kind.REQUEST, values.dump(request)), self._left())
            answer = values.load(self.reader.receive(self._left()).payload)
        except ChannelError:
            late = time.monotonic() >= self.deadline
            raise self._end("timeout" if late else "failed", "" if late else "the process ended") from None
        except ValueError:
            raise self._end("failed", "the answer is no plain value") from None
        match answer:
            case {"value": value}:
                return value
            case {"raised": str(name)}:
                kind = getattr(builtins, name, None)
                if isinstance(kind, type) and issubclass(kind, Exception):
                    raise kind
                raise RuntimeError(name[:MAX_REASON_CHARS])
        raise self._end("failed", "the answer is no answer")

    def _left(self) -> float:
        return max(0.001, self.deadline - time.monotonic())

    def _end(self, verdict: Literal["failed", "timeout"], reason: str) -> _EndedError:
        self.ended = self.ended or Verdict(verdict=verdict, reason=reason)
        return _EndedError(self.ended)


def judge(trial: Trial, reader: Reader, requests: int) -> Verdict:
    """Define the program in the other process, and run the tests here."""
    candidate = Candidate(reader, requests, time.monotonic() + trial.timeout_s)
    try:
        candidate.define(trial.prompt + trial.completion, trial.entry_point)
        space = _defined(trial)
        space[trial.entry_point] = candidate
        exec(trial.test, space)  # noqa: S102 - the data set's own
        space["check"](candidate)
    except _EndedError as error:
        return error.verdict
    except BaseException as error:
        return candidate.ended or Verdict(verdict="failed", reason=type(error).__name__[:MAX_REASON_CHARS])
    return candidate.ended or Verdict(verdict="passed")


def _defined(trial: Trial) -> dict[str, Any]:
    """What the prompt defines by itself: a function's head and its description are a function."""
    space: dict[str, Any] = {"__name__": "__test__"}
    try:
        exec(trial.prompt + "\n    pass\n", space)  # noqa: S102 - the data set's own
    except SyntaxError:
        space = {"__name__": "__test__"}  # a prompt of another form defines nothing that tests could use
    return space
