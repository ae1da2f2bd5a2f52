"""The eval worker: one sealed process that reads the data sets, makes the prompts and scores what comes back.

In a dry run it makes the prompts, and nothing comes back but their tokens (`appliance.evals.preview`).
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Mapping
from typing import Any

from appliance import schedule
from appliance.evals import dataset, plan, prompts
from appliance.evals.dataset import Row
from appliance.evals.plan import Planned
from appliance.evals.preview import Preview, previews
from appliance.evals.prompts import Selection
from appliance.evals.run import run
from appliance.evals.suite import Suite
from appliance.frames import MAX_PAYLOAD_BYTES, Kind, TooLargeError
from appliance.worker import Link, main
from attest import canonical
from attest.errors import MalformedInput
from attest.job import Job, JobSuite
from attest.results import tabulate
from attest.sample import SampleError, SampleRecord

BULKY: dict[str, Any] = {"messages": (), "prompt_tokens": (), "generation": None, "choices": None, "events": ()}
"""What the results do not need of a record."""


class Stopped(Exception):  # noqa: N818 - an event, not an error
    """The controller wants the results of what there is."""


def prepare(_fds: Mapping[str, int]) -> None:
    """Nothing to open: everything that this worker runs was imported above."""


def serve(link: Link, config: dict[str, Any], fds: Mapping[str, int], _prepared: None) -> None:
    """Plan, run, score; the results last."""
    job = canonical.validate(Job, config["job"], "job")
    planned = make_plan(job, config, fds)
    entries = [each.entry() for each in planned]
    link.send_json(Kind.READY, [entry.model_dump(mode="json") for entry in entries])
    records, dry_run = finished(link, planned), config["dry_run"]
    with contextlib.suppress(Stopped):
        stages = schedule.stages(job, [frozenset(name for _, name in each.models.values()) for each in planned])
        end = 0
        for number, stage in enumerate(stages):
            if number and link.receive().kind == Kind.STOP:  # else the word that this stage's models are loaded
                raise Stopped
            size = sum(entries[place].samples for place in stage.entries)
            end += size
            if dry_run is not None:
                for preview in previews(job, planned, LinkDesk(link), dry_run, range(end - size, end)):
                    link.send(Kind.SAMPLE, _within(preview))
                continue
            for record in run(job, planned, LinkDesk(link), range(len(records), end)):
                kept, line = fitting(record)
                link.send(Kind.SAMPLE, line)
                records.append(kept.model_copy(update=BULKY))
    link.send(Kind.RESULTS, canonical.dump_model(tabulate(job, entries, records)))


def finished(link: Link, planned: list[Planned]) -> list[SampleRecord]:
    """The records that an earlier run left, up to the controller's word to begin. Raises `MalformedInput`.

    The lab vouches for their bytes; that they are the plan's first samples, in its order, is seen here.
    """
    records: list[SampleRecord] = []
    tasks = ((each, task) for each in planned for task in each.tasks)
    while (frame := link.receive()).kind == Kind.RECORD:
        record = canonical.parse(SampleRecord, frame.payload, "earlier sample")
        each, task = next(tasks, (None, None))
        wanted = each and task and (each.model, each.suite.name, task.index, task.id, task.epoch)
        if wanted != (record.model, record.suite, record.index, record.id, record.epoch):
            raise MalformedInput("earlier sample", f"expected the plan's sample number {len(records)}, found another")
        records.append(record.model_copy(update=BULKY))
    return records


def fitting(record: SampleRecord) -> tuple[SampleRecord, bytes]:
    """The record and its JSON; of one that no frame can carry, that it failed."""
    line = canonical.dump_model(record)
    if len(line) <= MAX_PAYLOAD_BYTES:
        return record, line
    message = f"expected a record of at most {MAX_PAYLOAD_BYTES} bytes, found {len(line)}"
    none: dict[str, Any] = {"decisive": None, "scores": {}, "unscored": {}, "facts": {}}
    failed = record.model_copy(update={**BULKY, **none, "error": SampleError(code="size", message=message)})
    return failed, canonical.dump_model(failed)


def _within(preview: Preview) -> bytes:
    """The JSON of a preview; without its prompts where no frame can carry them."""
    line = canonical.dump_model(preview)
    if len(line) <= MAX_PAYLOAD_BYTES:
        return line
    asks = tuple(ask.model_copy(update={"shown": None}) for ask in preview.asks)
    return canonical.dump_model(preview.model_copy(update={"asks": asks}))


class LinkDesk:
    """Puts requests to the models through the controller."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._refused: deque[tuple[int, int, dict[str, Any]]] = deque()

    def ask(self, route: int, tag: int, request: dict[str, Any]) -> None:
        """Send one request. One that no frame can carry is answered with an error."""
        try:
            self._link.send_json(Kind.REQUEST, request, route, tag)
        except TooLargeError as error:
            self._refused.append((route, tag, {"error": {"code": "size", "message": str(error)[:2000]}}))

    def reply(self) -> tuple[int, int, dict[str, Any]]:
        """The next reply; one that cannot be read counts as an error of its sample."""
        if self._refused:
            return self._refused.popleft()
        frame = self._link.receive()
        if frame.kind == Kind.STOP:
            raise Stopped
        try:
            value = canonical.loads(frame.payload, "reply")
        except MalformedInput as error:
            value = {"error": {"code": "reply", "message": str(error)[:2000]}}
        return frame.route, frame.tag, value if isinstance(value, dict) else {}


def make_plan(job: Job, config: dict[str, Any], fds: Mapping[str, int]) -> list[Planned]:
    """Every suite on every model that it is for, models outermost."""
    suites = []
    for item in config["suites"]:
        suite = canonical.validate(Suite, item["suite"], "suite")
        entry = canonical.validate(JobSuite, item["entry"], "suite entry")
        rows, shots = _rows(suite, fds)
        chosen = Selection(limit=entry.limit, shuffle=entry.shuffle, shots=shots, seed=job.seed)
        suites.append((entry, suite, prompts.tasks(suite, rows, chosen)))
    return plan.make(config["models"], suites)


def _rows(suite: Suite, fds: Mapping[str, int]) -> tuple[list[Row], list[Row]]:
    """The suite's rows, and those of its examples."""
    rows: list[Row] = []
    shots: list[Row] = []
    for name, file in suite.files.items():
        (shots if name.startswith(f"{suite.name}.shots.") else rows).extend(dataset.read(_read(fds[name]), file))
    return rows, shots


def _read(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(fd, "rb", closefd=False) as file:
        return file.read()


if __name__ == "__main__":
    main(prepare, serve)
