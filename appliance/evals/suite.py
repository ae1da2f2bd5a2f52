"""The suite: a data set by digest, a prompt template, a solver, scorers. Written by people as YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from appliance.evals.agents import StrategySpec
from appliance.evals.agents.strategy import MAX_QUERIES
from appliance.evals.judge import Judge
from appliance.runtime import gbnf, schema
from attest.canonical import Model
from attest.digest import Digest
from attest.job import Comparator, Fraction, Name, Sampling
from attest.sample import Role

Text = Annotated[str, Field(min_length=1, max_length=1000)]
"""A text that is not empty: an empty one is in every reply."""


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
    category: str | None = None
    """The row's group, for the tables by category."""
    choices: str | tuple[str, ...] | None = None
    """The options: the name of a column that holds a list, or one template an option."""


class Prompt(Model):
    """The conversation's templates."""

    system: str | None = None
    """The system message."""
    user: str
    """The user's message."""


class ScorerSpec(Model):
    """One scorer with its settings; see `appliance.evals.scorers`."""

    scorer: Literal["exact", "includes", "numeric", "refusal", "words", "choice"]
    """Which function scores."""
    name: Name | None = None
    """How results and claims name it; the scorer's own name when absent."""
    words: tuple[Text, ...] = ()
    """For `words`: any of them scores 1. For `refusal`: prefixes that count as a refusal in place of the built-in."""

    @property
    def label(self) -> str:
        """The name that results carry."""
        return self.name or self.scorer


Scorer = Annotated[ScorerSpec | Judge, Field(discriminator="scorer")]
"""One scorer of a suite."""


class Success(Model):
    """What counts as a success of an attack."""

    scorer: Name
    """One of the suite's scorers, by its name."""
    comparator: Comparator
    """How its score of the reply is compared."""
    threshold: Fraction
    """With what."""


class AttackSpec(Model):
    """An attack: each row is attacked by each of the strategies, and by each on its own."""

    strategies: tuple[StrategySpec, ...] = Field(min_length=1, max_length=32)
    """The strategies; `direct` among them is what the others are compared with."""
    success: Success
    """When a strategy has reached what it wanted, and stops."""
    queries: int = Field(default=20, ge=1, le=MAX_QUERIES)
    """Queries to the target that each strategy has for each row."""

    @model_validator(mode="after")
    def _strategies_have_names_of_their_own(self) -> AttackSpec:
        labels = [strategy.label for strategy in self.strategies]
        if len(set(labels)) != len(labels):
            raise ValueError(f"names of strategies must be unique, found {labels}")
        return self


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
    solver: Literal["generate", "choose", "attack"] = "generate"
    """`generate` a completion, `choose` among options by log-likelihood, or `attack` with strategies."""
    attack: AttackSpec | None = None
    """For `attack`: who attacks, and what success is."""
    sampling: Sampling | None = None
    """Sampling of this suite instead of the job's."""
    stop: tuple[Text, ...] = Field(default=(), max_length=16)
    """Strings that end a completion; they are cut off."""
    grammar: str | None = Field(default=None, max_length=gbnf.MAX_CHARS)
    """What a completion has to follow, in GBNF, llama.cpp's notation."""
    json_schema: dict[str, Any] | None = None
    """A completion has to be JSON that is valid under this schema; in place of `grammar`."""
    scorers: tuple[Scorer, ...] = Field(min_length=1, max_length=16)
    """Scorers, in the order of the results."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Suite:
        labels = [spec.label for spec in self.scorers]
        if len(set(labels)) != len(labels):
            raise ValueError(f"scorer names must be unique, found {labels}")
        for spec in self.scorers:
            if isinstance(spec, Judge):
                if self.solver == "choose":
                    raise ValueError("scorer 'judge' reads a reply, and solver 'choose' has none")
                continue
            if (spec.scorer == "choice") != (self.solver == "choose"):
                raise ValueError(f"scorer {spec.scorer!r} does not go with solver {self.solver!r}")
            if spec.scorer == "words" and not spec.words:
                raise ValueError("scorer 'words' needs its words")
            if spec.scorer not in ("words", "refusal") and spec.words:
                raise ValueError(f"scorer {spec.scorer!r} takes no words")
            if spec.scorer in ("exact", "includes", "numeric", "choice") and self.columns.target is None:
                raise ValueError(f"scorer {spec.scorer!r} needs columns.target")
        if (self.solver == "choose") != (self.columns.choices is not None):
            raise ValueError("solver 'choose' needs columns.choices, and 'generate' takes none")
        if self.solver == "choose" and (self.sampling is not None or self.stop):
            raise ValueError("solver 'choose' draws nothing: it takes no sampling and no stop")
        return self

    @model_validator(mode="after")
    def _attack_has_what_it_needs(self) -> Suite:
        if (self.solver == "attack") != (self.attack is not None):
            raise ValueError("solver 'attack' needs its settings under attack, and no other takes them")
        if self.attack is not None:
            if self.columns.category is not None:
                raise ValueError("an attack's tables are by strategy: it takes no columns.category")
            if self.attack.success.scorer not in [spec.label for spec in self.scorers]:
                raise ValueError(f"attack.success names scorer {self.attack.success.scorer!r}, which the suite has not")
        return self

    @property
    def needs(self) -> frozenset[Role]:
        """The roles that have to be filled for it to run."""
        roles: set[Role] = {"target"}
        if any(isinstance(spec, Judge) for spec in self.scorers):
            roles.add("judge")
        if self.attack is not None and any(strategy.needs_attacker for strategy in self.attack.strategies):
            roles.add("attacker")
        return frozenset(roles)

    @model_validator(mode="after")
    def _grammar_can_be_used(self) -> Suite:
        if self.grammar is not None and self.json_schema is not None:
            raise ValueError("expected a grammar or a json_schema, found both")
        if self.constraint is not None:
            if self.solver == "choose":
                raise ValueError("a grammar and a json_schema need a completion: not with solver 'choose'")
            gbnf.parse(self.constraint)
        return self

    @property
    def constraint(self) -> str | None:
        """The GBNF grammar that completions have to follow, of either field. Raises `GrammarError`."""
        return self.grammar if self.json_schema is None else schema.to_gbnf(self.json_schema)
