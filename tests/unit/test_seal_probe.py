"""Probes: how an end of an attempt is read, and that the attempts are many and named once."""

from __future__ import annotations

import errno

import pytest

from appliance.seal import attempts, probe, violations
from appliance.seal.attempts import ATTEMPTS, Attempt, NothingToTry


def fail(number: int):
    def make() -> None:
        raise OSError(number, "x")

    return make


def nothing() -> None:
    raise NothingToTry


@pytest.mark.parametrize(
    ("make", "outcome", "name"),
    [
        (fail(errno.EPERM), "denied", "EPERM"),
        (fail(errno.EACCES), "denied", "EACCES"),
        (fail(errno.ENOENT), "allowed", "ENOENT"),
        (fail(errno.ECONNREFUSED), "allowed", "ECONNREFUSED"),
        (fail(9999), "allowed", "9999"),
        (lambda: None, "allowed", ""),
        (nothing, "absent", ""),
    ],
)
def test_only_the_errors_of_the_seal_count_as_denied(monkeypatch, make, outcome, name):
    monkeypatch.setattr(attempts, "ATTEMPTS", (Attempt("one", "try it", make),))
    (result,) = probe()
    assert (result.expected, result.outcome, result.errno) == ("denied", outcome, name)
    assert violations([result]) == ([result] if outcome == "allowed" else [])


def test_an_attempt_names_its_own_errors(monkeypatch):
    attempt = Attempt("one", "try it", fail(errno.ENOENT), frozenset({errno.ENOENT}))
    monkeypatch.setattr(attempts, "ATTEMPTS", (attempt, Attempt("two", "not asked for", fail(errno.EPERM))))
    assert [(one.name, one.outcome) for one in probe({"one"})] == [("one", "denied")]


def test_executing_a_missing_program_counts_as_allowed():
    """The kernel came as far as looking for it."""
    (result,) = probe({"execute"})
    assert (result.outcome, result.errno) == ("allowed", "ENOENT")


def test_attempts_are_named_once():
    names = [one.name for one in ATTEMPTS]
    assert len(set(names)) == len(names) > 30
