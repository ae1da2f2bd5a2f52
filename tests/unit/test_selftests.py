"""The reports on the models' self-tests: each once, whole, and what an exact job promises."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.selftests import SelfTests
from attest.errors import MalformedInput, VerificationError
from tests.tools.manifests import self_test


def reports_of(contract: str = "exact", **fields: Any) -> SelfTests:
    job: Any = SimpleNamespace(
        models=[SimpleNamespace(id="a"), SimpleNamespace(id="b")], numerics=SimpleNamespace(contract=contract)
    )
    return SelfTests(job, **fields)


def report(model: str, **differing: int) -> bytes:
    return json.dumps(self_test(model, **differing), separators=(",", ":"), sort_keys=True).encode()


def test_reports_come_in_any_order_and_are_kept_in_the_jobs() -> None:
    told: list[tuple[int, int]] = []
    tests = reports_of(on_report=lambda done, total: told.append((done, total)))
    tests.take(1, report("b"))
    assert (tests.missing(0), tests.missing(1)) == (True, False)
    with pytest.raises(RuntimeError, match="missing"):
        tests.reports()
    tests.take(0, report("a"))
    assert [found.model for found in tests.reports()] == ["a", "b"]
    assert told == [(1, 2), (2, 2)]


def test_a_second_report_is_refused() -> None:
    tests = reports_of()
    tests.take(0, report("a"))
    with pytest.raises(MalformedInput, match="found another"):
        tests.take(0, report("a"))


def test_a_report_on_another_model_is_refused() -> None:
    with pytest.raises(MalformedInput, match="expected the cells"):
        reports_of().take(0, report("b"))


def test_a_difference_ends_an_exact_run_and_is_kept_by_another() -> None:
    exact = reports_of()
    with pytest.raises(VerificationError, match="numerics/self-test"):
        exact.take(0, report("a", mates=1))
    assert exact.missing(0)
    reported = reports_of("reported")
    reported.take(0, report("a", mates=1))
    reported.take(1, report("b"))
    assert [found.differing for found in reported.reports()] == [("mates",), ()]
