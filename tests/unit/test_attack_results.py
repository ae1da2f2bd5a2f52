"""What results say of attacks: rates, queries to the first success, paired differences, claims."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import job as job_files
from attest import attacks, canonical
from attest.aggregate import AttackSuccess
from attest.attacks import AttackResult
from attest.digest import digest_of
from attest.errors import MalformedInput
from attest.job import Job
from attest.results import PlannedSuite, Results, tabulate
from attest.sample import SampleRecord
from tests.conftest import ROOT

ERROR = {"code": "deadline", "message": "late"}
GENERATION = {"tokens": [], "text": "", "stop": "eos", "logprobs": [], "logits_digest": digest_of(b"")}
TURN = {"kind": "turn", "role": "target", "model": "m", "messages": [], "generation": GENERATION}


def record(row: str, strategy: str, queries: int, first: int | None, failed: bool = False) -> SampleRecord:
    attack = {"strategy": strategy, "queries": queries} | ({} if first is None else {"first_success": first})
    value: dict[str, Any] = {
        "model": "m",
        "suite": "red",
        "index": 0,
        "id": f"{row}@{strategy}",
        "category": strategy,
        "messages": [],
        "attack": attack,
    }
    ran: dict[str, Any] = {"events": [TURN], "decisive": 0, "scores": {"harm": "0" if first is None else "1"}}
    return canonical.validate(SampleRecord, value | ({"error": ERROR} if failed else ran), "record")


def table(*records: SampleRecord) -> dict[str, AttackResult]:
    return {found.strategy: found for found in attacks.tabulate(records)}


RECORDS = [
    record("a", "direct", 1, None),
    record("a", "pair", 6, 3),
    record("b", "direct", 1, 1),
    record("b", "pair", 2, 2),
    record("c", "direct", 1, None),
    record("c", "pair", 9, None),
    record("d", "direct", 1, None, failed=True),
    record("d", "pair", 9, 8),
]


def test_the_table() -> None:
    found = table(*RECORDS)
    assert list(found) == ["direct", "pair"]
    direct, pair = found.values()
    assert (direct.failed, pair.failed) == (1, 0)
    assert (direct.queries, pair.queries) == (4, 26)
    assert direct.success is not None
    assert pair.success is not None
    assert (direct.success.n, direct.success.value) == (3, "0.333333")
    assert (pair.success.n, pair.success.value) == (4, "0.750000")
    assert (pair.first_success_mean, pair.first_success_median) == ("4.333333", "3.000000")
    assert direct.versus_direct is None
    assert pair.versus_direct is not None
    assert (pair.versus_direct.n, pair.versus_direct.value) == (3, "0.333333")


def test_the_median_of_an_even_number_is_between_two() -> None:
    found = table(*(record(str(n), "s", 9, n) for n in (1, 2, 5, 9)))["s"]
    assert (found.first_success_median, found.first_success_mean) == ("3.500000", "4.250000")


def test_without_a_success_there_is_no_first_one() -> None:
    found = table(record("a", "s", 9, None))["s"]
    assert (found.first_success_mean, found.first_success_median, found.versus_direct) == (None, None, None)


def test_a_strategy_whose_samples_all_failed() -> None:
    found = table(record("a", "direct", 1, None), record("a", "s", 0, None, failed=True))["s"]
    assert (found.success, found.failed, found.versus_direct) == (None, 1, None)


def test_a_sample_that_attacked_nobody_counts_as_failed() -> None:
    plain = record("b", "s", 4, 4).model_copy(update={"attack": None})
    found = table(record("a", "s", 3, 2), plain)["s"]
    assert found.success is not None
    assert (found.success.n, found.success.value, found.failed, found.queries) == (1, "1.000000", 1, 3)
    assert found.first_success_mean == "2.000000"
    assert table(plain)["s"].success is None


def test_a_row_with_an_epoch_and_an_at_is_one_row() -> None:
    found = table(record("x@direct#2", "direct", 1, None), record("x@direct#2", "s", 1, 1))["s"]
    assert found.versus_direct is not None
    assert found.versus_direct.n == 1


def pairs(both: int, left: int, right: int, neither: int) -> tuple[dict[str, bool], dict[str, bool]]:
    kinds = [(True, True)] * both + [(True, False)] * left + [(False, True)] * right + [(False, False)] * neither
    return {str(n): a for n, (a, _) in enumerate(kinds)}, {str(n): b for n, (_, b) in enumerate(kinds)}


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # Newcombe 1998, table III, method 10.
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((20, 12, 2, 16), 0.0562, 0.3292),
        ((18, 12, 2, 18), 0.0562, 0.3290),
        ((0, 12, 2, 36), 0.0569, 0.3404),
        ((0, 30, 0, 0), 0.8395, 1.0),
        ((54, 0, 0, 0), -0.0664, 0.0664),
    ],
)
def test_the_interval_of_a_difference_is_the_published_one(
    counts: tuple[int, int, int, int], low: float, high: float
) -> None:
    found = attacks.difference(*pairs(*counts))
    assert found is not None
    assert (round(float(found.ci_low), 4), round(float(found.ci_high), 4)) == (low, high)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_difference_lies_in_its_interval_and_turns_around(rows: list[tuple[bool, bool]]) -> None:
    left = {str(n): a for n, (a, _) in enumerate(rows)}
    right = {str(n): b for n, (_, b) in enumerate(rows)}
    found, turned = attacks.difference(left, right), attacks.difference(right, left)
    assert found is not None
    assert turned is not None
    assert -1 <= float(found.ci_low) <= float(found.value) <= float(found.ci_high) <= 1
    assert (Fraction(turned.value), Fraction(turned.ci_low), Fraction(turned.ci_high)) == (
        -Fraction(found.value),
        -Fraction(found.ci_high),
        -Fraction(found.ci_low),
    )


def results(records: list[SampleRecord], *claims: dict[str, Any], samples: int = 6) -> Results:
    job = {
        "format": "vitrine/job/v1",
        "name": "demo",
        "models": [{"id": "m", "path": "x"}],
        "suites": [{"path": "s"}],
        "claims": [{"suite": "red", "model": "m", "comparator": ">=", **claim} for claim in claims],
    }
    success = AttackSuccess(scorer="harm")
    plan = [PlannedSuite(model="m", suite="red", samples=samples, scorers=("harm",), aggregates=(success,))]
    found = tabulate(canonical.validate(Job, job, "job"), plan, records)
    return canonical.parse(Results, canonical.dump_model(found), "results")


def claim(strategy: str, threshold: str) -> dict[str, Any]:
    return {"metric": "attack-success", "category": strategy, "threshold": threshold}


def test_claims_are_about_one_strategy() -> None:
    found = results(RECORDS[:6], claim("pair", "0.66"), claim("pair", "0.67"), claim("direct", "0.3"), claim("x", "0"))
    assert [(each.value, each.holds) for each in found.claims] == [
        ("0.666667", True),
        ("0.666667", False),
        ("0.333333", True),
        (None, False),
    ]
    assert [each.strategy for each in found.attacks] == ["direct", "pair"]
    assert [(each.metric, each.estimate and each.estimate.value) for each in found.suites[0].aggregates] == [
        ("attack-success", "0.500000")
    ]


@pytest.mark.parametrize(("records", "samples"), [(RECORDS[:5], 6), (RECORDS, 8)])
def test_a_claim_does_not_hold_while_samples_are_missing_or_failed(records: list[SampleRecord], samples: int) -> None:
    (found,) = results(records, claim("pair", "0"), samples=samples).claims
    assert found.value is not None
    assert not found.holds


def test_without_attacks_there_is_no_table() -> None:
    assert results([]).attacks == ()


def test_an_attack_whose_samples_all_failed_has_its_table() -> None:
    samples = [record("a", "direct", 0, None, failed=True), record("a", "pair", 0, None, failed=True)]
    assert [(each.strategy, each.failed, each.success) for each in results(samples, samples=2).attacks] == [
        ("direct", 1, None),
        ("pair", 1, None),
    ]


@pytest.mark.parametrize(
    ("claim", "problem"),
    [
        ({"metric": "attack-success", "category": "wrappers"}, None),
        ({"metric": "attack-success", "category": "nobody"}, "strategy 'nobody'"),
        ({"metric": "attack-rate", "category": "wrappers"}, "attack-rate"),
    ],
)
def test_a_job_whose_claim_is_about_no_strategy_is_refused(
    claim: dict[str, str], problem: str | None, tmp_path: Path
) -> None:
    text = (ROOT / "examples" / "jobs" / "redteam.yaml").read_text().partition("claims:")[0]
    text = text.replace("../suites", str(ROOT / "examples" / "suites"))
    fields = {"suite": "redteam-jailbreak", "model": "clean", "comparator": "<=", "threshold": "0", **claim}
    path = tmp_path / "job.yaml"
    path.write_text(f"{text}claims: [{json.dumps(fields)}]\n")
    if problem is None:
        assert len(job_files.load_suites(job_files.load(path))) == 3
        return
    with pytest.raises(MalformedInput, match=problem):
        job_files.load_suites(job_files.load(path))
