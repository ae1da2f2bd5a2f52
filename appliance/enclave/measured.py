"""A run in the measured virtual machine: the third wall. In steps, which the code numbers:

1. read the job, find what it names, write it as a verified disk    appliance.enclave.inputs, appliance.image.assemble
2. boot, and see that it is the machine that this image makes       appliance.enclave.vm, attest.machine
3. serve its one run, which is registered when its evidence holds   appliance.enclave.channel, appliance.notary.desk
4. write the bundle, whose evidence the machine's TPM made          appliance.produce

The lab is asked nothing before step 2 has passed, and certifies a key that the evidence of the start is bound to. A run
that ends early leaves `OUT.incomplete`, as in front of a wall.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance import produce, resume
from appliance.enclave import container, delivery, inputs, vm
from appliance.enclave.channel import Host, Start
from appliance.enclave.leftovers import private_folder
from appliance.image import assemble, measure, pcr
from appliance.image.tree import Tree, file, tree
from appliance.job import ALL_ROWS, Rows
from appliance.memfd import Progress
from appliance.notary.desk import Desk, Expected
from appliance.notary.lab import Lab
from appliance.notary.protocol import Register
from appliance.run import Outcome
from appliance.seal.requirement import Requirement
from attest import canonical, eventlog, evidence, job, machine, reference, verify
from attest.errors import EnvironmentProblem, VerificationError
from attest.reference import ReferenceValues
from attest.results import Results

if TYPE_CHECKING:
    from appliance.notary.appraisal import Judge  # brings the checks of all hardware with it

START_ALLOWANCE_S = 3600.0
"""For everything before and after the samples."""
HELLO_TIMEOUT_S = 60.0
INPUTS = "inputs"
MIB = 1 << 20


@dataclass(frozen=True)
class Request:
    """What the operator asks for."""

    job: Path
    """The job file."""
    lab: Lab
    """The lab, which stays in front of the wall."""
    out: Path
    """Where the bundle goes; must not exist."""
    image: Path
    """The image's folder, as `appliance image build --format uki` writes it."""
    lock: Path | None = None
    """The lockfile; without one, what is there is pinned for this run."""
    data: tuple[Path, ...] = ()
    """Folders in which data sets are looked for, beside the suites' own."""
    sign_incomplete: bool = False
    """Sign what there is when the run ends early."""
    require_seal: Requirement = "any"
    """What the user asks of the workers' seals, which the image's kernel decides."""
    tpm_state: Path | None = None
    """The folder of a TPM that counts the runs of several machines; None for a new TPM."""
    judge: Judge | None = None
    """Who appraises the run, too, before it is registered, and before it is certified; None: nobody else."""
    rows: Rows = ALL_ROWS
    """Which rows of the job's suites."""


