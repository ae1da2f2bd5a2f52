"""The execution manifest, the predicate of the signed statement: what ran, on what, how sealed, and what came out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from attest.canonical import Model
from attest.determinism import SelfTest
from attest.digest import Digest, Hex32
from attest.job import Name, Numerics
from attest.results import ClaimResult, PlannedSuite, SuiteResult

Time = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
"""RFC 3339, UTC, whole seconds."""
Wall = Literal["process", "container", "vm"]
Platform = Literal["tpm", "sev-snp", "tdx", "nitro", "azure", "nvidia-gpu"]
"""Hardware that can speak for a run."""


class Producer(Model):
    """The software that made the bundle, by its own word; the boot section has the digests."""

    name: Literal["vitrine"] = "vitrine"
    """The project."""
    version: str = Field(max_length=64)
    """Its version."""


class JobSection(Model):
    """The job."""

    name: Name
    """The job's name."""
    digest: Digest
    """Digest of its canonical JSON, `evidence/job.json`."""
    nonce: str | None = None
    """The relying party's nonce, hexadecimal."""
    attempt: int = Field(ge=1)
    """Which attempt at this job this is, counted by the notary's log."""
    intent_index: int = Field(ge=0)
    """Where the log holds the intent that was registered before the run."""


class LockSection(Model):
    """What was allowed to run."""

    digest: Digest
    """Digest of the lockfile's bytes, `evidence/appliance.lock`."""
    version: int = Field(ge=0)
    """The lockfile's own version number."""
    origin: Literal["given", "made-for-this-run"]
    """`given`: compared at boot with a lockfile that people had reviewed. Otherwise it pins what was found."""


class ContainerSection(Model):
    """The container around the run, by the word of the host that started it: the inside cannot measure it."""

    image: Digest
    """Digest of the image's manifest."""
    plan: Digest
    """Digest of the container plan with roles in place of the host's paths: equal on every host."""
    runtime: Literal["podman", "runc", "bubblewrap"]
    """Which program carried the plan out."""


class EngineSection(Model):
    """The engine build."""

    profile: Name
    """The recipe's profile."""
    record: Digest
    """Digest of the build record, `evidence/engine-record.json`."""
    library: Digest
    """Digest of the library that was loaded from sealed memory."""


class BootSection(Model):
    """The measured boot."""

    registers: dict[str, Hex32]
    """Final value of each register of the event log, `evidence/boot.jsonl`."""


class SealSection(Model):
    """One worker's seal. The plans, layers and probes lie in `evidence/seal.json`."""

    worker: Name
    """The worker: `eval`, or `model.<id>`."""
    plan: Digest
    """Digest of the seal plan."""
    policy: Digest
    """Digest of the plan with host paths replaced by their roles: equal on every host."""
    level: Literal["full", "partial"]
    """Whether every layer of the plan was there."""
    probes: int = Field(ge=1)
    """Forbidden things that the worker tried after sealing."""
    violations: int = Field(ge=0)
    """How many of them succeeded."""


class TranscriptSection(Model):
    """The transcript."""

    root: Digest
    """Root of the salted RFC 6962 tree over the samples."""
    samples: int = Field(ge=0)
    """Leaves of the tree."""
    head: Digest
    """Digest of the transcript's last line, the end of its hash chain."""


class EarlierAttempt(Model):
    """An attempt at the same job that was cut off, and whose finished samples were taken up."""

    attempt: int = Field(ge=1)
    """Its number."""
    samples: int = Field(ge=1)
    """How many samples it drew, after those of the attempts before it."""


class Counts(Model):
    """Samples over all suites and models."""

    planned: int
    """Planned before the first one ran."""
    run: int
    """Ran."""
    failed: int
    """Failed, each with its error in the transcript."""


class FileEntry(Model):
    """One file of the bundle."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+(\.[a-z0-9]+)*(/[a-z0-9_-]+(\.[a-z0-9]+)*)?$")]
    """Path inside the bundle, forward slashes."""
    digest: Digest
    """Digest of its bytes."""
    size_bytes: int = Field(ge=0)
    """Its size."""


class ExecutionManifest(Model):
    """The predicate. A claim that is not made is absent."""

    producer: Producer
    """Who wrote this."""
    job: JobSection
    """The job."""
    lock: LockSection
    """What was allowed to run."""
    engine: EngineSection
    """The engine build."""
    boot: BootSection
    """The measured boot."""
    wall: Wall
    """What the workers ran behind."""
    container: ContainerSection | None = None
    """With wall `container`, and only there: which image and which plan."""
    evidence: tuple[Platform, ...] = ()
    """The hardware whose evidence lies in `evidence/start.json` and `evidence/end.json`. Never empty with wall `vm`."""
    seal: tuple[SealSection, ...] = Field(min_length=1)
    """The workers' seals."""
    numerics: Numerics
    """How logits were computed, as the job asked and the workers ran."""
    determinism: tuple[SelfTest, ...] = Field(min_length=1)
    """What each model worker's self-test found, in the job's order: made after its first request, before its second."""
    started: Time
    """When the run was registered, by the appliance's clock."""
    ended: Time
    """When the last sample was done, by the appliance's clock."""
    complete: bool
    """Whether every planned sample has a record."""
    ended_by: Literal["done", "interrupted", "failed"]
    """How the run ended."""
    counts: Counts
    """Samples planned, run, failed."""
    plan: tuple[PlannedSuite, ...]
    """The suites as they were planned."""
    suites: tuple[SuiteResult, ...]
    """Per-suite scores, as in the results file."""
    claims: tuple[ClaimResult, ...]
    """The job's claims and what became of them."""
    results_digest: Digest
    """Digest of `results.json`."""
    transcript: TranscriptSection
    """The transcript's root and chain."""
    resumed: tuple[EarlierAttempt, ...] | None = Field(default=None, min_length=1)
    """By the lab's word: the attempts that drew the first samples, in order; `job.attempt` drew the others. Absent when
    it drew all of them, as it does where hardware speaks for the run."""
    files: tuple[FileEntry, ...]
    """Every file of the bundle but `bundle.sigstore.json` and `evidence/end.json`, sorted by name."""

    @model_validator(mode="after")
    def _wall_has_what_it_needs(self) -> ExecutionManifest:
        if (self.wall == "container") != (self.container is not None):
            raise ValueError("wall 'container' and the section 'container' go together")
        if self.wall == "vm" and not self.evidence:
            raise ValueError("behind wall 'vm' there is evidence of a TPM")
        return self

    @model_validator(mode="after")
    def _earlier_attempts_fit(self) -> ExecutionManifest:
        earlier = self.resumed or ()
        numbers = [*(each.attempt for each in earlier), self.job.attempt]
        if numbers != sorted(set(numbers)):
            raise ValueError(f"attempts that took each other up have rising numbers, found {numbers}")
        if sum(each.samples for each in earlier) > self.transcript.samples:
            raise ValueError("earlier attempts drew more samples than the transcript has")
        if earlier and self.evidence:
            raise ValueError("a run that hardware speaks for draws all of its samples itself")
        return self
