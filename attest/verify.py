"""The verification of a result bundle, as one page. Bytes in, verified data out; it raises, and never returns a bool.

The plan, whose numbers the code carries:

 1. The bundle is a flat, bounded set of files, and none has a name that the format does not know.
 2. The signature: sigstore-python against the lab's trusted root (chain, SCT, log entry, timestamp, DSSE), then our
    stricter checks of everything that clients disagree on.
 3. The statement: in-toto v1, our predicate, exactly our two subjects.
 4. Every file is the one that the manifest names, and no other file is there.
 5. The results are the first subject; the transcript's root is the second, and its hash chain holds to the head.
 6. The job is the one that the manifest names; its nonce is the one that the relying party gave.
 7. The lock is the one that the manifest names (and the one that the caller gave); the event log replays to the
    manifest's registers, and they are those that a boot with this lock must leave; the engine is the lock's.
 8. The certificate's identity names that measurement, and where hardware speaks for the run the machine's image.
 9. The intent was in the lab's log before the run: same job, same lock, same attempt.
10. Every worker of the job reports a seal by the plan that the manifest names: a whole plan of the worker's kind with
    the lock's system call policy and, for a model, the environment that the engine's record asks for; its mandatory
    layers in force, and every published probe denied.
11. Every model worker reports a whole self-test, and where the job promises exact numerics, no cell of it differs.
12. The results follow from the transcript's records and the job, to the last digit; so do plan, counts and claims.
13. The evidence of hardware, where the manifest says that there is some: the quotes of start and end are bound to this
    key, job, boot, statement and nonce, and are of one boot; the TPM's counter of runs stood where the intent says; the
    machine is one of those that the caller knows.
14. What witnesses cosigned, where the caller has that: one tree of the lab's log with the intent and the signature.
15. The policy: what this relying party requires beyond that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from attest import (
    attempt,
    canonical,
    conclusions,
    determinism,
    eventlog,
    hardware,
    job,
    lockfile,
    recompute,
    seal,
    statement,
    transcript,
)
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError
from attest.eventlog import EventLog
from attest.hardware import Run
from attest.job import Job
from attest.lockfile import Lockfile
from attest.manifest import ExecutionManifest
from attest.reference import ReferenceValues
from attest.results import PlannedSuite, Results
from attest.sealplan import SealPlan
from attest.statement import Statement
from attest.transcript import Disclosure, Transcript

if TYPE_CHECKING:
    from attest.appraise import Appraisal
    from attest.capsule import Capsule
    from attest.cosignature import Cosigned, WitnessKey
    from attest.policy import Policy
    from attest.reproduction import Reproduction
    from attest.trust import VerifiedSignature

SIGNATURE = "bundle.sigstore.json"
RESULTS = "results.json"
TRANSCRIPT = "transcript.jsonl"
JOB = "evidence/job.json"
LOCK = "evidence/appliance.lock"
BOOT = "evidence/boot.jsonl"
SEAL = "evidence/seal.json"
INTENT = "evidence/intent.json"
DISCLOSURE = "evidence/disclosure.json"
ENGINE = "evidence/engine-record.json"
TRUST = "trust/trusted_root.json"
START, END = hardware.START, hardware.END
FILES = (DISCLOSURE, ENGINE, INTENT, JOB, LOCK, BOOT, SEAL, RESULTS, TRANSCRIPT, TRUST)
"""Every file of a bundle but the signature. A bundle has all of them."""
MACHINE = (START, END)
"""What it has besides, both or none: the evidence of hardware."""
INSPECT = conclusions.INSPECT
"""What it may have besides: the log of Inspect that the run replayed. It is not read here. There is no other file."""

MAX_FILE_BYTES = 4 << 30
ANY_IDENTITY = "https://*"
"""Every identity that the trusted lab's authority vouches for; step 8 pins the measurement in it."""


