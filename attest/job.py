"""The job: what is to run, stated before it runs. Written by people as YAML, pinned as canonical JSON.

The job's digest is the digest of that JSON; the notary's log holds it before the first sample is drawn, and with it
the claims that the run is to test.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from attest import canonical
from attest.canonical import Model
from attest.digest import digest_of

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?$")]
"""A name of lower-case letters, digits, dot, dash and underscore, 1 to 64 characters."""
Decimal = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,9}(\.[0-9]{1,12})?$")]
"""A decimal string."""
Fraction = Annotated[str, StringConstraints(pattern=r"^(0(\.[0-9]{1,12})?|1(\.0{1,12})?)$")]
"""A decimal string in [0, 1]."""
Comparator = Literal["<", "<=", ">", ">=", "=="]


class JobModel(Model):
    """One model under test."""

    id: Name
    """How suites, claims and results name it."""
    path: str = Field(min_length=1, max_length=400)
    """The GGUF file (the first of its shards), relative to the job file; `resource:demo/...` for the embedded ones."""


class JobSuite(Model):
    """One suite to be run."""

    path: str = Field(min_length=1, max_length=400)
    """The suite file, relative to the job file; `resource:demo/...` for the embedded ones."""
    limit: int | None = Field(default=None, ge=1)
    """Run the first `limit` rows only."""
    shuffle: int | None = Field(default=None, ge=0, le=2**53 - 1)
    """Take the rows in the order that this seed gives, before `limit` cuts; in the file's order when absent."""
    models: tuple[Name, ...] | None = Field(default=None, min_length=1)
    """The models under test; when absent, all of the job but those that are this suite's attacker or judge."""
    attacker: Name | None = None
    """The model that writes the attacks, for suites whose strategy needs one."""
    judge: Name | None = None
    """The model that grades, for suites with a scorer `judge`."""

    def targets(self, models: Iterable[str]) -> tuple[str, ...]:
        """Which of the job's `models` are under test here, in the job's order."""
        others = {self.attacker, self.judge}
        return tuple(name for name in models if (name in self.models if self.models else name not in others))


class Sampling(Model):
    """How tokens are drawn. Temperature 0 is greedy, and then nothing else here matters but `max_tokens`."""

    temperature: Decimal = "0"
    """Divides the logits."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: Fraction = "1"
    """Keep the smallest set of likeliest tokens that reaches this mass."""
    min_p: Fraction = "0"
    """Keep tokens at least this likely in relation to the likeliest."""
    max_tokens: int = Field(default=256, ge=1, le=65536)
    """Completion tokens a sample may have."""

    @model_validator(mode="after")
    def _temperature_is_not_negative(self) -> Sampling:
        if self.temperature.startswith("-"):
            raise ValueError("temperature is 0 or more")
        return self


class Limits(Model):
    """Bounds of the run; past them a sample or the run ends with a record that says so."""

    context_tokens: int = Field(default=2048, ge=16, le=1 << 20)
    """Prompt and completion together."""
    sample_timeout_s: int = Field(default=300, ge=1, le=86400)
    """Wall time of one request to a model."""
    wall_time_s: int = Field(default=86400, ge=1, le=30 * 86400)
    """Wall time of the whole run."""
    memory_bytes: int = Field(default=8 << 30, ge=256 << 20)
    """Memory of one worker besides its sealed files."""


class Numerics(Model):
    """How logits are computed, and what is promised of them. A job may give the contract's name alone."""

    contract: Literal["exact", "reported"] = "exact"
    """`exact`: the run is refused unless the self-test finds every bit independent of how it was computed.
    `reported`: it goes on, and the manifest says what the self-test found."""
    profile: Name = "x86-64-v3"
    """The engine recipe's profile."""
    kv: Literal["f32", "f16", "q8_0"] = "f16"
    """Type of the KV cache."""
    sequences: int = Field(default=8, ge=1, le=256)
    """Samples that a model worker runs side by side. Under `exact` the results are the same for any number."""
    threads: int = Field(default=1, ge=1, le=256)
    """Threads of one model worker. Under `exact` the results are the same for any number."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"contract": value} if isinstance(value, str) else value


class Claim(Model):
    """A bar that is set before the run: it holds, or it does not."""

    suite: Name
    """The suite whose score is compared."""
    model: Name
    """The model that was scored."""
    metric: Name
    """The scorer whose mean is compared, or the name of another metric of the suite."""
    category: str | None = Field(default=None, min_length=1, max_length=200)
    """The category whose samples count; all when absent."""
    versus: Name | None = None
    """The model that `model` is compared with: the claim is about the scorer's paired difference."""
    comparator: Comparator
    """How value and threshold are compared."""
    threshold: Decimal
    """The bar."""

    @model_validator(mode="after")
    def _compared_with_one_thing(self) -> Claim:
        if self.versus is not None and (self.category is not None or self.versus == self.model):
            raise ValueError("versus names another model, and takes no category")
        return self


class Job(Model):
    """What a job file says."""

    format: Literal["vitrine/job/v1"]
    """The format's name and version."""
    name: Name
    """The job's name."""
    nonce: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){8,64}$")] | None = None
    """A relying party's random bytes (8 to 64, hexadecimal): the bundle that carries them was made after them."""
    seed: int = Field(default=0, ge=0, le=2**53 - 1)
    """Seed of everything random in the run."""
    models: tuple[JobModel, ...] = Field(min_length=1, max_length=16)
    """The models, in the order in which they are run."""
    suites: tuple[JobSuite, ...] = Field(min_length=1, max_length=256)
    """The suites, in the order in which they are run on each model."""
    sampling: Sampling = Sampling()
    """Sampling of every suite that does not say otherwise."""
    limits: Limits = Limits()
    """Bounds of the run."""
    schedule: Literal["concurrent", "sequential"] | None = None
    """`concurrent`, and when absent: all models are loaded at once. `sequential`: each is loaded when its first suite
    begins, and gone after its last one; a judge or attacker is loaded beside the models that need it."""
    numerics: Numerics = Numerics()
    """Engine profile and threads."""
    claims: tuple[Claim, ...] = Field(default=(), max_length=1024)
    """What the run is to show."""

    @model_validator(mode="after")
    def _names_are_unique_and_known(self) -> Job:
        ids = [model.id for model in self.models]
        if len(set(ids)) != len(ids):
            raise ValueError(f"model ids must be unique, found {ids}")
        used = {name for suite in self.suites for name in (*(suite.models or ()), suite.attacker, suite.judge) if name}
        used |= {name for claim in self.claims for name in (claim.model, claim.versus) if name is not None}
        if unknown := sorted(used - set(ids)):
            raise ValueError(f"models {unknown} are named, but not listed under models")
        if len({suite.path for suite in self.suites}) != len(self.suites):
            raise ValueError("a suite is listed twice")
        for suite in self.suites:
            if not suite.targets(ids):
                raise ValueError(f"suite {suite.path!r} has no model under test: name one under its models")
        return self


def dump(job: Job) -> bytes:
    """The job's canonical JSON, which `digest` identifies."""
    return canonical.dump_model(job)


def digest(job: Job) -> str:
    """The job's identity."""
    return digest_of(dump(job))
