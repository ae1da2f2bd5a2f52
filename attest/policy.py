"""The appraisal policy of a relying party: what it requires of a bundle beyond its being sound. Data, in TOML.

format = "vitrine/appraisal-policy/v1"
identity = "https://lab.example/appliance/*"   # exact, or a prefix that ends with *
complete = true                                # every planned sample has a record
reviewed_lock = true                           # the lockfile was given, not made for the run
full_seal = true                               # no layer of any worker's seal was missing
exact_numerics = true                          # every model's self-test found every bit independent of the batch
walls = ["process", "container", "vm"]         # what the workers may run behind
locks = ["sha256:..."]                         # lockfiles that are accepted; any when absent
minimum_lock_version = 4                       # the lockfile's own version: older ones are refused
minimum_image_version = 1795305600             # the machine's image, by its reference values: older ones are refused
rollback_refused = true                        # a TPM kept the versions: its machine ran no newer lock, or image
max_attempts = 1                               # attempts at the job, this one included
uninterrupted = true                           # no sample was taken up from an attempt that was cut off
claims_hold = false                            # every claim of the job holds
assurance = "quoted"                           # how far up the ladder the bundle has to be
required_witnesses = 1                         # of those given with --witness-key, who cosigned the lab's log

[hardware]                                     # what hardware has to say, see `attest.appraise.policy`
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

from pydantic import Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from attest import canonical
from attest.canonical import MAX_INTEGER, Model
from attest.digest import Digest
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.manifest import ExecutionManifest, Wall
from attest.reference import ReferenceValues, require_version

if TYPE_CHECKING:
    from attest.appraise.policy import Hardware
    from attest.rollback import Kept
else:
    Hardware = Any

Assurance = Literal["signed", "measured", "quoted", "confidential"]
"""The ladder, lowest step first."""
FORMAT: Final = "vitrine/appraisal-policy/v1"
MAX_BYTES = 1 << 20


class _WhenThere:
    """Reads the table `hardware`. Its models load every platform's package, so they wait until there is one."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._read)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        from attest.appraise.policy import Hardware

        return handler(core_schema.nullable_schema(Hardware.__pydantic_core_schema__))

    @staticmethod
    def _read(value: Any) -> Any:
        from attest.appraise import policy

        if value is None or isinstance(value, policy.Hardware):
            return value
        try:
            return policy.read(value)
        except MalformedInput as error:
            raise ValueError(error.problem) from None


