"""`appliance enroll`: a run whose notary is on another machine; questions and answers are files that people carry."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from appliance import job as jobs
from appliance import produce
from appliance import run as running
from appliance.commands.hardware import AttesterOption, Hardware, KeyCertificateOption, TdQuoteOption, VcekOption
from appliance.commands.options import (
    DataOption,
    EngineOption,
    RequireSealOption,
    SignIncompleteOption,
)
from appliance.engine import places
from appliance.notary import carried, gap
from appliance.notary.gap import Shown
from appliance.progress import Reporter
from attest import console, job, lockfile
from attest.errors import EnvironmentProblem, Unsupported
from attest.files import read_file

app = typer.Typer(
    help="Run a job whose notary is on another machine: two requests go there as files, two answers come back.",
    no_args_is_help=True,
)
REMINDER_S = 600.0


@app.command()
def request(
    job_file: Annotated[Path, typer.Argument(metavar="JOB", help="The job file.")],
    invitation: Annotated[Path, typer.Option(help="The notary's invitation, from `notary invite`.")],
    out: Annotated[Path, typer.Option(help="The run's folder, for requests, answers and bundle; must not exist.")],
    lock: Annotated[Path | None, typer.Option(help="The reviewed lockfile; JOB.lock by default.")] = None,
    engine: EngineOption = None,
    data: DataOption = None,
    sign_incomplete: SignIncompleteOption = False,
    require_seal: RequireSealOption = "any",
    attester: AttesterOption = None,
    vcek: VcekOption = None,
    td_quote: TdQuoteOption = None,
    key_certificate: KeyCertificateOption = None,
    wall: Annotated[
        Literal["process", "container", "vm"],
        typer.Option(help="What the run is behind; across an air gap the process wall alone."),
    ] = "process",
) -> None:
    """Boot, ask the notary by file to register the run, run it once the answer is here, and ask for the signature.

    The command waits for each answer, and holds the run's key in its memory. Ctrl-C before the first answer ends the
    run before it begins; after the second request the bundle waits in OUT, and `accept` completes it.

    Example:

        appliance enroll request gsm8k.yaml --invitation invitation.json --out runs/1

        appliance enroll request gsm8k.yaml --invitation invitation.json --out runs/2 --attester tpm
    """
    if wall != "process":
        raise Unsupported(
            f"--wall {wall} across an air gap",
            "expected --wall process: a run behind another wall asks a lab on its own host, `appliance run --wall "
            f"{wall} --appraise POLICY`, because its key and its unsigned bundle end with the {wall} while people "
            "carry files (docs/adr/0009)",
        )
    loaded = jobs.load(job_file)
    lock = lock or job_file.with_suffix(".lock")
    if not lock.exists():
        raise EnvironmentProblem(f"expected a lockfile, found no {lock}: write it with `appliance lock`, and review it")
    shown = Shown(job=job.dump(loaded.job), lock=read_file(lock, lockfile.MAX_BYTES), wall="process")
    lockfile.read(shown.lock)
    found = places.find(engine, loaded.job.numerics.profile)
    invited = read_file(invitation, gap.MAX_INVITATION_BYTES)
    hardware = Hardware(attester or "", vcek, td_quote, key_certificate)
    with hardware.speaking() as speaker, carried.ask(out, invited, shown, Waiting()) as notary, Reporter() as progress:
        asked = running.Request(
            job=job_file,
            lab=notary,
            engine=found,
            out=out / carried.BUNDLE,
            lock=lock,
            data=tuple(data or ()),
            sign_incomplete=sign_incomplete,
            require_seal=require_seal,
            attester=speaker,
        )
        try:
            outcome = running.run(asked, progress)
        except KeyboardInterrupt:
            console.ERR.print(_kept(out))
            raise
    console.OUT.print(f"bundle: {outcome.bundle} ({outcome.ended_by})")


@app.command()
def accept(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder, as `request` made it.")],
    answer: Annotated[Path, typer.Argument(help="The notary's answer.")],
) -> None:
    """Check the notary's answer, and go on with the run: hand it to the process that waits, or complete the bundle.

    Example:

        appliance enroll accept runs/1 answer.json
    """
    taken = carried.accept(folder, read_file(answer, gap.MAX_ANSWER_BYTES))
    if taken.waiting:
        console.OUT.print(f"accepted the answer to {taken.call}: the run goes on")
        return
    bundle = folder / carried.BUNDLE
    produce.complete(bundle, taken.bundle)
    shutil.rmtree(produce.unsigned(bundle).parent)
    console.OUT.print(f"bundle: {bundle}")


class Waiting:
    """Tells that an answer is waited for: at once, and now and then."""

    def __init__(self) -> None:
        self._asked: Path | None = None
        self._said = 0.0

    def __call__(self, request: Path, seconds: float) -> None:
        """The answer to `request` has been waited for so long by now."""
        if request != self._asked:
            self._asked, self._said = request, 0.0
            console.ERR.print(
                f"wrote {request}: carry it to the notary (`notary appraise`), then give me its answer: `appliance "
                f"enroll accept {request.parent} ANSWER`. Waiting; Ctrl-C ends this."
            )
        elif seconds - self._said >= REMINDER_S:
            self._said = seconds
            console.ERR.print(f"waiting for the answer to {request} for {seconds / 60:.0f} minutes")


def _kept(folder: Path) -> str:
    """What is left of an interrupted run."""
    bundle = folder / carried.BUNDLE
    if produce.unsigned(bundle).exists() and (folder / gap.request_name("conclude")).exists():
        return f"the bundle waits in {folder} for its signature: `appliance enroll accept {folder} ANSWER` completes it"
    if produce.unsigned(bundle).parent.exists():
        return f"what there is of the run lies in {produce.unsigned(bundle).parent}"
    return f"nothing was run, and the request in {folder} is of no use any more: its key is gone"