@dataclass(frozen=True)
class Verified:
    """A bundle that passed every check."""

    manifest: ExecutionManifest
    job: Job
    lock: Lockfile
    results: Results
    transcript: Transcript
    trusted_root: str
    """The digest of the lab's trusted root."""
    identity: str
    """The certificate's identity, a URI that names the measurement."""
    issuer: str
    """Who issued the certificate, by the lab's trusted root."""
    signed_at: datetime
    """The time-stamp authority's time of the signature."""
    log_index: int
    """The signature's place in the lab's transparency log."""
    machine: str | None
    """The image whose reference values the quoted registers are, where such values were given."""
    assurance: tuple[str, ...]
    """The steps of the ladder that this bundle reaches, lowest first."""
    witnesses: tuple[Cosigned, ...]
    """Beside the ladder: who of the witnesses given saw intent and signature in the lab's log, and when."""
    appraisals: tuple[Appraisal, ...]
    """Of the evidence of start and end, where the policy speaks of hardware."""
    proven: tuple[str, ...]
    """What follows from the checks, a sentence each."""
    not_proven: tuple[str, ...]
    """What does not, a sentence each."""
    reproductions: tuple[Reproduction, ...] = ()
    """Beside the ladder: other runs that drew the same samples (`attest.reproduction`)."""


def verify(
    files: Mapping[str, bytes],
    trusted_root: bytes,
    *,
    policy: Policy | None = None,
    nonce: str | None = None,
    lock: bytes | None = None,
    references: Sequence[ReferenceValues] = (),
    capsule: Capsule | None = None,
    now: datetime | None = None,
    witnessed: bytes | None = None,
    witnesses: Sequence[WitnessKey] = (),
) -> Verified:
    """The bundle whose files are `files` (name to bytes), by the lab's `trusted_root` (JSON).

    `nonce` (hexadecimal), `lock` (bytes of the lockfile) and `references` (of images, one of which the run has to have
    been in) are what the caller knows; the bundle has to agree. A policy on hardware is applied with the collateral in
    `capsule`, as of `now` (an aware time, which such a policy needs). One of the `witnesses` has to have cosigned what
    `witnessed` (JSON) holds, where that is given.
    Raises `MalformedInput`, `Unsupported` or `VerificationError`.
    """
    if policy is None:
        from attest.policy import Policy  # brings the policies of all hardware with it

        policy = Policy.default()
    # 1. The files.
    _check_names(files)
    # 2. The signature. The import waits until here, because sigstore takes its time.
    from attest import trust

    signature = trust.verify_signature(files[SIGNATURE], trusted_root, identity=policy.identity or ANY_IDENTITY)
    # 3. The statement.
    signed = _read_statement(signature)
    manifest = signed.predicate
    # 4. The files again, now by digest.
    check_files(files, manifest)
    # 5. Results and transcript.
    script = transcript.read(files[TRANSCRIPT])
    _check_subjects(files, signed, script)
    # 6. The job.
    the_job = _read_job(files[JOB], manifest, nonce)
    # 7. The lock, the measured boot and the engine.
    log = _check_boot(files, manifest, lock)
    # 8. The identity.
    _check_identity(files, signature.identity, manifest, log)
    # 9. The intent.
    intent = attempt.check(files[INTENT], trusted_root, manifest, signature)
    # 10. The seals.
    _check_seals(files, the_job, manifest)
    # 11. The self-tests.
    _check_determinism(the_job, manifest)
    # 12. The results once more, from the records.
    results = recompute.check(files[RESULTS], the_job, manifest, script)
    # 13. The evidence of hardware.
    run = Run(files, manifest, digest_of(signature.public_key_der), digest_of(signature.payload), log)
    image = hardware.check(run, references)
    attempt.check_counter(intent.counter, hardware.counter(run))
    kept = hardware.versions(run, image)
    machine = image.image if image else None
    appraisals = hardware.appraise(run, policy, capsule, now)
    # 14. The witnesses.
    cosigned = attempt.check_witnessed(witnessed, files[SIGNATURE], files[INTENT], trusted_root, witnesses)
    # 15. The policy.
    assurance = conclusions.ladder(manifest, appraisals)
    policy.check(manifest)
    policy.check_image(image)
    policy.check_kept(manifest, kept)
    policy.check_assurance(assurance)
    policy.check_witnesses(len(cosigned))
    given = conclusions.Given(
        nonce is not None, lock is not None, machine, assurance, appraisals, cosigned, intent.counter, kept
    )
    return Verified(
        manifest=manifest,
        job=the_job,
        lock=lockfile.read(files[LOCK]),
        results=results,
        transcript=script,
        trusted_root=digest_of(trusted_root),
        identity=signature.identity,
        issuer=signature.issuer,
        signed_at=signature.signed_at,
        log_index=signature.log_index,
        machine=machine,
        assurance=assurance,
        witnesses=cosigned,
        appraisals=appraisals,
        proven=conclusions.proven(manifest, given),
        not_proven=conclusions.not_proven(manifest, given),
    )


