"""Results: counted from the records alone, and claims that only hold about what was run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import canonical, job
from attest.digest import digest_of
from attest.errors import MalformedInput
from attest.job import Claim, Job
from attest.results import PlannedSuite, Results, tabulate
from attest.sample import SampleRecord

PLAN = [
    PlannedSuite(model="m", suite="arc", samples=3, scorers=("exact", "refusal")),
    PlannedSuite(model="n", suite="arc", samples=2, scorers=("exact", "refusal")),
]
GENERATION = {"tokens": [1], "text": "x", "stop": "eos", "logprobs": ["-0.100000"], "logits_digest": digest_of(b"")}


def claim(comparator: str = ">=", threshold: str = "0.5", **more: str) -> dict[str, str]:
    return {"suite": "arc", "model": "m", "metric": "exact", "comparator": comparator, "threshold": threshold, **more}


def make_job(*claims: dict[str, str]) -> Job:
    value = {
        "format": "vitrine/job/v1",
        "name": "demo",
        "models": [{"id": "m", "path": "x"}, {"id": "n", "path": "y"}],
        "suites": [{"path": "s"}],
        "claims": list(claims),
    }
    return canonical.validate(Job, value, "job")


def record(index: int, exact: str | None = "1", model: str = "m", suite: str = "arc", **more: Any) -> SampleRecord:
    """A record with this score of `exact`, or with a reason for none."""
    value: dict[str, Any] = {"model": model, "suite": suite, "index": index, "id": f"row-{index}", "messages": []}
    if "error" not in more:
        value["generation"] = GENERATION
        value["scores"] = {"refusal": "0"} | ({"exact": exact} if exact is not None else {})
        value["unscored"] = {} if exact is not None else {"exact": "no number"}
    return canonical.validate(SampleRecord, {**value, **more}, "sample")


FAILED = {"error": {"code": "deadline", "message": "too late"}}


def test_counts_and_scores() -> None:
    results = tabulate(make_job(), PLAN, [record(0), record(1, "0"), record(2, **FAILED), record(0, None, "n")])
    first, second = results.suites
    assert (first.model, first.suite, first.planned, first.run, first.failed) == ("m", "arc", 3, 2, 1)
    assert [(score.scorer, score.unscored) for score in first.scores] == [("exact", 0), ("refusal", 0)]
    assert first.scores[0].estimate is not None
    assert (first.scores[0].estimate.n, first.scores[0].estimate.value) == (2, "0.500000")
    assert (second.planned, second.run, second.failed) == (2, 1, 0)
    assert (second.scores[0].unscored, second.scores[0].estimate) == (1, None)
    assert not results.complete
    assert results.job_digest == job.digest(make_job())


def test_complete_means_that_every_planned_sample_has_a_record() -> None:
    records = [record(0), record(1), record(2, **FAILED), record(0, model="n"), record(1, model="n")]
    assert tabulate(make_job(), PLAN, records).complete
    for number in range(5):
        assert not tabulate(make_job(), PLAN, records[:number] + records[number + 1 :]).complete
    assert not tabulate(make_job(), PLAN, [*records, record(3)]).complete
    assert not tabulate(make_job(), PLAN, []).complete
    assert tabulate(make_job(), [], []).complete


@pytest.mark.parametrize("more", [{"suite": "mmlu"}, {"model": "o"}, {"suite": "m", "model": "arc"}])
def test_records_that_were_not_planned_are_refused(more: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="not planned"):
        tabulate(make_job(), PLAN, [record(0), record(1, **more)])


@pytest.mark.parametrize(
    ("threshold", "truth"),
    [
        ("0.5", {"<": False, "<=": True, ">": False, ">=": True, "==": True}),
        ("0.500001", {"<": True, "<=": True, ">": False, ">=": False, "==": False}),
        ("0.49", {"<": False, "<=": False, ">": True, ">=": True, "==": False}),
    ],
)
def test_claims_are_compared(threshold: str, truth: dict[str, bool]) -> None:
    job_ = make_job(*(claim(comparator, threshold) for comparator in truth))
    results = tabulate(job_, PLAN, [record(0), record(1, "0"), record(2, "0.5")])
    assert [(result.claim.comparator, result.holds) for result in results.claims] == list(truth.items())
    assert {result.value for result in results.claims} == {"0.500000"}
    assert [result.claim for result in results.claims] == list(job_.claims)


def test_a_claim_about_an_incomplete_suite_does_not_hold_and_keeps_its_value() -> None:
    always = make_job(claim(">=", "0"), claim("<=", "1"), claim(">=", "0", model="n"))
    rest = [record(0, model="n"), record(1, model="n")]
    results = tabulate(always, PLAN, [record(0), record(1), *rest])
    assert [(result.holds, result.value) for result in results.claims] == [
        (False, "1.000000"),
        (False, "1.000000"),
        (True, "1.000000"),
    ]
    assert [result.holds for result in tabulate(always, PLAN, [record(i) for i in range(4)]).claims] == [False] * 3


@pytest.mark.parametrize(
    "about", [{"metric": "accuracy"}, {"suite": "mmlu"}, {"model": "n"}], ids=["metric", "suite", "nothing scored"]
)
def test_a_claim_about_what_was_not_scored_does_not_hold(about: dict[str, str]) -> None:
    records = [*(record(index) for index in range(3)), record(0, None, "n"), record(1, None, "n")]
    results = tabulate(make_job(claim("<=", "1", **about), claim(">=", "0", **about)), PLAN, records)
    assert [(result.holds, result.value) for result in results.claims] == [(False, None)] * 2


def test_a_claim_when_everything_failed_does_not_hold() -> None:
    results = tabulate(make_job(claim(">=", "0")), PLAN[:1], [record(index, **FAILED) for index in range(3)])
    assert (results.complete, results.claims[0].holds, results.claims[0].value) == (True, False, None)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["0", "0.25", "1", None, "failed"]), max_size=6), st.randoms(use_true_random=False))
def test_results_do_not_depend_on_the_order_of_the_records(kinds: list[str | None], random: Any) -> None:
    records = [record(i, **FAILED) if kind == "failed" else record(i, kind) for i, kind in enumerate(kinds)]
    job_, plan = make_job(claim()), [PlannedSuite(model="m", suite="arc", samples=len(kinds), scorers=("exact",))]
    results = tabulate(job_, plan, records)
    (suite,) = results.suites
    assert suite.failed == kinds.count("failed")
    assert suite.run == len(kinds) - kinds.count("failed")
    assert suite.scores[0].unscored == kinds.count(None)
    assert results.complete
    random.shuffle(records)
    assert canonical.dump_model(tabulate(job_, plan, iter(records))) == canonical.dump_model(results)
    assert canonical.parse(Results, canonical.dump_model(results), "results") == results


@pytest.mark.parametrize(
    "change",
    [
        {"scores": {"exact": "1"}, "error": FAILED["error"]},
        {"unscored": {"exact": "x"}, "error": FAILED["error"]},
        {"scores": {"exact": "1"}, "unscored": {"exact": "x"}},
        {"scores": {"exact": "1.1"}},
        {"scores": {"exact": "-0.1"}},
        {"scores": {"exact": "NaN"}},
        {"scores": {"exact": "1e-1"}},
        {"scores": {"exact": 1}},
        {"scores": {"No Scorer": "1"}},
        {"generation": None},
        {"choices": []},
        {"index": -1},
        {"id": ""},
        {"id": "x" * 281},
        {"messages": [{"role": "judge", "content": ""}]},
        {"surplus": 1},
    ],
)
def test_records_that_contradict_themselves_are_refused(change: dict[str, Any]) -> None:
    value = record(0).model_dump(mode="json")
    assert canonical.validate(SampleRecord, value, "sample") == record(0)
    with pytest.raises(MalformedInput):
        canonical.validate(SampleRecord, {**value, **change}, "sample")


def test_a_claim_is_carried_as_the_job_states_it() -> None:
    stated = canonical.validate(Claim, claim(">", "0.10"), "claim")
    (result,) = tabulate(make_job(claim(">", "0.10")), PLAN, []).claims
    assert result.claim == stated
    assert result.claim.threshold == "0.10"


@pytest.mark.parametrize("third", [FAILED, {"exact": None}], ids=["failed", "unscored"])
def test_a_claim_does_not_hold_where_a_sample_has_no_score(third: dict[str, Any]) -> None:
    records = [record(0), record(1), record(2, **third)]
    (found,) = tabulate(make_job(claim(">=", "0.9")), PLAN, records).claims
    assert (found.value, found.holds) == ("1.000000", False)


@pytest.mark.parametrize(("comparator", "threshold"), [(">=", "0.666667"), ("==", "0.666667")])
def test_a_claim_is_about_the_exact_mean(comparator: str, threshold: str) -> None:
    records = [record(0), record(1), record(2, "0")]
    (found,) = tabulate(make_job(claim(comparator, threshold)), PLAN, records).claims
    assert (found.value, found.holds) == ("0.666667", False)
