"""What a wall is, and a run behind the container wall.

A wall holds the whole run of `appliance.run`: controller, sealed workers, and a signing key that is born and dies
there. In front of it stay the lab (keys, log, time stamps) and the operator. Three of them hold the same run:

- `process`: none but the seals of the workers; `appliance.run.run` itself;
- `container`: this module;
- `vm`: a measured virtual machine.

Over the wall go: the inputs that the job names, read-only; the questions of `appliance.notary.protocol`; progress; and
the bundle. A run without one leaves its transcript so far, and the mark by which the lab knows it again
(`appliance.resume`): the key for it goes in with the job, so that nobody between the two runs can change a sample. In
steps, which the code numbers:

1. read the job, find what it names                appliance.enclave.inputs
2. open the image, choose a runtime                appliance.enclave.rootfs, launch
3. write the plan                                  appliance.enclave.container
4. start it, and serve its one run                 appliance.enclave.channel, appliance.notary.desk
5. take the bundle out, if it is the one logged    appliance.enclave.delivery, appliance.notary.desk
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from appliance import produce, resume
from appliance.enclave import container, delivery, inputs, launch, leftovers, rootfs, seccomp
from appliance.enclave.channel import Start
from appliance.enclave.container import ContainerPlan, Mount, Runtime
from appliance.enclave.discard import discard
from appliance.enclave.leftovers import private_folder
from appliance.job import ALL_ROWS, Rows
from appliance.memfd import Progress
from appliance.notary.desk import Desk, Expected
from appliance.notary.lab import Lab
from appliance.run import Outcome
from appliance.seal.requirement import Requirement
from appliance.workers import EVAL_MEMORY_BYTES
from attest import canonical, job, lockfile, verify
from attest.errors import EnvironmentProblem, MalformedInput
from attest.manifest import ContainerSection
from attest.results import Results
from attest.sealplan import SEALED_ID

if TYPE_CHECKING:
    from appliance.notary.appraisal import Judge  # brings the checks of all hardware with it

LOG = structlog.get_logger()
START_ALLOWANCE_S = 3600.0
"""For everything before and after the samples: hashing, self-tests, signing."""
GONE_S = 10.0
"""How long the container of a controller that was killed may take to be gone."""
LEFT = f"bundle{resume.SUFFIX}"
"""Where a run leaves what it has, in the container's folder for output."""


@dataclass(frozen=True, kw_only=True)
class Contained:
    """What goes into a container."""

    job: Path
    """The job file."""
    out: Path
    """Where the outcome goes: a bundle's folder, which must not exist; a lockfile."""
    image: rootfs.Image
    """The image, unpacked."""
    engine: Path | None = None
    """The folder of an engine to use in place of the image's own."""
    data: tuple[Path, ...] = ()
    """Folders in which data sets are looked for, beside the suites' own."""
    runtime: Runtime | None = None
    """The runtime to use; None: the first that works."""
    more: tuple[Mount, ...] = ()
    """Further things to show, for an image that is not whole."""


@dataclass(frozen=True, kw_only=True)
class Request(Contained):
    """What the operator asks for."""

    lab: Lab
    """The lab, which stays in front of the wall."""
    lock: Path | None = None
    """The lockfile, made behind this wall, because the image's Python is not the host's; without one, what is there is
    pinned for this run."""
    sign_incomplete: bool = False
    """Sign what there is when the run ends early."""
    require_seal: Requirement = "any"
    """What the user asks of the workers' seals, which are as complete inside as in front of the wall."""
    judge: Judge | None = None
    """Who appraises the run before it is registered, and before it is certified; None: nobody."""
    rows: Rows = ALL_ROWS
    """Which rows of the job's suites."""
    resume: bool = False
    """Go on with what `OUT.incomplete` holds."""

    @property
    def incomplete(self) -> Path:
        """The folder of the run while it has no bundle."""
        return resume.incomplete(self.out)


def run(request: Request, progress: Progress) -> Outcome:
    """Run a job behind the container wall. Raises our errors, `KeyboardInterrupt` where it was interrupted.

    A run that ends early leaves `OUT.incomplete`, as in front of a wall.
    """
    if request.out.exists():
        raise EnvironmentProblem(f"{request.out} exists already: name another folder with --out, or remove it")
    found = inputs.find(request.job, request.lock, request.data, rows=request.rows)
    _take_over(request)
    with contextlib.ExitStack() as stack:
        if request.resume:
            stack.enter_context(resume.held(request.incomplete))
        else:
            resume.refuse_to_forget(request.incomplete)
        given = request.incomplete if request.resume else None
        plan, running, folder = stack.enter_context(_started(request, found, given))
        return _serve(request, found, plan, running, folder, progress)


