"""`appliance run`, behind each of the walls. What the run needs of this host is looked for before a lab is made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from appliance import job as jobs
from appliance import resume as resuming
from appliance import run as running
from appliance.commands import dry_run as dry
from appliance.commands import engine as engines
from appliance.commands.hardware import AttesterOption, Hardware, KeyCertificateOption, TdQuoteOption, VcekOption
from appliance.commands.options import (
    DataOption,
    EngineOption,
    JobArgument,
    JsonOption,
    PassphraseOption,
    RequireSealOption,
    RuntimeOption,
    SignIncompleteOption,
    check_wall,
    default_job,
    now,
)
from appliance.enclave import built, measured, rootfs
from appliance.enclave import wall as walls
from appliance.enclave.container import Runtime
from appliance.image.measure import REFERENCE
from appliance.notary import keys
from appliance.notary import lab as labs
from appliance.notary.protocol import Notary
from appliance.prepare import Inputs
from appliance.progress import Reporter
from appliance.seal.requirement import Requirement
from appliance.stream import Stream
from attest import console, lockfile
from attest.errors import EnvironmentProblem, Unsupported
from attest.files import read_file
from attest.manifest import Wall

if TYPE_CHECKING:
    from appliance.notary.appraisal import Judge

DEFAULT_LAB = Path("lab")

WallOption = Annotated[
    Literal["process", "container", "vm"],
    typer.Option(help="What the run is behind: the workers' seals alone, a container, or a measured VM."),
]
ImageOption = Annotated[
    Path | None,
    typer.Option(
        help="With --wall container, the image's OCI layout, build/image/cpu by default; with --wall vm, the folder of "
        "the machine, build/vm by default."
    ),
]


@dataclass(frozen=True)
class Asked:
    """What is asked for behind every wall."""

    job: Path
    """The job file."""
    lab: Path
    """The lab's folder."""
    passphrase_file: Path | None
    """The passphrase of its keys."""
    lock: Path | None
    """The lockfile."""
    out: Path
    """The bundle's folder."""
    data: tuple[Path, ...]
    """Folders in which data sets are looked for."""
    sign_incomplete: bool
    """Sign what there is when the run ends early."""
    require_seal: Requirement
    """What is asked of the workers' seals."""
    resume: bool
    """Go on with what `OUT.incomplete` holds."""
    rows: jobs.Rows
    """Which rows of the job's suites."""
    appraise: Path | None
    """The policy that has to accept the run before it is registered and certified."""
    capsule: Path | None
    """Collateral for it."""

    def open_lab(self) -> labs.Lab:
        """The lab, which is made where there is none."""
        secret = keys.read_passphrase(self.passphrase_file)
        if not self.lab.exists():
            labs.create(self.lab, passphrase=secret, now=now)
            console.ERR.print(f"created a lab in {self.lab}")
        return labs.open_lab(self.lab, secret, now=now)

    def judge(self, lab: labs.Lab) -> Judge | None:
        """Who appraises the run, where a policy was given."""
        if self.appraise is None:
            return None
        from appliance.notary import appraisal  # brings the checks of all hardware with it

        return appraisal.by_files(lab, self.appraise, self.capsule, now)

    def notary(self, lab: labs.Lab) -> Notary:
        """The lab as a run in this process asks it: itself, or what appraises the run first."""
        judge = self.judge(lab)
        if judge is None:
            return lab
        from appliance.notary import appraisal

        lock = None if self.lock is None else read_file(self.lock, lockfile.MAX_BYTES)
        return appraisal.in_process(lab, jobs.load(self.job, self.rows).job, lock, judge, resumed=self.resume)


