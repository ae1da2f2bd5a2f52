"""Turns rows into tasks with the suite's templates (Jinja, sandboxed; a name that no column has is an error)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError

from appliance.evals.agents import StrategySpec
from appliance.evals.dataset import Row
from appliance.evals.dice import Dice
from appliance.evals.suite import AttackSpec, Suite
from appliance.templates import Sandbox
from attest.errors import MalformedInput
from attest.sample import Message

MAX_ID_CHARS = 200
MAX_CATEGORY_CHARS = 200


@dataclass(frozen=True)
class Task:
    """One row, ready to be put to a model."""

    index: int
    """Its place among the suite's tasks, from 0."""
    id: str
    """Unique in the suite."""
    messages: tuple[Message, ...]
    """The conversation that the target is asked."""
    target: str | None
    """The right answer."""
    choices: tuple[str, ...] | None
    """The options."""
    category: str | None = None
    """Its group in the tables; of an attack, the strategy."""
    row: Row = field(default_factory=dict)
    """The data set's columns."""
    strategy: StrategySpec | None = None
    """Of an attack, who attacks."""
    epoch: int | None = None
    """Which time the row is asked, from 1, where it is asked several times."""


class Templates:
    """The compiled templates of one suite."""

    def __init__(self, suite: str) -> None:
        self._suite = suite
        self._environment = Sandbox(undefined=StrictUndefined, keep_trailing_newline=True)
        self._compiled: dict[str, Template] = {}

    def text(self, part: str, source: str, variables: Mapping[str, Any], where: str) -> str:
        """`source`, the suite's field `part`, filled in. Raises `MalformedInput` that says `where`."""
        what = f"suite {self._suite}"
        try:
            if source not in self._compiled:
                self._compiled[source] = self._environment.parsed(source)
            return self._environment.text(self._compiled[source], variables)
        except TemplateError as error:
            known = ", ".join(sorted(str(name) for name in variables)[:20])
            raise MalformedInput(what, f"{where}, template {part!r}: {error}. The columns are: {known}") from None
        except Exception as error:
            raise MalformedInput(what, f"{where}, template {part!r}: {type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class Selection:
    """Which rows, in which order, with which examples."""

    limit: int | None = None
    """The first ones only."""
    shuffle: int | None = None
    """The seed of their order; the file's when absent."""
    shots: list[Row] = field(default_factory=list)
    """The rows that examples are taken from."""
    seed: int = 0
    """The job's, for examples that are drawn."""


ALL = Selection()


def tasks(suite: Suite, rows: list[Row], selection: Selection = ALL) -> list[Task]:
    """The tasks of the selected rows. Raises `MalformedInput` that names the row and the template."""
    if suite.shots is not None and len(selection.shots) < suite.shots.count:
        raise MalformedInput(
            f"suite {suite.name}", f"expected {suite.shots.count} examples or more, found {len(selection.shots)}"
        )
    return [replace(task, index=index) for index, task in enumerate(_tasks(suite, rows, selection))]


def _tasks(suite: Suite, rows: list[Row], selection: Selection) -> Iterator[Task]:
    templates = Templates(suite.name)
    seen: dict[str, int] = {}
    order = list(range(len(rows)))
    if selection.shuffle is not None:
        order = Dice(selection.shuffle, suite.name).shuffled(order)
    for number in order[: selection.limit]:
        reader = _Reader(suite, templates, rows[number], number, selection)
        identifier = reader.id()
        if identifier in seen:
            same = f"{identifier[:80]!r}, the same as row {seen[identifier]}"
            raise reader.malformed(f"expected a unique id of 1 to {MAX_ID_CHARS} characters, found {same}")
        seen[identifier] = number
        task = reader.task(identifier)
        for epoch in range(1, suite.epochs + 1):
            asked = task if suite.epochs == 1 else replace(task, id=f"{task.id}#{epoch}", epoch=epoch)
            yield from [asked] if suite.attack is None else _attacks(suite.attack, asked)


def _attacks(attack: AttackSpec, task: Task) -> Iterator[Task]:
    """The task once for each strategy."""
    for strategy in attack.strategies:
        yield replace(
            task,
            id=f"{task.id}@{strategy.label}",
            category=strategy.label,
            strategy=strategy,
        )


@dataclass(frozen=True)
class _Reader:
    """Reads the parts of one row."""

    suite: Suite
    templates: Templates
    row: Row
    number: int
    selection: Selection

    def malformed(self, problem: str) -> MalformedInput:
        return MalformedInput(f"suite {self.suite.name}", f"row {self.number}: {problem}")

    def text(self, part: str, source: str, variables: Mapping[str, Any]) -> str:
        return self.templates.text(part, source, variables, f"row {self.number}")

    def maybe(self, part: str, source: str | None) -> str | None:
        return None if source is None else self.text(part, source, self.row)

    def id(self) -> str:
        found = self.maybe("columns.id", self.suite.columns.id)
        identifier = f"{self.number:06d}" if found is None else found.strip()
        if not identifier or len(identifier) > MAX_ID_CHARS:
            raise self.malformed(f"expected a unique id of 1 to {MAX_ID_CHARS} characters, found {identifier[:80]!r}")
        return identifier

    def task(self, identifier: str) -> Task:
        target, choices = self.maybe("columns.target", self.suite.columns.target), self.choices()
        if choices is not None and target is not None and target not in {str(place) for place in range(len(choices))}:
            raise self.malformed(f"expected a target from 0 to {len(choices) - 1}, the right option, found {target!r}")
        return Task(0, identifier, self.messages(identifier), target, choices, self.category(), self.row)

    def category(self) -> str | None:
        found = self.maybe("columns.category", self.suite.columns.category)
        if found is not None and not 0 < len(found.strip()) <= MAX_CATEGORY_CHARS:
            raise self.malformed(f"expected a category of 1 to {MAX_CATEGORY_CHARS} characters, found {found[:80]!r}")
        return found and found.strip()

    def messages(self, identifier: str) -> tuple[Message, ...]:
        prompt, shots = self.suite.prompt, self.shots(identifier)
        found = [("system", self.text("prompt.system", prompt.system, self.row))] if prompt.system is not None else []
        for shot in shots if self.suite.shots and self.suite.shots.assistant is not None else ():
            found += self.shot_turns(shot)
        if prompt.user is not None:
            variables = {**self.row, "shots": shots} if self.suite.shots else self.row
            found.append(("user", self.text("prompt.user", prompt.user, variables)))
        else:
            found += self.column_turns(str(prompt.messages))
        return tuple(Message.model_validate({"role": role, "content": content}) for role, content in found)

    def shots(self, identifier: str) -> list[Row]:
        spec = self.suite.shots
        if spec is None:
            return []
        if spec.order == "first":
            return self.selection.shots[: spec.count]
        dice = Dice(self.selection.seed, f"{self.suite.name}/{identifier}/shots")
        return dice.some(self.selection.shots, spec.count)

    def shot_turns(self, shot: Row) -> list[tuple[str, str]]:
        spec = self.suite.shots
        assert spec is not None
        user = spec.user if spec.user is not None else self.suite.prompt.user
        return [
            ("user", self.text("shots.user", str(user), shot)),
            ("assistant", self.text("shots.assistant", str(spec.assistant), shot)),
        ]

    def column_turns(self, column: str) -> list[tuple[str, str]]:
        """The conversation in a column: one text of the user's, or messages of text."""
        found = self.row.get(column)
        if isinstance(found, str):
            return [("user", found)]
        form = "a text, or a list of objects of role and content"
        if not isinstance(found, list) or not found:
            raise self.malformed(f"expected column {column!r} to hold {form}, found {found!r:.80}")
        turns = []
        for message in found:
            role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
            if role not in ("system", "user", "assistant") or not isinstance(content, str):
                raise self.malformed(f"expected column {column!r} to hold {form}, found in it {message!r:.80}")
            turns.append((role, content))
        return turns

    def choices(self) -> tuple[str, ...] | None:
        source = self.suite.columns.choices
        if self.suite.solver != "choose" or source is None:
            return None
        if isinstance(source, str):
            options = self.row.get(source)
            options = list(options) if isinstance(options, dict) else options
            if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
                raise self.malformed(f"expected column {source!r} to hold a list of texts, found {options!r:.80}")
        else:
            options = [self.text(f"columns.choices.{place}", item, self.row) for place, item in enumerate(source)]
        if self.suite.columns.choice is not None:
            options = [
                self.text("columns.choice", self.suite.columns.choice, {**self.row, "choice": option})
                for option in options
            ]
        if len(options) < 2 or len(set(options)) != len(options) or "" in options:
            raise self.malformed(f"expected two or more different options, found {options!r:.200}")
        return tuple(options)
