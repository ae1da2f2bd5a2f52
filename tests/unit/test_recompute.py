"""Results once more from records: what no honest lab's records do, and what would break the arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from attest import canonical, recompute, transcript
from attest.aggregate import AttackSuccess, Ratio
from attest.canonical import MAX_INTEGER
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError
from attest.job import Job
from attest.manifest import Counts, ExecutionManifest
from attest.results import PlannedSuite, Results, tabulate
from attest.sample import SampleRecord
from attest.transcript import Transcript

JOB = canonical.validate(
    Job,
    {"format": "vitrine/job/v1", "name": "j", "models": [{"id": "m", "path": "m"}], "suites": [{"path": "s"}]},
    "job",
)
GENERATION = {"tokens": [1], "text": "x", "stop": "eos", "logprobs": ["-0.100000"], "logits_digest": digest_of(b"")}
RATIO = Ratio(name="a.micro", scorer="a", of="good", over="all")
ATTACK = AttackSuccess(scorer="a")


def record(index: int, **more: Any) -> dict[str, Any]:
    value = {"model": "m", "suite": "s", "index": index, "id": f"row-{index}", "messages": []}
    return value | {"generation": GENERATION, "scores": {"a": "1"}} | more


def plan_of(records: list[dict[str, Any]], *aggregates: Ratio | AttackSuccess) -> tuple[PlannedSuite, ...]:
    return (PlannedSuite(model="m", suite="s", samples=len(records), scorers=("a",), aggregates=aggregates),)


def script(records: list[dict[str, Any]]) -> Transcript:
    """A transcript of these samples."""
    lines: list[bytes] = []
    head = transcript.genesis()
    for seq, record in enumerate([{}, *records]):
        lines.append(transcript.frame_line("sample" if seq else "open", head, canonical.dumps(record), seq))
        head = digest_of(lines[-1])
    return transcript.read(b"\n".join(lines) + b"\n")


def check(records: list[dict[str, Any]], plan: tuple[PlannedSuite, ...]) -> Results:
    """By a manifest of a lab that says whatever follows, so that nothing but the records can be at fault."""
    try:
        results = tabulate(JOB, plan, [canonical.validate(SampleRecord, value, "sample") for value in records])
    except ValueError:
        results = tabulate(JOB, plan, [])
    manifest = ExecutionManifest.model_construct(
        plan=plan,
        suites=results.suites,
        claims=results.claims,
        complete=results.complete,
        ended_by="done",
        counts=Counts(planned=len(records), run=len(records), failed=0),
    )
    return recompute.check(canonical.dump_model(results), JOB, manifest, script(records))


def test_records_in_order_have_results() -> None:
    records = [record(0), record(1)]
    (suite,) = check(records, plan_of(records)).suites
    assert (suite.run, suite.failed) == (2, 0)


@pytest.mark.parametrize(
    ("code", "records"),
    [
        ("order", [record(1), record(0)]),
        ("order", [record(0), record(0)]),
        ("order", [record(1), record(2)]),
        ("ids", [record(0), record(1, id="row-0")]),
        ("scorers", [record(0), record(1, scores={"b": "1"})]),
        ("scorers", [record(0), record(1, scores={})]),
    ],
)
def test_records_that_are_not_those_of_the_plan_are_refused(code: str, records: list[dict[str, Any]]) -> None:
    with pytest.raises(VerificationError) as caught:
        check(records, plan_of(records))
    assert (caught.value.layer, caught.value.code) == ("results", code)


def test_a_plan_of_more_rows_than_memory_holds_takes_none() -> None:
    records = [record(0), record(2)]
    (entry,) = plan_of(records)
    with pytest.raises(VerificationError, match="results/order"):
        check(records, (entry.model_copy(update={"samples": MAX_INTEGER}),))


def test_records_beyond_the_plan_are_refused() -> None:
    records = [record(0), record(1)]
    with pytest.raises(VerificationError, match="no more rows"):
        check(records, plan_of(records[:1]))


def test_a_fact_above_the_line_that_is_more_than_the_one_below_does_not_count() -> None:
    records = [
        record(0, facts={"a": {"good": "9" * 64, "all": "1"}}),
        record(1, facts={"a": {"good": "1", "all": "4"}}),
    ]
    (suite,) = check(records, plan_of(records, RATIO)).suites
    assert suite.aggregates[0].estimate is not None
    assert (suite.aggregates[0].estimate.n, suite.aggregates[0].estimate.value) == (1, "0.250000")


@pytest.mark.parametrize(
    "fields",
    [
        {"category": "not a name\n", "attack": {"strategy": "direct", "queries": 1}},
        {"attack": {"strategy": "direct", "queries": 1}},
        {"category": "direct", "attack": {"strategy": "direct", "queries": MAX_INTEGER}},
    ],
)
def test_attacks_that_no_table_can_hold_are_malformed(fields: dict[str, Any]) -> None:
    records = [record(0, **fields), record(1, **fields)]
    with pytest.raises(MalformedInput, match="the records have none"):
        check(records, plan_of(records, ATTACK))
