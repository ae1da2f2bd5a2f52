"""What passes between a program, its tests and the controller: plain values, trials, verdicts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.evals.scorers import Reference, Scored, Unscored
from appliance.evals.scorers.program import Program
from appliance.programs import values
from appliance.programs.referee import Trial
from attest import canonical

KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
PLAIN = st.recursive(
    KEYS | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
    ),
    max_leaves=12,
)


def types(value: Any) -> Any:
    inner = list(value.items()) if isinstance(value, dict) else value
    return (type(value), [types(one) for one in inner] if isinstance(inner, list | tuple) else None)


@given(PLAIN)
def test_values_come_back_as_they_went(value: Any) -> None:
    again = values.load(values.dump(value))
    assert again == value
    assert types(again) == types(value)


def test_the_sign_of_zero_and_what_is_no_number() -> None:
    assert math.copysign(1, values.load(values.dump(-0.0))) == -1
    assert math.isnan(values.load(values.dump(float("nan"))))
    assert values.load(values.dump(-(10**5000))) == -(10**5000)


def test_no_method_of_a_program_comes_along() -> None:
    class Equal(str):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

        def __str__(self) -> str:
            return "right"

    again = values.load(values.dump([Equal("wrong")]))
    assert again == ["wrong"]
    assert type(again[0]) is str
    assert again != ["right"]


@pytest.mark.parametrize("value", [object(), len, [lambda: 0], {1: object()}, iter([]), range(3)])
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="plain"):
        values.dump(value)


@given(st.binary(max_size=60) | st.text('{}[]":,intdclfos0x1-.eE \\u', max_size=60).map(str.encode))
def test_bytes_of_any_form_are_a_value_or_refused(data: bytes) -> None:
    try:
        value = values.load(data)
    except ValueError:
        return
    assert values.load(values.dump(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"", b"1", b"1.5", b"NaN", b"[]", b"{}", b'{"int": 1}', b'{"int": "x"}', b'{"set": [{"list": []}]}',
        b'{"a": "b"}', b'{"dict": [1]}', b'{"dict": [[{"list": []}, null]]}', b'{"complex": ["0x1p+0"]}',
        b'{"float": "x"}', b'{"float": "0x1p99999"}', b"[" * 100_000, b'{"list": [' * 50_000, b'{"bytes": "0"}',
        b'{"int": "1", "float": "1"}',
    ],
)  # fmt: skip
def test_hostile_answers_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        values.load(data)


PROGRAM = Program(scorer="program")
ROW = {"prompt": "def f():\n", "test": "def check(f): pass\n", "entry_point": "f"}


def test_a_trial_is_the_row_and_the_completion() -> None:
    trial = PROGRAM.trial("    return 1\n", Reference(None, ROW))
    assert trial == {**ROW, "completion": "    return 1\n", "timeout_s": 10}
    assert canonical.validate(Trial, trial, "trial").timeout_s == 10
    other = Program(scorer="program", prompt="head", timeout_s=3).trial("", Reference(None, {**ROW, "head": "x"}))
    assert isinstance(other, dict)
    assert (other["prompt"], other["timeout_s"]) == ("x", 3)


@pytest.mark.parametrize("change", [{"prompt": None}, {"test": 5}, {"entry_point": []}])
def test_rows_without_tests_are_unscored(change: dict[str, Any]) -> None:
    assert isinstance(PROGRAM.trial("x", Reference(None, ROW | change)), Unscored)
    assert isinstance(PROGRAM.trial("x", Reference(None, {})), Unscored)


def test_verdicts_are_scores() -> None:
    assert PROGRAM.outcome({"verdict": "passed"}) == Scored("1", {"verdict": "passed"})
    assert PROGRAM.outcome({"verdict": "failed", "reason": "passed"}) == Scored("0", {"verdict": "failed"})
    assert PROGRAM.outcome({"verdict": "timeout"}) == Scored("0", {"verdict": "timeout"})
    for verdict in ({}, {"verdict": "Passed"}, {"verdict": ["passed"]}, {"error": {"code": "x"}}):
        assert isinstance(PROGRAM.outcome(verdict), Unscored)
