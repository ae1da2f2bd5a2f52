"""The suite: a data set by digest, a prompt template, a solver, scorers. Written by people as YAML."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from appliance.evals.scorers import ScorerSpec
from appliance.evals.scorers.scorer import Text
from appliance.runtime import gbnf, schema
from attest.canonical import Model
from attest.digest import Digest
from attest.job import Name, Sampling


class Dataset(Model):
    """The rows."""

    path: str = Field(min_length=1, max_length=400)
    """The file, relative to the suite file, or to one of the data folders that the command names."""
    digest: Digest
    """Its digest. A file with another one is refused."""
    format: Literal["csv", "jsonl"]
    """`csv`: comma-separated, first line names the columns (RFC 4180). `jsonl`: one JSON object a line."""


class Columns(Model):
    """Where a row's parts are: Jinja templates over the row's columns."""

    id: str | None = None
    """The row's identifier; its number when absent."""
    target: str | None = None
    """The right answer; with solver `choose`, the right option's number, from 0."""
    choices: str | tuple[str, ...] | None = None
    """The options: the name of a column that holds a list, or one template an option."""


class Prompt(Model):
    """The conversation's templates."""

    system: str | None = None
    """The system message."""
    user: str
    """The user's message."""


class Suite(Model):
    """What a suite file says."""

    format: Literal["vitrine/suite/v1"]
    """The format's name and version."""
    name: Name
    """The suite's name."""
    description: str = Field(default="", max_length=2000)
    """What it measures, and who defined it."""
    dataset: Dataset
    """The rows."""
    columns: Columns = Columns()
    """How a row is read."""
    prompt: Prompt
    """What the model is asked."""
    solver: Literal["generate", "choose"] = "generate"
    """`generate` a completion, or `choose` among options by log-likelihood."""
    sampling: Sampling | None = None
    """Sampling of this suite instead of the job's."""
    stop: tuple[Text, ...] = Field(default=(), max_length=16)
    """Strings that end a completion; they are cut off."""
    grammar: str | None = Field(default=None, max_length=gbnf.MAX_CHARS)
    """What a completion has to follow, in GBNF, llama.cpp's notation."""
    json_schema: dict[str, Any] | None = None
    """A completion has to be JSON that is valid under this schema; in place of `grammar`."""
    scorers: tuple[ScorerSpec, ...] = Field(min_length=1, max_length=16)
    """Scorers, in the order of the results."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Suite:
        labels = [spec.label for spec in self.scorers]
        labels += [aggregate.name for spec in self.scorers for aggregate in spec.aggregates]
        if len(set(labels)) != len(labels):
            raise ValueError(f"names of scorers and metrics must be unique, found {labels}")
        for spec in self.scorers:
            if self.solver not in spec.solvers:
                raise ValueError(f"scorer {spec.scorer!r} does not go with solver {self.solver!r}")
            if spec.needs_target and self.columns.target is None:
                raise ValueError(f"scorer {spec.scorer!r} needs columns.target")
        if (self.solver == "choose") != (self.columns.choices is not None):
            raise ValueError("solver 'choose' needs columns.choices, and 'generate' takes none")
        if self.solver == "choose" and (self.sampling is not None or self.stop):
            raise ValueError("solver 'choose' draws nothing: it takes no sampling and no stop")
        return self

    @model_validator(mode="after")
    def _grammar_can_be_used(self) -> Suite:
        if self.grammar is not None and self.json_schema is not None:
            raise ValueError("expected a grammar or a json_schema, found both")
        if self.constraint is not None:
            if self.solver != "generate":
                raise ValueError("a grammar and a json_schema go with solver 'generate'")
            gbnf.parse(self.constraint)
        return self

    @property
    def constraint(self) -> str | None:
        """The GBNF grammar that completions have to follow, of either field. Raises `GrammarError`."""
        return self.grammar if self.json_schema is None else schema.to_gbnf(self.json_schema)
