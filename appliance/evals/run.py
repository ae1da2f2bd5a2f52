"""The eval loop: every task of every suite, put to its models; one record each, in the order of the plan."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from appliance.evals.conversation import Ask, Trial, request
from appliance.evals.plan import Planned
from appliance.evals.prompts import Templates
from appliance.evals.sample import Routed, Sample
from attest.job import Job
from attest.sample import SampleRecord

AHEAD = 4
"""How many times as many samples may be under way or finished as a model runs at once: a slow one holds up the order
of the records, not the work behind it."""


class Desk(Protocol):
    """Where requests go and replies come from."""

    def ask(self, route: int, tag: int, request: dict[str, Any]) -> None:
        """Put `request` to model number `route`; `tag` is unique among those under way there."""

    def reply(self) -> tuple[int, int, dict[str, Any]]:
        """The next reply, whichever it is: route, tag, and what it says. Waits for it."""


@dataclass
class _UnderWay:
    """A sample that has begun, and its place in the plan."""

    number: int
    sample: Sample


@dataclass
class _Floor:
    """Asks on their way to the models and back."""

    job: Job
    desk: Desk
    waiting: dict[int, deque[tuple[_UnderWay, int, Ask | Trial]]] = field(default_factory=dict)
    """Route to what its model has no room for yet."""
    asked: dict[int, tuple[_UnderWay, int]] = field(default_factory=dict)
    """Tag to the sample that asked, and the ask's place among those of its turn."""
    running: Counter[int] = field(default_factory=Counter)
    """Route to the requests that its model has."""
    tag: int = 0

    @property
    def most(self) -> int:
        """Requests that a model has at a time: two for each sample that it runs at once, one to run, one to wait."""
        return 2 * self.job.numerics.sequences

    def has_room(self, route: int) -> bool:
        """Whether another sample may begin on the model of `route`."""
        return self.running[route] + len(self.waiting.get(route, ())) < self.most

    def put(self, sample: _UnderWay, asks: Routed) -> None:
        """Take what `sample` asks next: routes and asks."""
        for place, (route, ask) in enumerate(asks):
            self.waiting.setdefault(route, deque()).append((sample, place, ask))
        self.send()

    def send(self) -> None:
        """Hand the models what they have room for."""
        for route, queue in self.waiting.items():
            while queue and self.running[route] < self.most:
                under_way, place, ask = queue.popleft()
                planned, sample = under_way.sample.planned, under_way.sample
                self.desk.ask(
                    route,
                    self.tag,
                    request(
                        ask,
                        timeout_s=self.job.limits.sample_timeout_s,
                        sampling=planned.suite.sampling or self.job.sampling,
                        seed=self.job.seed,
                        stream=sample.stream(place),
                    ),
                )
                self.asked[self.tag] = (under_way, place)
                self.running[route] += 1
                self.tag += 1

    def answered(self) -> tuple[_UnderWay, int, dict[str, Any]]:
        """The next reply, and who asked for it."""
        route, tag, reply = self.desk.reply()
        self.running[route] -= 1
        return *self.asked.pop(tag), reply


def run(job: Job, plan: list[Planned], desk: Desk, part: range | None = None) -> Iterator[SampleRecord]:
    """The records, in the order of the plan and of the rows, whatever the order in which the replies come.

    `part`: which samples, by their number in the plan; all by default.
    """
    tasks = [(planned, task) for planned in plan for task in planned.tasks]
    part = range(len(tasks)) if part is None else part
    window = AHEAD * job.numerics.sequences
    finished: dict[int, SampleRecord] = {}
    templates = {planned.suite.name: Templates(planned.suite.name) for planned in plan}
    floor, begun = _Floor(job, desk), part.start

    def settle(under_way: _UnderWay, asks: Routed) -> None:
        if under_way.sample.record is not None:
            finished[under_way.number] = under_way.sample.record
        else:
            floor.put(under_way, asks)

    for number in part:
        while number not in finished:
            # Begin samples, in order, as far as the models and the window have room.
            while begun < min(part.stop, number + window) and floor.has_room(tasks[begun][0].route):
                planned, task = tasks[begun]
                begins = _UnderWay(begun, Sample(job, planned, task, templates[planned.suite.name]))
                settle(begins, begins.sample.begin())
                begun += 1
            if number in finished:
                break
            under_way, place, reply = floor.answered()
            settle(under_way, under_way.sample.answered(place, reply))
            floor.send()
        yield finished.pop(number)