def _check_names(files: Mapping[str, bytes]) -> None:
    known = {SIGNATURE, *FILES}
    if missing := sorted(known - set(files)):
        raise MalformedInput("bundle", f"expected the files {sorted(known)}, missing are {missing}")
    if surplus := sorted(set(files) - known - {*MACHINE, INSPECT}):
        raise VerificationError("bundle", "surplus-file", expected="only the files of the format", found=surplus[:10])


def _read_statement(signature: VerifiedSignature) -> Statement:
    if signature.payload_type != statement.PAYLOAD_TYPE:
        raise VerificationError(
            "statement", "payload-type", expected=statement.PAYLOAD_TYPE, found=signature.payload_type
        )
    signed = statement.read(signature.payload)
    names = [subject.name for subject in signed.subject]
    if names != [statement.RESULTS_SUBJECT, statement.ROOT_SUBJECT]:
        raise VerificationError(
            "statement", "subjects", expected=[statement.RESULTS_SUBJECT, statement.ROOT_SUBJECT], found=names
        )
    if canonical.dump_model(signed) != signature.payload:
        raise MalformedInput("statement", "expected canonical JSON (RFC 8785), found another spelling of it")
    return signed


def check_files(files: Mapping[str, bytes], manifest: ExecutionManifest) -> None:
    """Raises `VerificationError` (layer `files`) unless `files`, `FILES` among them, are those of `manifest`."""
    besides = [*([START] if manifest.evidence else []), *([INSPECT] if INSPECT in files else [])]
    _equal("files", "list", sorted([*FILES, *besides]), [entry.name for entry in manifest.files])
    # The evidence of the end bears the statement's digest, so that the statement cannot name it.
    wanted, machine = list(MACHINE) if manifest.evidence else [], [name for name in MACHINE if name in files]
    _equal("files", "evidence", wanted, machine)
    for entry in manifest.files:
        found = digest_of(files[entry.name])
        if (found, len(files[entry.name])) != (entry.digest, entry.size_bytes):
            raise VerificationError(
                "files",
                "digest",
                expected=f"{entry.name} with {entry.digest}, {entry.size_bytes} bytes",
                found=f"{found}, {len(files[entry.name])} bytes",
            )


def _check_subjects(files: Mapping[str, bytes], signed: Statement, script: Transcript) -> None:
    manifest, section = signed.predicate, signed.predicate.transcript
    disclosure = canonical.parse(Disclosure, files[DISCLOSURE], DISCLOSURE)
    root = transcript.root((line.raw_record for line in script.samples), bytes.fromhex(disclosure.salt_key))
    results = digest_of(files[RESULTS])
    subjects = ["sha256:" + subject.digest.sha256 for subject in signed.subject]
    _equal("statement", "results-subject", results, subjects[0])
    _equal("statement", "root-subject", root, subjects[1])
    _equal("manifest", "results-digest", results, manifest.results_digest)
    _equal("manifest", "transcript-root", root, section.root)
    _equal("manifest", "transcript-head", script.head, section.head)
    _equal("manifest", "transcript-samples", len(script.samples), section.samples)
    closing = script.closing
    _equal("transcript", "closing", {"ended_by": manifest.ended_by}, closing)
    _equal("transcript", "opening", {"job": manifest.job.digest, "plan": _plain(manifest.plan)}, script.opening)


def _read_job(data: bytes, manifest: ExecutionManifest, nonce: str | None) -> Job:
    the_job = canonical.parse(Job, data, JOB)
    _equal("job", "digest", job.digest(the_job), manifest.job.digest)
    _equal("job", "bytes", digest_of(data), manifest.job.digest)
    _equal("job", "name", the_job.name, manifest.job.name)
    _equal("job", "nonce", the_job.nonce, manifest.job.nonce)
    _equal("job", "numerics", the_job.numerics, manifest.numerics)
    if nonce is not None and the_job.nonce != nonce.lower():
        raise VerificationError(
            "job",
            "nonce-given",
            expected=nonce.lower(),
            found=the_job.nonce or "none",
            advice="The bundle answers another request, or was made before yours",
        )
    return the_job