def run(
    job: JobArgument = None,
    lab: Annotated[Path, typer.Option(help="The lab's folder; made when it does not exist.")] = DEFAULT_LAB,
    lock: Annotated[Path | None, typer.Option(help="The reviewed lockfile; JOB.lock when it exists.")] = None,
    engine: EngineOption = None,
    out: Annotated[Path | None, typer.Option(help="The bundle's folder; bundles/NAME-N by default.")] = None,
    data: DataOption = None,
    passphrase_file: PassphraseOption = None,
    sign_incomplete: SignIncompleteOption = False,
    require_seal: RequireSealOption = "any",
    resume: Annotated[
        Path | None,
        typer.Option(metavar="OUT.incomplete", help="Go on with a run of this job that was cut off, in its folder."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many rows of each suite. It makes another job, with its own digest."),
    ] = None,
    shuffle: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            min=0,
            max=2**53 - 1,
            help="Take the rows in this seed's order, before --limit: another job.",
        ),
    ] = None,
    wall: WallOption = "process",
    image: ImageOption = None,
    runtime: RuntimeOption = None,
    tpm_state: Annotated[
        Path | None, typer.Option(help="With --wall vm, the folder of a TPM that stays, and counts the runs.")
    ] = None,
    attester: AttesterOption = None,
    vcek: VcekOption = None,
    td_quote: TdQuoteOption = None,
    key_certificate: KeyCertificateOption = None,
    appraise: Annotated[
        Path | None,
        typer.Option(
            metavar="POLICY",
            help="Register and certify the run only when this policy accepts it: lab, auditor, partner, or a file.",
        ),
    ] = None,
    capsule: Annotated[Path | None, typer.Option(help="With --appraise, collateral: see `attest capsule`.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Show on this terminal what models are asked and say, token by token.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan, the first prompts and their tokens; run and sign nothing."),
    ] = False,
    prompts: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="With --dry-run, how many samples of each suite are shown; 1 by default."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a job in sealed workers, offline, and leave a signed bundle. `appliance doctor` says what this host can do.

    Examples:

        appliance run

        appliance run examples/jobs/gsm8k.yaml --lab lab --data ../data --out bundles/gsm8k

        appliance run examples/jobs/gsm8k.yaml --data ../data --limit 20 --shuffle 7 --out bundles/try

        appliance run examples/jobs/gsm8k.yaml --data ../data --dry-run --prompts 2

        appliance run examples/jobs/gsm8k.yaml --data ../data --resume bundles/gsm8k.incomplete

        appliance run --wall container --image build/image/cpu

        appliance run --wall vm --image build/vm

        appliance run --wall vm --appraise lab.toml --capsule collateral.capsule
    """
    if capsule is not None and appraise is None:
        raise typer.BadParameter("expected it beside --appraise", param_hint="--capsule")
    for option, given in (("--vcek", vcek), ("--td-quote", td_quote), ("--key-certificate", key_certificate)):
        if given is not None and not attester:
            raise typer.BadParameter("expected it beside --attester", param_hint=option)
    if prompts is not None and not dry_run:
        raise typer.BadParameter("expected it beside --dry-run", param_hint="--prompts")
    if stream and wall != "process":
        raise typer.BadParameter(f"the wall {wall} lets out the bundle alone: leave it out", param_hint="--stream")
    if stream and not sys.stdout.isatty():
        raise typer.BadParameter("it shows prompts, on a terminal only: this is none", param_hint="--stream")
    check_wall(wall, engine=engine, image=image, runtime=runtime, tpm=tpm_state, attester=attester)
    hardware = Hardware(attester or "", vcek, td_quote, key_certificate)
    path = job or default_job()
    if lock is None and job is not None and job.with_suffix(".lock").exists():
        lock = job.with_suffix(".lock")
    rows = jobs.Rows(limit, shuffle)
    loaded = jobs.load(path, rows)
    if resume is not None:
        out = _resumed_out(resume, out, wall, attester)
    out = out or running.default_out(loaded.job.name)
    if dry_run:
        refused = {
            "--stream": stream,
            "--resume": resume,
            "--attester": attester,
            "--appraise": appraise,
            "--sign-incomplete": sign_incomplete,
            "--wall": wall != "process",
        }
        if found := [option for option, value in refused.items() if value]:
            raise typer.BadParameter(
                "a dry run shows prompts on this terminal, and asks no lab: leave it out", param_hint=found
            )
        folder = engines.folder_or_build(engine, loaded.job.numerics.profile)
        inputs = Inputs(
            job=path, engine=folder, out=out, lock=lock, data=tuple(data or ()), require_seal=require_seal, rows=rows
        )
        dry.show(inputs, shown=1 if prompts is None else prompts, as_json=as_json)
        return
    asked = Asked(
        path,
        lab,
        passphrase_file,
        lock,
        out,
        tuple(data or ()),
        sign_incomplete,
        require_seal,
        resume is not None,
        rows,
        appraise,
        capsule,
    )
    match wall:
        case "process":
            folder = engines.folder_or_build(engine, loaded.job.numerics.profile)
            outcome = _in_front(asked, folder, hardware, [model.id for model in loaded.job.models] if stream else None)
        case "container":
            opened = rootfs.open_image(image or rootfs.DEFAULT)
            outcome = _in_container(asked, opened, engine, runtime)
        case "vm":
            outcome = _in_machine(asked, _machine(image or built.MACHINE), tpm_state)
    if as_json:
        value = {"bundle": str(outcome.bundle), "ended_by": outcome.ended_by}
        console.print_json(value | {"results": outcome.results.model_dump(mode="json", exclude_none=True)})
    else:
        console.OUT.print(f"bundle: {outcome.bundle} ({outcome.ended_by})")


def _resumed_out(folder: Path, out: Path | None, wall: Wall, attester: str | None) -> Path:
    """The bundle that comes of the run in `folder`. Raises `Unsupported` where hardware speaks for the run."""
    if out is not None:
        raise typer.BadParameter("the bundle lies beside the folder of --resume: leave it out", param_hint="--out")
    if not folder.name.endswith(resuming.SUFFIX) or folder.name == resuming.SUFFIX:
        raise typer.BadParameter(f"expected the folder that a run left, NAME{resuming.SUFFIX}", param_hint="--resume")
    if wall == "vm" or attester:
        raise Unsupported(
            "--resume",
            "hardware speaks for what was drawn in one boot, and a machine keeps nothing for the next one: such a run "
            "draws all of its samples itself. Start it anew, with another --out",
        )
    return folder.with_name(folder.name.removesuffix(resuming.SUFFIX))


def _in_front(asked: Asked, engine: Path, hardware: Hardware, streamed: Sequence[str] | None = None) -> running.Outcome:
    """`streamed`: the models, where what they say is to be shown while they say it."""
    lab = asked.open_lab()
    request = running.Request(
        job=asked.job,
        lab=asked.notary(lab),
        engine=engine,
        out=asked.out,
        lock=asked.lock,
        data=asked.data,
        sign_incomplete=asked.sign_incomplete,
        require_seal=asked.require_seal,
        resume_key=lab.resume_key,
        resume=asked.resume,
        rows=asked.rows,
    )
    stream = nullcontext() if streamed is None else Stream(streamed, sys.stdout.fileno())
    with hardware.speaking() as attester, Reporter(bars=streamed is None) as progress, stream as listener:
        return running.run(replace(request, attester=attester, listener=listener), progress)


def _in_container(asked: Asked, image: rootfs.Image, engine: Path | None, runtime: Runtime | None) -> running.Outcome:
    lab = asked.open_lab()
    request = walls.Request(
        job=asked.job,
        lab=lab,
        out=asked.out,
        image=image,
        engine=engine,
        lock=asked.lock,
        data=asked.data,
        sign_incomplete=asked.sign_incomplete,
        require_seal=asked.require_seal,
        runtime=runtime,
        judge=asked.judge(lab),
        rows=asked.rows,
        resume=asked.resume,
    )
    with Reporter() as progress:
        return walls.run(request, progress)


def _in_machine(asked: Asked, image: Path, tpm_state: Path | None) -> running.Outcome:
    lab = asked.open_lab()
    request = measured.Request(
        job=asked.job,
        lab=lab,
        out=asked.out,
        image=image,
        lock=asked.lock,
        data=asked.data,
        sign_incomplete=asked.sign_incomplete,
        require_seal=asked.require_seal,
        tpm_state=tpm_state,
        judge=asked.judge(lab),
        rows=asked.rows,
    )
    with Reporter() as progress:
        return measured.run(request, progress)


def _machine(folder: Path) -> Path:
    """The folder of a measured VM. Raises `EnvironmentProblem` where there is none."""
    if not (folder / REFERENCE).is_file():
        raise EnvironmentProblem(
            f"expected a measured VM in {folder}, found none: build it with `appliance image build --format uki "
            f"images/vm.toml --out {built.MACHINE}`, or name its folder with --image"
        )
    return folder
