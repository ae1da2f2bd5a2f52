"""Turns rows into tasks with the suite's templates (Jinja, sandboxed; a name that no column has is an error)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jinja2 import StrictUndefined, Template, TemplateError

from appliance.evals.dataset import Row
from appliance.evals.suite import Suite
from appliance.templates import Sandbox
from attest.errors import MalformedInput
from attest.sample import Message

MAX_ID_CHARS = 200


@dataclass(frozen=True)
class Task:
    """One row, ready to be put to a model."""

    index: int
    id: str
    messages: tuple[Message, ...]
    target: str | None
    choices: tuple[str, ...] | None
    row: Row = field(default_factory=dict)
    """The data set's columns."""


def tasks(suite: Suite, rows: list[Row], limit: int | None) -> list[Task]:
    """The tasks of the first `limit` rows. Raises `MalformedInput` that names the row and the template."""
    environment = Sandbox(undefined=StrictUndefined, keep_trailing_newline=True)
    templates: dict[str, Template] = {}

    def render(part: str, source: str | None, row: Row, number: int) -> str | None:
        if source is None:
            return None
        try:
            if part not in templates:
                templates[part] = environment.parsed(source)
            return environment.text(templates[part], row)
        except TemplateError as error:
            known = ", ".join(sorted(str(name) for name in row)[:20])
            raise MalformedInput(
                f"suite {suite.name}", f"row {number}, template {part!r}: {error}. The columns are: {known}"
            ) from None
        except Exception as error:
            raise MalformedInput(
                f"suite {suite.name}", f"row {number}, template {part!r}: {type(error).__name__}: {error}"
            ) from None

    found: list[Task] = []
    seen: dict[str, int] = {}
    for index, row in enumerate(rows[:limit]):
        identifier = render("columns.id", suite.columns.id, row, index)
        identifier = f"{index:06d}" if identifier is None else identifier.strip()
        if not identifier or len(identifier) > MAX_ID_CHARS or identifier in seen:
            before = f", the same as row {seen[identifier]}" if identifier in seen else ""
            raise MalformedInput(
                f"suite {suite.name}",
                f"row {index}: expected a unique id of 1 to {MAX_ID_CHARS} characters, "
                f"found {identifier[:80]!r}{before}",
            )
        seen[identifier] = index
        messages = []
        for role, source in (("system", suite.prompt.system), ("user", suite.prompt.user)):
            content = render(f"prompt.{role}", source, row, index)
            if content is not None:
                messages.append(Message.model_validate({"role": role, "content": content}))
        target = render("columns.target", suite.columns.target, row, index)
        choices = _choices(suite, row, index, render)
        if choices is not None and target is not None and target not in {str(number) for number in range(len(choices))}:
            raise MalformedInput(
                f"suite {suite.name}",
                f"row {index}: expected a target from 0 to {len(choices) - 1}, the right option, found {target!r}",
            )
        found.append(Task(index, identifier, tuple(messages), target, choices, row=row))
    return found


def _choices(suite: Suite, row: Row, index: int, render: object) -> tuple[str, ...] | None:
    source = suite.columns.choices
    if suite.solver != "choose" or source is None:
        return None
    if isinstance(source, str):
        options = row.get(source)
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise MalformedInput(
                f"suite {suite.name}",
                f"row {index}: expected column {source!r} to hold a list of texts, found {options!r:.80}",
            )
    else:
        assert callable(render)
        options = [render(f"columns.choices.{number}", item, row, index) for number, item in enumerate(source)]
    if len(options) < 2 or len(set(options)) != len(options) or "" in options:
        raise MalformedInput(
            f"suite {suite.name}", f"row {index}: expected two or more different options, found {options!r:.200}"
        )
    return tuple(options)
