"""The evidence of hardware in a bundle: is it of this run, does the policy accept it, is it of one machine?

Refused: evidence that the manifest does not name, or of another run; a policy on hardware without evidence; start and
end of two machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from attest.errors import VerificationError
from attest.eventlog import EventLog
from attest.manifest import ExecutionManifest, Platform
from attest.policy import Policy
from attest.reference import ReferenceValues

if TYPE_CHECKING:
    from attest.appraise import Appraisal
    from attest.capsule import Capsule
    from attest.counter import RunCounter
    from attest.evidence import Evidence
    from attest.rollback import Kept

START = "evidence/start.json"
END = "evidence/end.json"
INSTANCE: Final[Mapping[Platform, tuple[str, ...]]] = {
    "tpm": ("key", "resets", "restarts"),
    "sev-snp": ("chip_id", "report_id"),
    "tdx": ("fmspc", "ppid"),
    "nitro": ("module_id",),
    "azure": ("vm_id",),
    "nvidia-gpu": ("device",),
}
"""The claims of each platform that say which machine it is, or which of its GPUs."""


@dataclass(frozen=True)
class Run:
    """A run whose signature, boot log and files were checked."""

    files: Mapping[str, bytes]
    """The bundle's files."""
    manifest: ExecutionManifest
    """The signed manifest."""
    key: str
    """The digest of the key that signed."""
    statement: str
    """The digest of the signed statement."""
    log: EventLog
    """The boot's event log."""

    def packages(self) -> tuple[Evidence, Evidence]:
        """The evidence of start and end. Raises `MalformedInput`, `VerificationError`."""
        from attest import evidence

        return evidence.read(self.files[START], "start"), evidence.read(self.files[END], "end")


def check(run: Run, references: Sequence[ReferenceValues]) -> ReferenceValues | None:
    """Check that the evidence is of `run`. Those of the `references` that the machine has; None without any.

    Raises `VerificationError`, `MalformedInput`, `Unsupported`.
    """
    manifest = run.manifest
    if not manifest.evidence:
        if references:
            raise _missing(f"one of {[values.image for values in references]}", manifest)
        return None
    from attest import evidence

    start, end = run.packages()
    if manifest.evidence != start.platforms:
        raise VerificationError("evidence", "platforms", expected=manifest.evidence, found=start.platforms)
    nonce, key, job = manifest.job.nonce, run.key, manifest.job.digest
    evidence.check_start(start, run.log, nonce=nonce, key=key, job=job, lock=manifest.lock.digest)
    results = manifest.results_digest
    evidence.check_end(start, end, run.log, nonce=nonce, key=key, job=job, statement=run.statement, results=results)
    return evidence.identify(start, references) if references else None


def counter(run: Run) -> RunCounter | None:
    """Where the counter of runs stood at the start of `run`, whose evidence was checked; None without a TPM's."""
    if not run.manifest.evidence:
        return None
    from attest import evidence

    return evidence.counter(run.packages()[0])


def versions(run: Run, image: ReferenceValues | None) -> tuple[Kept, ...]:
    """The versions that a TPM kept at the start of `run`, whose evidence was checked: they are those of the run, in the
    machine `image` where that is known. Raises `VerificationError` (`rollback/lock`, `/image`)."""
    if not run.manifest.evidence:
        return ()
    from attest import evidence, rollback

    kept = evidence.versions(run.packages()[0])
    rollback.check(kept, run.manifest, image)
    return kept


def appraise(run: Run, policy: Policy, capsule: Capsule | None, now: datetime | None) -> tuple[Appraisal, ...]:
    """The appraisals of start and end, every line of which holds; none where `policy` does not speak of hardware.

    Raises `VerificationError`, `MalformedInput`, `Unsupported`; `TypeError` where such a policy has no `now`.
    """
    if policy.hardware is None:
        return ()
    if now is None:
        raise TypeError("expected a time to judge evidence of hardware at, found none")
    manifest = run.manifest
    if not manifest.evidence:
        raise _missing(", ".join(policy.hardware.require) or "a platform that the policy accepts", manifest)
    from attest import appraisal, evidence
    from attest.appraise import appraise as judge
    from attest.binding import binding

    nonce, key = manifest.job.nonce, run.key
    start, end = run.packages()
    first = evidence.start_binding(
        start, run.log, nonce=nonce, key=key, job=manifest.job.digest, lock=manifest.lock.digest
    )
    last = binding("end", nonce=nonce, key=key, statement=run.statement)
    found = tuple(
        judge(package.items, policy.hardware, capsule, bound=bound, now=now)
        for package, bound in ((start, first), (end, last))
    )
    for one in found:
        appraisal.require(one.lines)
    check_same(*found)
    return found


def check_same(start: Appraisal, end: Appraisal) -> None:
    """Both are of one machine: every platform names the same one. Raises `VerificationError` (`evidence/machine`)."""
    first, last = _instance(start), _instance(end)
    if first != last:
        advice = "the evidence of the end was made by another machine, or after another start"
        raise VerificationError("evidence", "machine", expected=first, found=last, advice=advice)


def _instance(found: Appraisal) -> dict[str, list[tuple[object, ...]]]:
    return {
        platform: [tuple(getattr(one, name, None) for name in INSTANCE[platform]) for one in claims]
        for platform, claims in found.claims.items()
    }


def _missing(what: str, manifest: ExecutionManifest) -> VerificationError:
    found = f"none, behind wall {manifest.wall}"
    return VerificationError("evidence", "missing", expected=f"evidence of {what}", found=found)