def run(request: Request, progress: Progress) -> Outcome:
    """Run a job in the measured machine. Raises our errors, `KeyboardInterrupt` where it was interrupted."""
    if request.out.exists():
        raise EnvironmentProblem(f"{request.out} exists already: name another folder with --out, or remove it")
    resume.refuse_to_forget(resume.incomplete(request.out))
    request.out.parent.mkdir(parents=True, exist_ok=True)
    # 1. The job, what it names, and the disk with all of that.
    found = inputs.find(request.job, request.lock, request.data, rows=request.rows)
    values = measure.load(request.image / measure.REFERENCE)
    challenge, nonce = request.lab.challenge(), secrets.token_bytes(32)
    with private_folder(f".{request.out.name}.wall-", request.out.parent) as folder:
        disk = folder / "inputs.img"
        descriptor = assemble.write_disk(content(found), disk, seconds=0, name=INPUTS)
        before = reference.replay((pcr.inputs(descriptor.block()),))[reference.APPLICATION].hex()
        # 2. The machine.
        memory = vm.MEMORY_MIB + 3 * (found.size_bytes() // MIB)
        plan = vm.plan(request.image, inputs=disk, channel=True, memory_mib=memory, tpm_state=request.tpm_state)
        with vm.attested(plan, nonce) as (booted, boot):
            quoted = machine.verify(boot, nonce)
            reference.compare(values, quoted.registers)
            machine.check_application(quoted, before, [])
            # 3. The run.
            host = Host(booted.channel, booted.channel, lambda: booted.why("it is gone"))
            host.hello(HELLO_TIMEOUT_S)
            inbox = delivery.Inbox()
            limit = found.loaded.job.limits.wall_time_s + START_ALLOWANCE_S
            desk = _desk(request, found, challenge, lambda asked: appraise(asked, challenge, values, before))
            try:
                start = _start(request, found, challenge)
                done = host.attend(start, desk, progress, timeout_s=limit, pieces=inbox)
            except BaseException:
                keep_incomplete(inbox, request.out)
                raise
            booted.wait()
    # 4. The bundle.
    files = inbox.bundle()
    desk.check_delivered(files)
    produce.write(files, request.out)
    shutil.rmtree(resume.incomplete(request.out), ignore_errors=True)
    return Outcome(request.out, canonical.parse(Results, files[verify.RESULTS], "results"), done.ended_by)


def content(found: inputs.Inputs) -> Tree:
    """What the disk of inputs holds: the files of the job, below its root as they are to lie below `/in`."""
    why = "the job names it"
    return tree(
        file(item.target.removeprefix(inputs.IN), item.source if item.written is None else item.written, "job", why)
        for item in found.files
    )


def appraise(asked: Register, challenge: str, values: ReferenceValues, before: str) -> None:
    """Raises `VerificationError` unless the evidence of the start is of this machine, and bound to this run.

    `challenge`: what the lab gave; `values`: of the image; `before`: the application register after the boot.
    """
    start, intent = asked.enrolment.evidence, asked.intent
    if start is None:
        raise VerificationError("evidence", "missing", expected="evidence of the start", found="none")
    if start.when != "start" or start.challenge != challenge:
        raise VerificationError("evidence", "challenge", expected=f"start, {challenge}", found=start.challenge)
    log = eventlog.parse(asked.enrolment.log)
    evidence.check_start(
        start, log, nonce=intent.nonce, key=intent.key_digest, job=intent.job_digest, lock=intent.lock_digest
    )
    if start.before != before:
        raise VerificationError(
            "evidence", "before", expected=before, found=start.before, advice="the machine has another disk of inputs"
        )
    evidence.identify(start, [values])


def keep_incomplete(inbox: delivery.Inbox, out: Path) -> None:
    """Keep what came of a run that left no bundle, where a run in front of the wall leaves it."""
    found = inbox.incomplete()
    if found:
        place = resume.incomplete(out)
        resume.make(place)
        for name, data in found.items():
            (place / name).write_bytes(data)


def _start(request: Request, found: inputs.Inputs, challenge: str) -> Start:
    return Start(
        wall="vm",
        job=found.job,
        lock=found.lock,
        data=found.data,
        engine=container.ENGINE,
        out=f"{container.OUT}/bundle",
        deliver="channel",
        sign_incomplete=request.sign_incomplete,
        require_seal=request.require_seal,
        lab=request.lab.name,
        trusted_root=request.lab.trusted_root,
        challenge=challenge,
    )


def _desk(request: Request, found: inputs.Inputs, challenge: str, appraise: Callable[[Register], None]) -> Desk:
    the_job = found.loaded.job
    appraiser = request.judge(challenge, "vm") if request.judge else None

    def both(asked: Register) -> None:
        appraise(asked)
        if appraiser is not None:
            appraiser.first(asked)

    return Desk(
        request.lab,
        Expected(
            job_digest=job.digest(the_job),
            nonce=the_job.nonce,
            wall="vm",
            lock_digest=found.lock_digest,
            measurement=found.measurement,
            appraise=both,
            accept=appraiser.end if appraiser else None,
        ),
    )
