"""Reads what people write: job and suite files in YAML, strictly, and the files they refer to.

YAML is read with the safe loader and without its surprises: duplicate keys, anchors, tags, dates and numbers that are
not JSON are refused, so that what was reviewed is what is run.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from appliance import resources
from appliance.evals.suite import Suite
from attest import canonical
from attest.errors import MalformedInput, Unsupported
from attest.job import Claim, Job

MAX_BYTES = 4 << 20
RESOURCE = "resource:"
M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML with the plain scalars of JSON: no aliases, no merge keys, no dates, no octal numbers, unique text keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: expected no anchors, aliases and tags, found one")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.YAMLError(f"line {line}: expected text as a key, found {key!r}")
            if key in seen:
                raise yaml.YAMLError(f"line {line}: expected unique keys, found {key!r} twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"null|~|", ["n", "~", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"-?(0|[1-9][0-9]*)", list("-0123456789")),
    ("float", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", list("-0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


class _Dumper(yaml.SafeDumper):
    """YAML without aliases, and with every text in double quotes."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@dataclass(frozen=True)
class LoadedJob:
    """A job, and the folder that its relative paths start from."""

    job: Job
    folder: Path


@dataclass(frozen=True)
class LoadedSuite:
    """A suite, its place in the job, and where its files lie."""

    suite: Suite
    path: Path
    datasets: dict[str, Path]
    """Where its data sets lie, by the name that the lock gives them."""


@dataclass(frozen=True)
class Rows:
    """Which rows of every suite the operator wants, beside what the job says. It makes another job of it."""

    limit: int | None = None
    """At most so many, at least 1."""
    shuffle: int | None = None
    """In the order that this seed gives."""

    def of(self, job: Job) -> Job:
        """The job with these rows; the same one where nothing is wanted."""
        suites = tuple(
            entry.model_copy(
                update={
                    "limit": min(filter(None, (self.limit, entry.limit)), default=None),
                    "shuffle": entry.shuffle if self.shuffle is None else self.shuffle,
                }
            )
            for entry in job.suites
        )
        return job.model_copy(update={"suites": suites})


ALL_ROWS = Rows()


def load(path: Path, rows: Rows = ALL_ROWS) -> LoadedJob:
    """The job in the file at `path`, of `rows`. Raises `MalformedInput`, or `Unsupported` for another version."""
    return LoadedJob(rows.of(parse(Job, _read(path), f"job {path.name}")), path.parent)


def dump(job: Job) -> bytes:
    """A job file that says `job`: YAML in ASCII, every text in quotes, so that none is read as something else."""
    value = job.model_dump(mode="json", exclude_none=True)
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=math.inf).encode("ascii")


def load_suites(loaded: LoadedJob, data: tuple[Path, ...] = ()) -> list[LoadedSuite]:
    """The job's suites in its order; `data` are folders in which data sets are looked for as well."""
    suites = []
    for entry in loaded.job.suites:
        path = locate(entry.path, loaded.folder)
        suite = parse(Suite, _read(path), f"suite {path.name}")
        suites.append(LoadedSuite(suite, path, _find(suite, path.parent, data)))
        roles = {"target", *(role for role in ("attacker", "judge") if getattr(entry, role) is not None)}
        if suite.needs != roles:
            raise MalformedInput(
                "job",
                f"suite {suite.name!r} needs models for {sorted(suite.needs)}, and the job names {sorted(roles)}",
            )
    names = [item.suite.name for item in suites]
    if len(set(names)) != len(names):
        raise MalformedInput("job", f"expected suites of different names, found {names}")
    files = [name for item in suites for name in item.datasets]
    if twice := sorted({name for name in files if files.count(name) > 1}):
        raise MalformedInput("job", f"expected suites whose data sets have names of their own, found {twice} twice")
    models = [model.id for model in loaded.job.models]
    for claim in loaded.job.claims:
        if claim.suite not in names:
            raise MalformedInput("job", f"a claim is about suite {claim.suite!r}; the job has {names}")
        place = names.index(claim.suite)
        _check_claim(claim, suites[place].suite, loaded.job.suites[place].targets(models))
    return suites


def _check_claim(claim: Claim, suite: Suite, targets: tuple[str, ...]) -> None:
    """Raise `MalformedInput` unless `claim` is about something that `suite` finds out about `targets`."""
    for model in filter(None, (claim.model, claim.versus)):
        if model not in targets:
            raise MalformedInput("job", f"a claim is about suite {claim.suite!r} on {model!r}, where it is not run")
    known = {spec.label for spec in suite.scorers}
    if claim.versus is None:
        known |= {one.name for one in suite.aggregates}
    if claim.metric not in known:
        raise MalformedInput(
            "job", f"a claim is about {claim.metric!r} of suite {claim.suite!r}; that suite has {sorted(known)}"
        )
    strategies = [strategy.label for strategy in suite.attack.strategies] if suite.attack else []
    if strategies and claim.category not in (None, *strategies):
        raise MalformedInput(
            "job", f"a claim is about strategy {claim.category!r} of suite {claim.suite!r}; it has {strategies}"
        )


def locate(path: str, folder: Path) -> Path:
    """Where `path` of a job or suite file leads: into the embedded demo, or relative to `folder`."""
    if path.startswith(RESOURCE):
        return resources.inside(path.removeprefix(RESOURCE))
    return folder / path


def parse(model: type[M], data: bytes, what: str) -> M:
    """Strict YAML `data` as a `model`. Raises `MalformedInput` that says where, what was expected and found."""
    value = mapping(data, what)
    wanted = model.model_fields["format"].annotation
    known = getattr(wanted, "__args__", ("",))[0]
    if isinstance(value.get("format"), str) and value["format"] != known:
        raise Unsupported(what, f"expected format {known}, found {value['format']!r}")
    try:
        text = json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise MalformedInput(what, f"expected what JSON can carry, found otherwise: {error}") from None
    return canonical.parse(model, text, what)


def mapping(data: bytes, what: str) -> dict[str, Any]:
    """The mapping that strict YAML `data` holds. Raises `MalformedInput`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(what, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    try:
        value = yaml.load(data.decode("utf-8"), Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except UnicodeDecodeError as error:
        raise MalformedInput(what, f"expected UTF-8, found an invalid byte at offset {error.start}") from None
    except yaml.MarkedYAMLError as error:  # its own text quotes the line, and that may be a prompt
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise MalformedInput(what, f"{where}{problem}"[:400]) from None
    except Exception as error:  # PyYAML lets a hostile tag raise what its constructor raises
        raise MalformedInput(what, " ".join(str(error).split())[:400]) from None
    if not isinstance(value, dict):
        raise MalformedInput(what, f"expected a mapping, found {type(value).__name__}")
    return value


def _find(suite: Suite, folder: Path, data: tuple[Path, ...]) -> dict[str, Path]:
    return {name: _find_one(suite, file.path, folder, data) for name, file in suite.files.items()}


def _find_one(suite: Suite, path: str, folder: Path, data: tuple[Path, ...]) -> Path:
    with contextlib.suppress(ValueError, OSError):  # a path with a NUL, or one that is too long
        for root in (folder, *data):
            if (root / path).exists():
                return root / path
    places = ", ".join(str(root) for root in (folder, *data))
    raise MalformedInput(
        f"suite {suite.name}",
        f"expected the data set {path} in one of: {places}; found it in none. Name its folder with --data",
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise MalformedInput(repr(str(path)), f"expected a readable file, found: {problem}") from None