def _check_boot(files: Mapping[str, bytes], manifest: ExecutionManifest, given: bytes | None) -> EventLog:
    data = files[LOCK]
    pinned = lockfile.read(data)
    _equal("lock", "digest", digest_of(data), manifest.lock.digest)
    _equal("lock", "version", pinned.version, manifest.lock.version)
    if given is not None and digest_of(given) != manifest.lock.digest:
        raise VerificationError(
            "lock", "given", expected=digest_of(given), found=manifest.lock.digest, advice="Another lockfile was used"
        )
    log = eventlog.parse(files[BOOT])
    _equal("boot", "registers", log.registers, manifest.boot.registers)
    _equal("boot", "lock", lockfile.expected_log(data).registers, manifest.boot.registers)
    _equal("engine", "profile", pinned.numerics.profile, manifest.engine.profile)
    _equal("engine", "job-profile", manifest.numerics.profile, manifest.engine.profile)
    engine, record = pinned.artifact("engine", "libllama.so"), pinned.artifact("engine-record", "record.json")
    _equal("engine", "library", engine.digest if engine else None, manifest.engine.library)
    _equal("engine", "record", record.digest if record else None, manifest.engine.record)
    _equal("engine", "record-bytes", digest_of(files[ENGINE]), manifest.engine.record)
    return log


def _check_identity(files: Mapping[str, bytes], identity: str, manifest: ExecutionManifest, log: EventLog) -> None:
    wanted = f"/appliance/{eventlog.measurement(log.registers)}"
    if manifest.evidence:
        from attest import evidence

        image = evidence.image(evidence.read(files[START], "start"))
        wanted = f"/machine/{image}{wanted}" if image else wanted
    lab = identity.removeprefix("https://").partition("/")[0]
    if identity != f"https://{lab}{wanted}":
        raise VerificationError("identity", "measurement", expected=f"https://LAB{wanted}", found=identity)


def _check_seals(files: Mapping[str, bytes], the_job: Job, manifest: ExecutionManifest) -> None:
    report, pinned = seal.read(files[SEAL]), lockfile.read(files[LOCK])
    workers = ["eval", *(f"model.{model.id}" for model in the_job.models)]
    if report.workers[-1].worker == "program":  # where a suite runs programs; each is started with this plan
        workers.append("program")
    _equal("seal", "workers", workers, [worker.worker for worker in report.workers])
    _equal("seal", "sections", tuple(worker.section() for worker in report.workers), manifest.seal)
    seal.check(report)
    for worker in report.workers:
        policy = pinned.artifact("policy", f"seccomp-{worker.plan.kind}")
        _equal("seal", "seccomp-policy", policy.digest if policy else None, worker.plan.seccomp.policy_digest)
        if worker.plan.kind == "model":
            _check_environment(files[ENGINE], worker.plan)


def _check_environment(record: bytes, plan: SealPlan) -> None:
    """What steers the engine from outside is what its record asks for, and nothing else."""
    value = canonical.loads(record, ENGINE)
    asked = value.get("environment") if isinstance(value, dict) else None
    steering = {one.name: one.value for one in plan.environment if one.name.startswith(("GGML_", "LLAMA_"))}
    _equal("seal", "engine-environment", asked, steering)


def _check_determinism(the_job: Job, manifest: ExecutionManifest) -> None:
    names = [model.id for model in the_job.models]
    _equal("numerics", "self-tests", names, [report.model for report in manifest.determinism])
    for name, report in zip(names, manifest.determinism, strict=True):
        determinism.check_form(report, name)
        if the_job.numerics.contract == "exact":
            determinism.require_exact(report)


def _equal(layer: str, code: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError(layer, code, expected=expected, found=found)


def _plain(models: tuple[PlannedSuite, ...]) -> list[dict[str, object]]:
    return [model.model_dump(mode="json") for model in models]
