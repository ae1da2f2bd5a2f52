"""The lab's judgement of a run, before it registers it and before it certifies its key: by an appraisal policy.

Refused at the start: a wall, a lockfile, an identity or an attempt that the policy does not accept; evidence that is
not of this run, or that the policy on hardware does not accept; evidence without such a policy, and such a policy
without evidence. Refused at the end: what the policy refuses of a bundle's manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.notary.desk import Desk, Expected
from appliance.notary.lab import Lab
from appliance.notary.protocol import Register
from appliance.notary.remote import RemoteNotary
from appliance.notary.tlog import Clock
from attest import appraisal, conclusions, eventlog, evidence, job, lockfile, rollback
from attest import capsule as capsules
from attest import policies as named
from attest import policy as policies
from attest.appraise import Appraisal
from attest.appraise import appraise as judge
from attest.capsule import Capsule
from attest.digest import digest_of
from attest.errors import VerificationError
from attest.files import read_file
from attest.job import Job
from attest.manifest import ExecutionManifest, Wall
from attest.policy import Policy


@dataclass(frozen=True)
class Appraiser:
    """Appraises one run."""

    lab: Lab
    """The lab that is asked."""
    policy: Policy
    """What the lab requires."""
    capsule: Capsule | None
    """Collateral, where the policy speaks of hardware."""
    now: Clock
    """The time to judge at, asked for each time."""
    challenge: str
    """What the lab gave to this run."""
    wall: Wall
    """The wall that the run is behind."""
    seen: Callable[[Appraisal], None] | None = None
    """Told of each appraisal of evidence, also of one that refuses."""

    def start(self, asked: Register) -> tuple[Appraisal, ...]:
        """Appraise what a run shows before its first sample. Raises `VerificationError`, `MalformedInput`."""
        policy, intent = self.policy, asked.intent
        # 1. What needs no evidence.
        if self.wall not in policy.walls:
            raise _refused("wall", f"one of {list(policy.walls)}", self.wall)
        if policy.locks is not None and intent.lock_digest not in policy.locks:
            raise _refused("lock", f"one of {list(policy.locks)}", intent.lock_digest)
        # 2. The identity that it is going to have.
        log, shown = eventlog.parse(asked.enrolment.log), asked.enrolment.evidence
        if policy.identity is not None:
            from attest import trust

            found = self.lab.identity(eventlog.measurement(log.registers), evidence.image(shown) if shown else None)
            trust.check_identity(found, policy.identity)
        # 3. The evidence.
        if shown is None:
            if policy.hardware is not None:
                raise VerificationError("evidence", "missing", expected="evidence of hardware", found="none")
            return ()
        if policy.hardware is None:
            advice = "give a policy with a table [hardware]"
            raise _refused("hardware", "a policy that says what to make of evidence", "none", advice)
        if (shown.when, shown.challenge) != ("start", self.challenge):
            found = f"{shown.when}, {shown.challenge}"
            raise VerificationError("evidence", "challenge", expected=f"start, {self.challenge}", found=found)
        nonce, key, the_job, lock = intent.nonce, intent.key_digest, intent.job_digest, intent.lock_digest
        evidence.check_start(shown, log, nonce=nonce, key=key, job=the_job, lock=lock)
        bound = evidence.start_binding(shown, log, nonce=nonce, key=key, job=the_job, lock=lock)
        result = judge(shown.items, policy.hardware, self.capsule, bound=bound, now=self.now())
        if self.seen is not None:
            self.seen(result)
        appraisal.require(result.lines)
        return (result,)

    def first(self, asked: Register) -> None:
        """`start`, of a run that is not registered yet: its number has to be one that the policy accepts."""
        self.start(asked)
        number = self.lab.attempts(asked.intent.job_digest) + 1
        if self.policy.max_attempts is not None and number > self.policy.max_attempts:
            raise _refused("attempts", f"at most {self.policy.max_attempts}", number)

    def end(self, manifest: ExecutionManifest, asked: Register) -> None:
        """Judge what is to be certified of the run that was registered with `asked`. Raises as `start`."""
        self.policy.check(manifest)
        self.policy.check_assurance(conclusions.ladder(manifest, self.start(asked)))
        shown = asked.enrolment.evidence
        kept = evidence.versions(shown) if shown else ()
        rollback.check(kept, manifest, None)
        self.policy.check_kept(manifest, kept)


Judge = Callable[[str, Wall], Appraiser]
"""From a run's challenge and wall to who appraises it."""


def by_files(
    lab: Lab,
    policy_file: Path,
    capsule_file: Path | None,
    now: Clock,
    seen: Callable[[Appraisal], None] | None = None,
) -> Judge:
    """Who judges by the policy, a default one by its name or one in a file, with the capsule in a file.

    Raises `MalformedInput`, `Unsupported`.
    """
    rules = policies.read(named.read(policy_file))
    collateral = capsules.read(read_file(capsule_file, capsules.MAX_BYTES)) if capsule_file else None
    return lambda challenge, wall: Appraiser(lab, rules, collateral, now, challenge, wall, seen)


def in_process(lab: Lab, the_job: Job, lock: bytes | None, judge: Judge, *, resumed: bool = False) -> RemoteNotary:
    """The lab as a run in front of the walls asks it that is appraised: by the desk that answers runs elsewhere.

    `lock`: the lockfile that is given to the run, where there is one; `resumed`: whether it goes on with another one.
    Raises `MalformedInput`, `Unsupported`.
    """
    challenge = lab.challenge()
    appraiser = judge(challenge, "process")
    expected = Expected(
        job_digest=job.digest(the_job),
        nonce=the_job.nonce,
        wall="process",
        lock_digest=digest_of(lock) if lock else None,
        measurement=eventlog.measurement(lockfile.expected_log(lock).registers) if lock else None,
        resumed=resumed,
        appraise=appraiser.first,
        accept=appraiser.end,
    )
    return RemoteNotary(lab.name, lab.trusted_root, challenge, Desk(lab, expected).answer)


def _refused(code: str, expected: object, found: object, advice: str = "") -> VerificationError:
    return VerificationError("policy", code, expected=expected, found=found, advice=advice)