def lock(request: Contained, version: int, progress: Progress) -> bytes:
    """The lockfile's bytes of a job behind the container wall, to lie at `request.out`. Raises our errors."""
    found = inputs.find(request.job, None, request.data, request.out.parent)
    with _started(request, found) as (plan, running, _):
        start = _start(found, plan).model_copy(update={"task": "lock", "out": found.beside, "version": version})
        done = running.host.attend(start, None, progress, timeout_s=START_ALLOWANCE_S)
    lockfile.read(done.lock or b"")
    return done.lock or b""


@contextlib.contextmanager
def _started(
    request: Contained, found: inputs.Inputs, given: Path | None = None
) -> Iterator[tuple[ContainerPlan, launch.Running, Path]]:
    """A container with `found` in it that said hello, by the first runtime that does it.

    `given`: the folder of the run that it is to go on with.
    """
    reasons: list[str] = []
    # 2. The runtimes that are there.
    for runtime in launch.choices(request.runtime):
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(_folder(request.out))
            # 3. The plan.
            plan = plan_for(request, found, runtime, folder)
            _make(plan, found, folder, given)
            # 4. The start.
            try:
                _check_readable(plan)
                running = stack.enter_context(launch.start(plan, folder / "container"))
            except launch.StartRefused as error:
                # Nothing has happened yet: the next runtime may do.
                LOG.warning("runtime does not start", runtime=runtime, reason=str(error)[:500])
                reasons.append(str(error))
                continue
            yield plan, running, folder
            return
    raise EnvironmentProblem(f"wall container: no runtime starts the image here: {'; '.join(reasons)}")


def plan_for(request: Contained, found: inputs.Inputs, runtime: Runtime, folder: Path) -> ContainerPlan:
    """The plan of the container for `request`; inputs and output are folders in `folder`.

    Raises `Unsupported` for a path that is not UTF-8.
    """
    limits, models = found.loaded.job.limits, found.loaded.job.models
    mounts = [Mount(role="inputs", source=inputs.as_text(folder / "in"), target=inputs.IN)]
    mounts += [Mount(role="model", source=str(item.source), target=item.target) for item in found.shown]
    if request.engine is not None:
        mounts.append(Mount(role="engine", source=inputs.as_text(request.engine.resolve()), target=container.ENGINE))
    mounts.append(Mount(role="output", source=str(folder / "out"), target=container.OUT, writable=True))
    return ContainerPlan(
        runtime=runtime,
        image=request.image.digest,
        root=inputs.as_text(request.image.root),
        command=request.image.command,
        environment=container.environment(request.image.environment),
        mounts=(*request.more, *mounts),
        bounds=container.bounds_for(
            input_bytes=found.size_bytes(),
            worker_bytes=max(EVAL_MEMORY_BYTES, limits.memory_bytes),
            workers=1 + len(models),
            memory=launch.can_limit("memory"),
            tasks=launch.can_limit("pids"),
        ),
        seccomp=seccomp.digest(seccomp.read()),
    )


def _make(plan: ContainerPlan, found: inputs.Inputs, folder: Path, given: Path | None) -> None:
    """The folders that the plan mounts."""
    inputs.stage(found, folder / "in")
    out = folder / "out"
    out.mkdir(mode=0o700)
    if given is not None:
        _hand_back(given, out / LEFT, plan)
    _give(out, plan)


def _give(path: Path, plan: ContainerPlan) -> None:
    """Make `path` the container's user's."""
    if os.geteuid() == 0 and plan.runtime != "bubblewrap":
        os.chown(path, SEALED_ID, SEALED_ID)  # bubblewrap shows the caller as this user, the others have it run


def _check_readable(plan: ContainerPlan) -> None:
    """Raises `StartRefused` for a model that the container's user could not read."""
    if os.geteuid() != 0 or plan.runtime == "bubblewrap":
        return  # the caller is this user
    for mount in plan.mounts:
        status = Path(mount.source).stat()
        if mount.role == "model" and not (status.st_mode & stat.S_IROTH or status.st_uid == plan.uid):
            raise launch.StartRefused(
                f"{plan.runtime}: expected user {plan.uid} to be able to read {mount.source}, found mode "
                f"{stat.S_IMODE(status.st_mode):o}: chmod o+r, or use --runtime bubblewrap"
            )


