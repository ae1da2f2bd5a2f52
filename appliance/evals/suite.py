"""The suite: a data set by digest, a prompt template, a solver, scorers. Written by people as YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from appliance.evals.agents import StrategySpec
from appliance.evals.agents.strategy import MAX_QUERIES
from appliance.evals.dataset import Dataset
from appliance.evals.judge import Judge
from appliance.evals.scorers import ScorerSpec
from appliance.evals.scorers.recorded import Recorded
from appliance.evals.scorers.scorer import Text
from appliance.evals.tools.end_state import EndState
from appliance.evals.tools.settings import AgentSpec
from appliance.runtime import gbnf, schema
from attest.aggregate import Aggregate, AttackSuccess
from attest.canonical import Model
from attest.job import Comparator, Fraction, Name, Sampling
from attest.sample import Role

Datasets = Dataset | Annotated[tuple[Dataset, ...], Field(min_length=1, max_length=256)]
"""One file, or several of the same columns."""


class Columns(Model):
    """Where a row's parts are: Jinja templates over the row's columns."""

    id: str | None = None
    """The row's identifier; its number when absent."""
    target: str | None = None
    """The right answer; with solver `choose`, the right option's number, from 0."""
    category: str | None = None
    """The row's group, for the tables by category."""
    choices: str | tuple[str, ...] | None = None
    """The options: the name of a column that holds a list of texts, or an object whose keys they are; or one template
    an option."""
    choice: str | None = None
    """What an option looks like in the reply, over the row's columns and `choice`; as it stands when absent."""


class Prompt(Model):
    """The conversation's templates."""

    system: str | None = None
    """The system message."""
    user: str | None = None
    """The user's message."""
    messages: str | None = Field(default=None, max_length=200)
    """In place of `user`: the column that holds the conversation, a list of `role` and `content`, or one text."""
    raw: bool = False
    """Put the user's text to the model as it is, without the model's chat template: for base models, and to compare
    with harnesses that do so."""

    @model_validator(mode="after")
    def _one_source(self) -> Prompt:
        if (self.user is None) == (self.messages is None):
            raise ValueError("expected a prompt with user or messages, and one of them")
        if self.raw and (self.system is not None or self.messages is not None):
            raise ValueError("a raw prompt is the user's text alone: it takes no system and no messages")
        return self


class Shots(Model):
    """Examples that stand before the question."""

    dataset: Datasets
    """Where they are from: a split of its own, so that no row is its own example."""
    count: int = Field(ge=1, le=256)
    """How many."""
    order: Literal["first", "seeded"] = "first"
    """The first ones, for every row the same; or drawn for each row, by the job's seed."""
    user: str | None = None
    """Template of the example's question, over its columns; the suite's own `prompt.user` when absent."""
    assistant: str | None = None
    """Template of its answer. The examples are then turns of the conversation. Without it they are in no message of
    their own, and `prompt.user` has them as the list of rows `shots`."""


