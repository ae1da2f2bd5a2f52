"""A run in the measured virtual machine: the third wall. In steps, which the code numbers:

1. read the job, find what it names, write it as a verified disk    appliance.enclave.inputs, appliance.image.assemble
2. boot, and take a quote of the start                              appliance.enclave.vm
3. compare it with the image's reference values: refuse another     attest.machine, attest.reference
4. serve its one run                                                appliance.enclave.channel, appliance.notary.desk
5. take a quote of the end, which holds the result's digest
6. write the bundle, and the evidence beside it                     appliance.produce

The lab is asked nothing before step 3 has passed. Evidence goes to `OUT.machine/`: `start.json`, `end.json`, and the
`reference.json` that they were compared with. A run that ends early leaves `OUT.incomplete`, as in front of a wall.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from appliance import produce
from appliance.enclave import container, delivery, inputs, vm
from appliance.enclave.channel import Host, Start
from appliance.image import assemble, measure, pcr
from appliance.image.tree import Tree, file, tree
from appliance.memfd import Progress
from appliance.notary.desk import Desk, Expected
from appliance.notary.lab import Lab
from appliance.run import Outcome
from attest import canonical, job, machine, reference, verify
from attest.digest import sha256
from attest.errors import EnvironmentProblem
from attest.machine import Evidence
from attest.reference import Measurement, ReferenceValues
from attest.results import Results

START_ALLOWANCE_S = 3600.0
"""For everything before and after the samples."""
HELLO_TIMEOUT_S = 60.0
INPUTS = "inputs"
NONCE_DOMAIN = b"vitrine machine nonce\0"
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


def run(request: Request, progress: Progress) -> Outcome:
    """Run a job in the measured machine. Raises our errors, `KeyboardInterrupt` where it was interrupted."""
    beside = request.out.with_name(request.out.name + ".machine")
    for path in (request.out, beside):
        if path.exists():
            raise EnvironmentProblem(f"{path} exists already: name another folder with --out, or remove it")
    request.out.parent.mkdir(parents=True, exist_ok=True)
    # 1. The job, what it names, and the disk with all of that.
    found = inputs.find(request.job, request.lock, request.data)
    nonce = nonce_of(found.loaded.job.nonce)
    values = measure.load(request.image / measure.REFERENCE)
    with tempfile.TemporaryDirectory(prefix=f".{request.out.name}.wall-", dir=request.out.parent) as folder:
        disk = Path(folder) / "inputs.img"
        descriptor = assemble.write_disk(content(found), disk, seconds=0, name=INPUTS)
        # 2. The machine.
        memory = vm.MEMORY_MIB + 3 * (found.size_bytes() // MIB)
        plan = vm.plan(request.image, inputs=disk, channel=True, memory_mib=memory)
        with vm.attested(plan, nonce) as (booted, start):
            # 3. Is it the machine that this image makes?
            first = pcr.inputs(descriptor.block())
            check(start, nonce, values, (first,))
            # 4. The run.
            host = Host(booted.channel, booted.channel, lambda: booted.why("it is gone"))
            host.hello(HELLO_TIMEOUT_S)
            inbox = delivery.Inbox()
            limit = found.loaded.job.limits.wall_time_s + START_ALLOWANCE_S
            try:
                done = host.attend(
                    _start(request, found), _desk(request, found), progress, timeout_s=limit, pieces=inbox
                )
            except BaseException:
                keep_incomplete(inbox, request.out)
                raise
            files = inbox.bundle()
            # 5. The end: the same machine, and this result.
            end = booted.final_evidence()
            check(end, nonce, values, (first, pcr.result(files[verify.RESULTS])))
            booted.wait()
    # 6. The bundle.
    produce.write(files, request.out)
    keep(beside, start, end, values)
    shutil.rmtree(request.out.with_name(request.out.name + ".incomplete"), ignore_errors=True)
    return Outcome(request.out, canonical.parse(Results, files[verify.RESULTS], "results"), done.ended_by)


def nonce_of(wanted: str | None) -> bytes:
    """The nonce of the quotes, 32 bytes: from the job's, so that who asked for the run finds it there; else random."""
    if wanted is None:
        return secrets.token_bytes(32)
    return sha256(NONCE_DOMAIN, bytes.fromhex(wanted))


def content(found: inputs.Inputs) -> Tree:
    """What the disk of inputs holds: the files of the job, below its root as they are to lie below `/in`."""
    why = "the job names it"
    return tree(file(item.target.removeprefix(inputs.IN), item.source, "job", why) for item in found.files)


def check(evidence: Evidence, nonce: bytes, values: ReferenceValues, run_events: tuple[Measurement, ...]) -> None:
    """Raises `VerificationError` unless the evidence is fresh, sound, and of this image with this run in it."""
    machine.verify(evidence, nonce)
    expected = dict(values.registers)
    expected |= {str(register): value.hex() for register, value in reference.replay(run_events).items()}
    # The reference values of the image, with the register that a run extends as this run has to have it.
    reference.compare(values.model_copy(update={"registers": expected}), evidence.values())


def keep(folder: Path, start: Evidence, end: Evidence, values: ReferenceValues) -> None:
    """Write the evidence of a run to the new folder `folder`."""
    folder.mkdir(mode=0o755)
    for name, evidence in (("start.json", start), ("end.json", end)):
        (folder / name).write_bytes(canonical.dump_model(evidence) + b"\n")
    (folder / measure.REFERENCE).write_bytes(measure.dump(values))


def keep_incomplete(inbox: delivery.Inbox, out: Path) -> None:
    """Keep what came of a run that left no bundle, where a run in front of the wall leaves it."""
    found = inbox.incomplete()
    if found:
        place = out.with_name(out.name + ".incomplete")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for name, data in found.items():
            (place / name).write_bytes(data)


def _start(request: Request, found: inputs.Inputs) -> Start:
    return Start(
        wall="vm",
        job=found.job,
        lock=found.lock,
        data=found.data,
        engine=container.ENGINE,
        out=f"{container.OUT}/bundle",
        deliver="channel",
        sign_incomplete=request.sign_incomplete,
        lab=request.lab.name,
        trusted_root=request.lab.trusted_root,
    )


def _desk(request: Request, found: inputs.Inputs) -> Desk:
    the_job = found.loaded.job
    return Desk(
        request.lab,
        Expected(
            job_digest=job.digest(the_job),
            nonce=the_job.nonce,
            wall="vm",
            lock_digest=found.lock_digest,
            measurement=found.measurement,
        ),
    )