class Policy(Model):
    """What a relying party requires. The default requires a complete run and nothing else."""

    format: Literal["vitrine/appraisal-policy/v1"] = FORMAT
    """The format's name and version."""
    identity: str | None = Field(default=None, min_length=1, max_length=400)
    """The certificate's identity: exact, or a prefix that ends with `*`. Any of the trusted lab when absent."""
    complete: bool = True
    """Every planned sample has a record."""
    reviewed_lock: bool = False
    """The lockfile was given to the run, not made for it."""
    full_seal: bool = False
    """No layer of any worker's seal was missing."""
    exact_numerics: bool = False
    """Every model worker's self-test found that no bit depends on how it was computed."""
    walls: tuple[Wall, ...] = ("process", "container", "vm")
    """What the workers may run behind."""
    locks: tuple[Digest, ...] | None = None
    """Lockfiles that are accepted; any when absent."""
    minimum_lock_version: int | None = Field(default=None, ge=1, le=MAX_INTEGER)
    """The lowest version of a lockfile that is accepted; any when absent."""
    minimum_image_version: int | None = Field(default=None, ge=0, le=MAX_INTEGER)
    """The lowest version of a machine's image that is accepted; with it, the image has to be known."""
    rollback_refused: bool = False
    """A TPM kept the version of the job's lock, and in a machine that of its image, so that older ones were refused."""
    max_attempts: int | None = Field(default=None, ge=1)
    """Attempts at the job, this one included; any number when absent."""
    uninterrupted: bool = False
    """The run drew all of its samples itself, and took up none of an earlier attempt that was cut off."""
    claims_hold: bool = False
    """The job has claims, and every one of them holds."""
    assurance: Assurance = "signed"
    """The step of the ladder that the bundle has to reach at least."""
    required_witnesses: int = Field(default=0, ge=0, le=64)
    """Of the witnesses that the caller knows, how many have to have cosigned a tree of the log with this run."""
    hardware: Annotated[Hardware | None, _WhenThere] = None
    """What hardware has to say for the run. Without it a TPM's quotes are verified, and nobody vouches for the TPM."""

    @classmethod
    def default(cls) -> Policy:
        """What is required when no policy is given."""
        return cls()

    def check(self, manifest: ExecutionManifest) -> None:
        """Raises `VerificationError` (layer `policy`) for the first requirement that `manifest` does not meet."""
        if self.complete and not manifest.complete:
            counts = manifest.counts
            done = f"{counts.run + counts.failed} of {counts.planned} samples ({manifest.ended_by})"
            raise _unmet("complete", "a complete run", done)
        if self.reviewed_lock and manifest.lock.origin != "given":
            raise _unmet("reviewed-lock", "a lockfile that was given", manifest.lock.origin)
        if self.full_seal and (partial := [part.worker for part in manifest.seal if part.level != "full"]):
            raise _unmet("full-seal", "every layer of every seal", f"partial seals of {partial}")
        if self.exact_numerics and (varying := [test.model for test in manifest.determinism if test.differing]):
            raise _unmet("exact-numerics", "exact numerics of every model", f"logits of {varying} that vary")
        if manifest.wall not in self.walls:
            raise _unmet("wall", f"one of {list(self.walls)}", manifest.wall)
        if self.locks is not None and manifest.lock.digest not in self.locks:
            raise _unmet("lock", f"one of {list(self.locks)}", manifest.lock.digest)
        if self.minimum_lock_version is not None and manifest.lock.version < self.minimum_lock_version:
            raise _unmet("lock-version", f"at least {self.minimum_lock_version}", manifest.lock.version)
        if self.max_attempts is not None and manifest.job.attempt > self.max_attempts:
            raise _unmet("attempts", f"at most {self.max_attempts}", manifest.job.attempt)
        if self.uninterrupted and manifest.resumed:
            earlier = ", ".join(f"attempt {each.attempt}: {each.samples}" for each in manifest.resumed)
            raise _unmet("uninterrupted", "a run that drew all of its samples itself", f"samples of {earlier}")
        if self.claims_hold and not manifest.claims:
            raise _unmet("claims", "claims that hold", "a job without claims")
        if self.claims_hold and (broken := [result.claim for result in manifest.claims if not result.holds]):
            names = [f"{claim.metric} of {claim.suite} on {claim.model}" for claim in broken]
            raise _unmet("claims", "every claim to hold", f"these do not: {names}")

    def check_image(self, image: ReferenceValues | None) -> None:
        """Raises `VerificationError` unless the machine's `image`, by its reference values, is as new as required."""
        if self.minimum_image_version is None:
            return
        if image is None:
            wanted = f"an image that is known (--reference), of version {self.minimum_image_version} at least"
            raise _unmet("image-version", wanted, "a machine that was not compared")
        require_version(image, self.minimum_image_version)

    def check_kept(self, manifest: ExecutionManifest, kept: Sequence[Kept]) -> None:
        """Raises `VerificationError` unless a TPM `kept` what has to be: its versions are those of the run."""
        wanted = {"lock", "image"} if manifest.wall == "vm" else {"lock"}
        found = {one.thing.kind for one in kept}
        if self.rollback_refused and not wanted <= found:
            raise _unmet("rollback", f"versions of {sorted(wanted)} in a TPM", f"those of {sorted(found)}")

    def check_assurance(self, reached: Sequence[str]) -> None:
        """Raises `VerificationError` unless the steps `reached` go as far as required."""
        steps = get_args(Assurance)
        names = [step.partition(" ")[0] for step in reached]
        if max(steps.index(name) for name in names) < steps.index(self.assurance):
            raise _unmet("assurance", f"{self.assurance} at least", " -> ".join(reached))

    def check_witnesses(self, found: int) -> None:
        """Raises `VerificationError` unless as many witnesses as required, `found`, cosigned."""
        if found < self.required_witnesses:
            raise _unmet("witnesses", f"cosignatures of at least {self.required_witnesses}", found)


def read(data: bytes) -> Policy:
    """The policy in the TOML text `data`. Raises `MalformedInput`, or `Unsupported` for another version."""
    if len(data) > MAX_BYTES:
        raise MalformedInput("policy", f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    try:
        value = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedInput("policy", f"expected TOML in UTF-8: {error}") from None
    if isinstance(value.get("format"), str) and value["format"] != FORMAT:
        raise Unsupported("policy", f"expected format {FORMAT}, found {value['format'][:80]!r}")
    return canonical.validate(Policy, value, "policy")


def _unmet(code: str, expected: object, found: object) -> VerificationError:
    return VerificationError("policy", code, expected=expected, found=found)
