"""A dry run: everything of a run up to its first token, and nothing of it at a lab.

The job is read, locked, measured and booted as for a run, and its workers seal themselves; then the eval worker makes
the first prompts of every sample, and model workers, of whose models only the vocabulary was read, count their tokens.
No lab is opened: nothing is registered, signed or written, and no attempt is numbered. What needs a model's answers is
not known here, and only bounded; what needs its weights (the self-test of the numerics) is not tried.
"""

from __future__ import annotations

import time

from appliance import forecast, prepare, redact, resume, workers
from appliance.evals.preview import Preview
from appliance.forecast import Forecast
from appliance.memfd import Progress
from appliance.prepare import Inputs
from appliance.relay import WorkerFailure, relay
from attest import canonical
from attest.job import Job


class _Previews:
    """What the eval worker hands out, in memory."""

    def __init__(self) -> None:
        self.samples: list[bytes] = []

    def sample(self, record: bytes) -> None:
        self.samples.append(record)


def dry_run(inputs: Inputs, progress: Progress, *, shown: int) -> Forecast:
    """What a run would do, with the prompts in full of the first `shown` samples of each suite.

    Refuses what a run refuses, with the same errors, as far as that does not need a lab or a model's weights.
    """
    prepare.refuse_to_overwrite(inputs.out)
    resume.refuse_to_forget(inputs.incomplete)
    with (
        prepare.prepared(inputs, progress) as prepared,
        workers.start(
            prepared.loaded.job,
            prepared.suites,
            prepared.booted,
            progress=progress,
            reserve=prepared.reserve,
            require_seal=inputs.require_seal,
            dry_run=shown,
        ) as crew,
    ):
        return forecast.make(
            prepared.loaded.job,
            [item.suite for item in prepared.suites],
            crew.plan,
            crew.stages,
            _previews(crew, prepared.loaded.job, progress),
            lock_digest=prepared.booted.lock_digest,
            lock_given=inputs.lock is not None,
            memory=prepared.memory,
        )


def _previews(crew: workers.Crew, job: Job, progress: Progress) -> list[Preview]:
    """A preview of every sample of the plan, in its order. Raises `WorkerFailure`, `MalformedInput`."""
    total, due = sum(entry.samples for entry in crew.plan), 0
    found, end = _Previews(), time.monotonic() + job.limits.wall_time_s
    for stage in crew.stages:
        crew.enter(stage)
        due += sum(crew.plan[place].samples for place in stage.entries)
        relay(
            crew.evals,
            crew.models,
            found,
            sample_timeout_s=job.limits.sample_timeout_s,
            end=end,
            on_sample=lambda: progress("prompts", len(found.samples), total),
            on_tested=_no_test,
            until=due,
        )
    with redact.unquoted(crew.evals.discretion):
        return [canonical.parse(Preview, line, "preview of worker eval") for line in found.samples]


def _no_test(number: int, _report: bytes) -> None:
    raise WorkerFailure("model", f"expected no self-test in a dry run, found one of model number {number}")
