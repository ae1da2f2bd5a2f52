"""What follows from a verified bundle, and what does not: sentences for people, computed from its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from attest import validity
from attest.manifest import ExecutionManifest

if TYPE_CHECKING:
    from attest.appraise import Appraisal
    from attest.cosignature import Cosigned
    from attest.counter import RunCounter
    from attest.rollback import Kept


@dataclass(frozen=True)
class Given:
    """What the relying party gave to compare with."""

    nonce: bool
    """A nonce."""
    lock: bool
    """A lockfile."""
    machine: str | None
    """The image among the reference values given that the machine turned out to be."""
    assurance: tuple[str, ...]
    """The steps of the ladder that were reached."""
    appraisals: tuple[Appraisal, ...]
    """Of the evidence of start and end."""
    witnesses: tuple[Cosigned, ...]
    """Who cosigned a tree of the log with this run."""
    counter: RunCounter | None
    """Where the counter of runs of the machine's TPM stood."""
    kept: tuple[Kept, ...]
    """The versions that this TPM kept."""


INSPECT: Final = "evidence/inspect.eval"
"""In a bundle, the log of Inspect that the run replayed."""
CONFIDENTIAL: Final = ("sev-snp", "tdx", "nitro", "azure")
"""Platforms that keep a host out of a machine's memory."""


def ladder(manifest: ExecutionManifest, appraisals: tuple[Appraisal, ...]) -> tuple[str, ...]:
    """The steps of the ladder that a bundle reaches, lowest first.

    A TPM that no manufacturer vouches for, to somebody who asked, is called software. Hardware that nobody appraised
    adds no step.
    """
    steps = ["signed", "measured"]
    claims = [appraisal.claims for appraisal in appraisals]
    if "tpm" in manifest.evidence:
        kinds = [getattr(tpm, "kind", "") for one in claims for tpm in one.get("tpm", (None,))]
        vouched = bool(kinds) and all(kind == "hardware" for kind in kinds)
        steps.append(f"quoted ({'hardware' if vouched else 'software'} TPM)")
    # A machine that its host may look into keeps nothing from it, whatever the policy lets pass.
    closed = [{name for name, each in one.items() if not any(claim.debug for claim in each)} for one in claims]
    if closed and any(all(platform in names for names in closed) for platform in CONFIDENTIAL):
        steps.append("confidential")
    return tuple(steps)


def proven(manifest: ExecutionManifest, given: Given) -> tuple[str, ...]:
    """What follows from the checks of a bundle with this manifest, a sentence each."""
    lines = [
        "the holder of a key that the lab certified signed exactly these results, this transcript and this manifest",
        "the signature was logged and time-stamped under the lab's trusted root",
        f"the run was registered in the lab's log as attempt {manifest.job.attempt} at this job, before its signature",
        "scores, intervals and claims follow from the transcript's records to the last digit",
        "the boot log replays to registers that this lockfile predicts, and the certificate names them",
    ]
    if given.nonce:
        lines.append("the run answers your nonce, so it was planned after you chose it")
    if given.lock:
        lines.append("the artifacts are those of the lockfile that you gave")
    if "tpm" in manifest.evidence:
        lines.append("one TPM quoted, in one boot, this key, boot and job at the start, and these results at the end")
    if given.machine is not None:
        lines.append(f"its registers are those of the image {given.machine}: firmware's boot path, kernel, root disk")
    if given.counter is not None:
        lines.append(f"that TPM raised its counter of runs to {given.counter.value} for it, as the lab's log says")
    for kept in given.kept:
        lines.append(f"that TPM kept {kept.version} as the newest version of the {kept.thing}: an older one is refused")
    for seen in given.witnesses:
        lines.append(
            f"{seen.witness.name} saw intent and signature in the lab's log, not after {validity.write_time(seen.time)}"
        )
    for platform in sorted({name for appraisal in given.appraisals for name in appraisal.claims}):
        lines.append(f"evidence of {platform}, bound to this run, holds against your policy and collateral")
    return tuple(lines)


def not_proven(manifest: ExecutionManifest, given: Given) -> tuple[str, ...]:
    """What does not follow, a sentence each."""
    lines = [
        "that the lab's machine did what the boot log says: " + _hardware(manifest, given),
        "that the lab's certificate authority, log and time-stamp authority are independent of one another",
        "that the outputs come from the model: only a reproduction of the run shows that",
        "anything about the quality of the model or of the suites",
    ]
    if manifest.lock.origin != "given":
        lines.append("that anybody reviewed the lockfile: it was made for this run")
    if manifest.evidence and given.machine is None:
        lines.append("that a known image was booted: give its reference values with --reference to compare")
    if not given.lock:
        lines.append("that these are the artifacts you expect: give --lock to compare")
    if not given.nonce:
        lines.append("that the run is fresh: give the job a nonce, and --nonce here")
    if not given.witnesses:
        lines.append("that the lab shows everybody the same log: have a witness cosign it, and give --witnessed")
    if not manifest.complete:
        lines.append(f"anything about the samples that are missing: the run ended early ({manifest.ended_by})")
    if manifest.resumed:
        drawn = ", ".join(f"attempt {each.attempt}: {each.samples}" for each in manifest.resumed)
        whole = f"{sum(each.samples for each in manifest.resumed)} of {manifest.transcript.samples} samples"
        lines.append(f"which attempt drew what: that earlier ones drew the first {whole} ({drawn}) is the lab's word")
    if given.kept:
        lines.append("that its owner never made the TPM forget a newer version: compare other bundles with its counter")
    if manifest.job.attempt > 1:
        lines.append(f"why there were {manifest.job.attempt - 1} earlier attempts at this job: ask the lab for them")
    if varying := [report.model for report in manifest.determinism if report.differing]:
        lines.append(f"that another batch or thread count would give these results: the logits of {varying} vary")
    if any(file.name == INSPECT for file in manifest.files):
        lines.append("that the scores are right: Inspect gave them, outside the seal; the completions were asked again")
    if manifest.container is not None:
        lines.append("that this image and this plan were around the run: they are the word of the host that started it")
    for sentence in sorted({line for appraisal in given.appraisals for line in appraisal.downgrades}):
        lines.append(f"what your policy lets pass: {sentence}")
    if any(section.level != "full" for section in manifest.seal):
        lines.append("that every layer of the seal was there: at least one worker's seal was partial")
    return tuple(lines)


def _hardware(manifest: ExecutionManifest, given: Given) -> str:
    if not manifest.evidence:
        return "no hardware evidence speaks for it"
    if not given.appraisals and "tpm" not in manifest.evidence:
        return f"evidence of {', '.join(manifest.evidence)} was not looked at, because no policy speaks of hardware"
    if not given.appraisals:
        return "nobody vouches for its TPM, which may be software that the lab controls"
    if "confidential" in given.assurance or "quoted (hardware TPM)" in given.assurance:
        return "hardware vouches for its start; not for attacks on the machine itself, nor for what was revoked since"
    return "its TPM is software, as honest as the host that runs it"