Scorer = Annotated[ScorerSpec | EndState | Judge, Field(discriminator="scorer")]
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
    dataset: Datasets
    """The rows: a file, or several, one after the other."""
    shots: Shots | None = None
    """Examples, for few-shot prompts."""
    epochs: int = Field(default=1, ge=1, le=1000)
    """How often each row is asked, each time with draws of its own."""
    columns: Columns = Columns()
    """How a row is read."""
    prompt: Prompt
    """What the model is asked."""
    solver: Literal["generate", "choose", "agent", "attack", "replay"] = "generate"
    """`generate` a completion, `choose` among options by log-likelihood, let an `agent` use tools, `attack` with
    strategies, or `replay` what another harness asked."""
    agent: AgentSpec | None = None
    """For `agent`, and for an attack's strategy `tools`: the tools and the limits."""
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
        labels += [aggregate.name for aggregate in self.aggregates]
        if len(set(labels)) != len(labels):
            raise ValueError(f"names of scorers and metrics must be unique, found {labels}")
        for spec in self.scorers:
            if ("choose" if self.solver == "choose" else "generate") not in spec.solvers:
                raise ValueError(f"scorer {spec.scorer!r} does not go with solver {self.solver!r}")
            if spec.needs_target and self.columns.target is None:
                raise ValueError(f"scorer {spec.scorer!r} needs columns.target")
        if (self.solver == "choose") != (self.columns.choices is not None):
            raise ValueError("solver 'choose' needs columns.choices, and 'generate' takes none")
        if self.solver == "choose" and (self.sampling is not None or self.stop):
            raise ValueError("solver 'choose' draws nothing: it takes no sampling and no stop")
        return self

    @model_validator(mode="after")
    def _replay_asks_what_was_recorded(self) -> Suite:
        if (self.solver == "replay") != any(isinstance(spec, Recorded) for spec in self.scorers):
            raise ValueError("solver 'replay' and scorers 'recorded' go together")
        others = (self.sampling, self.shots, self.constraint)
        if self.solver == "replay" and (any(each is not None for each in others) or self.stop or self.prompt.raw):
            raise ValueError("solver 'replay' asks what the rows say: no sampling, shots, stop, grammar or raw prompt")
        return self

    @model_validator(mode="after")
    def _raw_prompts_stand_alone(self) -> Suite:
        if self.prompt.raw and (self.solver == "attack" or (self.shots and self.shots.assistant)):
            raise ValueError("a raw prompt is one text: no attack, and shots only as the list in prompt.user")
        if self.shots and self.shots.assistant and not (self.shots.user or self.prompt.user):
            raise ValueError("shots with an answer need shots.user, where prompt.user is not there")
        return self

    @model_validator(mode="after")
    def _agent_has_what_it_needs(self) -> Suite:
        strategies = self.attack.strategies if self.attack else ()
        if (self.solver == "agent" or any(spec.needs_agent for spec in strategies)) != (self.agent is not None):
            raise ValueError("solver 'agent' and strategy 'tools' need settings under agent, and no other takes them")
        if self.agent is not None and (self.prompt.raw or self.constraint is not None):
            raise ValueError("an agent's replies have their own form: no raw prompt, grammar or json_schema")
        has_world = self.agent is not None and any(tool.tool == "kv" for tool in self.agent.tools)
        if any(isinstance(spec, EndState) for spec in self.scorers) and not has_world:
            raise ValueError("scorer 'end_state' looks at the world of a tool 'kv', and the suite has none")
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
    def aggregates(self) -> tuple[Aggregate, ...]:
        """What is to be reported besides the scorers' means."""
        of_scorers = tuple(aggregate for spec in self.scorers for aggregate in spec.aggregates)
        return of_scorers if self.attack is None else (*of_scorers, AttackSuccess(scorer=self.attack.success.scorer))

    @property
    def files(self) -> dict[str, Dataset]:
        """All of its data sets, by the name that the lock gives them: the rows' before the examples'."""
        rows = _several(self.dataset)
        names = [self.name] if len(rows) == 1 else [f"{self.name}.{number}" for number in range(len(rows))]
        shots = _several(self.shots.dataset) if self.shots else ()
        return dict(zip(names, rows, strict=True)) | {
            f"{self.name}.shots.{number}": dataset for number, dataset in enumerate(shots)
        }

    @property
    def needs(self) -> frozenset[Role]:
        """The roles that have to be filled for it to run."""
        roles: set[Role] = {"target"}
        if any(isinstance(spec, Judge) for spec in self.scorers):
            roles.add("judge")
        for strategy in self.attack.strategies if self.attack else ():
            if strategy.needs_attacker:
                roles.add("attacker")
            if strategy.needs_judge:
                roles.add("judge")
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


def _several(datasets: Datasets) -> tuple[Dataset, ...]:
    return (datasets,) if isinstance(datasets, Dataset) else datasets
