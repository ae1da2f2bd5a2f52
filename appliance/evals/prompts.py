"""Turns rows into tasks with the suite's templates (Jinja, sandboxed; a name that no column has is an error)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError

from appliance.evals.agents import StrategySpec
from appliance.evals.dataset import Row
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


def tasks(suite: Suite, rows: list[Row], limit: int | None) -> list[Task]:
    """The tasks of the first `limit` rows. Raises `MalformedInput` that names the row and the template."""
    return list(_tasks(suite, rows, limit))


def _tasks(suite: Suite, rows: list[Row], limit: int | None) -> Iterator[Task]:
    templates = Templates(suite.name)
    seen: dict[str, int] = {}
    for index, row in enumerate(rows[:limit]):
        reader = _Reader(suite, templates, row, index)
        identifier = reader.id()
        if identifier in seen:
            raise reader.malformed(
                f"expected a unique id, found {identifier[:80]!r}, the same as row {seen[identifier]}"
            )
        seen[identifier] = index
        target, choices = reader.text("columns.target", suite.columns.target), reader.choices()
        if choices is not None and target not in {str(number) for number in range(len(choices))}:
            raise reader.malformed(
                f"expected a target from 0 to {len(choices) - 1}, the right option, found {target!r}"
            )
        task = Task(index, identifier, reader.messages(), target, choices, reader.category(), row)
        yield from [task] if suite.attack is None else _attacks(suite.attack, task)


def _attacks(attack: AttackSpec, task: Task) -> Iterator[Task]:
    """The task once for each strategy."""
    for number, strategy in enumerate(attack.strategies):
        yield replace(
            task,
            index=task.index * len(attack.strategies) + number,
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
    index: int

    def malformed(self, problem: str) -> MalformedInput:
        return MalformedInput(f"suite {self.suite.name}", f"row {self.index}: {problem}")

    def text(self, part: str, source: str | None) -> str | None:
        return None if source is None else self.templates.text(part, source, self.row, f"row {self.index}")

    def id(self) -> str:
        found = self.text("columns.id", self.suite.columns.id)
        identifier = f"{self.index:06d}" if found is None else found.strip()
        if not identifier or len(identifier) > MAX_ID_CHARS:
            raise self.malformed(f"expected a unique id of 1 to {MAX_ID_CHARS} characters, found {identifier[:80]!r}")
        return identifier

    def category(self) -> str | None:
        found = self.text("columns.category", self.suite.columns.category)
        if found is not None and not 0 < len(found.strip()) <= MAX_CATEGORY_CHARS:
            raise self.malformed(f"expected a category of 1 to {MAX_CATEGORY_CHARS} characters, found {found[:80]!r}")
        return found and found.strip()

    def messages(self) -> tuple[Message, ...]:
        parts = (("system", self.suite.prompt.system), ("user", self.suite.prompt.user))
        contents = ((role, self.text(f"prompt.{role}", source)) for role, source in parts)
        return tuple(
            Message.model_validate({"role": role, "content": content})
            for role, content in contents
            if content is not None
        )

    def choices(self) -> tuple[str, ...] | None:
        source = self.suite.columns.choices
        if self.suite.solver != "choose" or source is None:
            return None
        if isinstance(source, str):
            options = self.row.get(source)
            if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
                raise self.malformed(f"expected column {source!r} to hold a list of texts, found {options!r:.80}")
        else:
            options = [self.text(f"columns.choices.{number}", item) for number, item in enumerate(source)]
        if len(options) < 2 or len(set(options)) != len(options) or "" in options:
            raise self.malformed(f"expected two or more different options, found {options!r:.200}")
        return tuple(options)
