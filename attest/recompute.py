"""The results of a run once more, from its transcript's records and its job.

Refused: records out of the plan's order, two with one id, or with other scorers than the plan's; results, claims or
counts that do not follow from them.
"""

from __future__ import annotations

from pydantic import ValidationError

from attest import canonical
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError
from attest.job import Job
from attest.manifest import ExecutionManifest
from attest.results import PlannedSuite, Results, tabulate
from attest.sample import SampleRecord
from attest.transcript import Transcript

LAYER = "results"


def check(data: bytes, job: Job, manifest: ExecutionManifest, script: Transcript) -> Results:
    """The results in `data` (canonical JSON), to the last digit those of `script`, as `manifest` repeats them.

    Raises `VerificationError` (layer `results`), `MalformedInput`.
    """
    records = [
        canonical.validate_text(SampleRecord, line.raw_record, f"sample {index}")
        for index, line in enumerate(script.samples)
    ]
    _check_order(manifest.plan, records)
    try:
        results = tabulate(job, manifest.plan, records)
    except ValidationError as error:
        raise MalformedInput("results", f"the records have none: {canonical.explain(error)}") from None
    _equal("bytes", digest_of(canonical.dump_model(results)), digest_of(data))
    _equal("suites", results.suites, manifest.suites)
    _equal("claims", results.claims, manifest.claims)
    _equal("complete", results.complete, manifest.complete)
    _equal("complete-end", results.complete, manifest.ended_by == "done")
    counts = {
        "planned": sum(suite.planned for suite in results.suites),
        "run": sum(suite.run for suite in results.suites),
        "failed": sum(suite.failed for suite in results.suites),
    }
    _equal("counts", counts, manifest.counts.model_dump())
    return results


def _check_order(plan: tuple[PlannedSuite, ...], records: list[SampleRecord]) -> None:
    """Rows come in the order of the plan, from the first on, none twice and none left out; each has its own id."""
    # One row at a time: a plan may name more of them than any memory holds.
    rows = ((entry, index) for entry in plan for index in range(entry.samples))
    ids: set[tuple[str, str, str]] = set()
    for record in records:
        found = (record.model, record.suite, record.index)
        entry, index = next(rows, (None, 0))
        if entry is None:
            raise VerificationError(LAYER, "order", expected="no more rows", found=found)
        _equal("order", (entry.model, entry.suite, index), found)
        if (key := (record.model, record.suite, record.id)) in ids:
            raise VerificationError(LAYER, "ids", expected="an id of its own for each sample", found=f"two of {key}")
        ids.add(key)
        scorers = {*record.scores, *record.unscored}
        if record.error is None and scorers != set(entry.scorers):
            raise VerificationError(LAYER, "scorers", expected=sorted(entry.scorers), found=sorted(scorers))


def _equal(code: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError(LAYER, code, expected=expected, found=found)