def _serve(
    request: Request,
    found: inputs.Inputs,
    plan: ContainerPlan,
    running: launch.Running,
    folder: Path,
    progress: Progress,
) -> Outcome:
    the_job, section = found.loaded.job, _section(plan)
    appraiser = request.judge(request.lab.challenge(), "container") if request.judge else None
    desk = Desk(
        request.lab,
        Expected(
            job_digest=job.digest(the_job),
            nonce=the_job.nonce,
            wall="container",
            lock_digest=found.lock_digest,
            measurement=found.measurement,
            container=section,
            resumed=request.resume,
            appraise=appraiser.first if appraiser else None,
            accept=appraiser.end if appraiser else None,
        ),
    )
    start = _start(found, plan).model_copy(
        update={
            "sign_incomplete": request.sign_incomplete,
            "require_seal": request.require_seal,
            "lab": request.lab.name,
            "trusted_root": request.lab.trusted_root,
            "resume_key": request.lab.resume_key(job.digest(the_job)).hex(),
            "resume": request.resume,
        }
    )
    try:
        done = running.host.attend(start, desk, progress, timeout_s=the_job.limits.wall_time_s + START_ALLOWANCE_S)
    except BaseException:
        _keep_incomplete(folder / "out", request.incomplete)
        raise
    running.wait()
    # 5. The bundle.
    files = delivery.collect(folder / "out" / "bundle")
    desk.check_delivered(files)
    produce.write(files, request.out)
    shutil.rmtree(request.incomplete, ignore_errors=True)
    results = canonical.parse(Results, files[verify.RESULTS], "results")
    return Outcome(request.out, results, done.ended_by)


def _section(plan: ContainerPlan) -> ContainerSection:
    return ContainerSection(image=plan.image, plan=plan.policy_digest(), runtime=plan.runtime)


def _start(found: inputs.Inputs, plan: ContainerPlan) -> Start:
    return Start(
        wall="container",
        container=_section(plan),
        job=found.job,
        lock=found.lock,
        data=found.data,
        engine=container.ENGINE,
        out=f"{container.OUT}/bundle",
        deliver="folder",
        verbose=LOG.is_enabled_for(logging.DEBUG),
    )


def _hand_back(incomplete: Path, whole: Path, plan: ContainerPlan) -> None:
    """Lay what an earlier run left where this one would leave it, at once: half of it would be taken for a run."""
    part = whole.with_suffix(".part")
    part.mkdir(mode=0o700)
    for name, data in delivery.collect_incomplete(incomplete).items():
        (part / name).write_bytes(data)
        _give(part / name, plan)
    _give(part, plan)
    part.rename(whole)


def _take_over(request: Request) -> None:
    """Keep what runs for the same bundle left whose controller was killed, and which nobody took out of their folder.

    Raises `EnvironmentProblem` while the container of one still lives.
    """
    for folder in leftovers.find(_prefix(request.out), request.out.parent, fresh_s=0):
        if (folder / "out" / LEFT).is_dir():
            with resume.held(folder / "out" / LEFT, GONE_S):
                _keep(folder / "out", request.incomplete)
            discard(folder / "out")


def _keep_incomplete(out: Path, place: Path) -> None:
    """Keep what a run left that made no bundle; another error is on its way to the operator already."""
    try:
        _keep(out, place)
    except OSError as error:
        LOG.warning("the incomplete run is not kept", reason=str(error)[:300])


def _keep(out: Path, place: Path) -> None:
    """Put what a run left that made no bundle where a run in front of the wall would have left it. Raises `OSError`."""
    try:
        found = delivery.collect_incomplete(out / LEFT)
    except MalformedInput as error:
        LOG.warning("the incomplete run is not kept", reason=str(error)[:300])
        return
    if found:
        resume.make(place)
        for name, data in found.items():
            (place / name).write_bytes(data)
        advice = f"go on with --resume {place}" if resume.MARK in found else ""
        LOG.warning("incomplete", folder=str(place), files=sorted(found), advice=advice)


def _folder(out: Path) -> contextlib.AbstractContextManager[Path]:
    """A private folder beside the bundle, on the same disk; removed with all that is in it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    return private_folder(_prefix(out), out.parent)


def _prefix(out: Path) -> str:
    return f".{out.name}.wall-"
