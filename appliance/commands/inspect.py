"""`appliance inspect`: bundles of what Inspect ran, and logs for Inspect's viewer of what we ran."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from appliance import run as running
from appliance.commands import engine as engines
from appliance.commands.options import EngineOption, PassphraseOption, now
from appliance.job import load
from appliance.notary import keys
from appliance.notary import lab as labs
from appliance.progress import Reporter
from attest import console
from attest.cli import read_bundle
from attest.errors import EnvironmentProblem
from attest.files import read_file

MAX_LOG_BYTES = 1 << 30

app = typer.Typer(help="Sign what Inspect ran, and show bundles in Inspect's viewer.", no_args_is_help=True)


@app.command("sign")
def sign(
    log: Annotated[Path, typer.Argument(help="The `.eval` file that Inspect wrote, of a model `vitrine/...`.")],
    model: Annotated[Path, typer.Option(help="The model's GGUF file.")],
    lab: Annotated[Path, typer.Option(help="The lab's folder.")] = Path("lab"),
    engine: EngineOption = None,
    out: Annotated[Path | None, typer.Option(help="The bundle's folder; bundles/NAME-N by default.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where rows, suite and job go; LOG without `.eval` by default.")
    ] = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Ask again what a log of Inspect says was asked, sealed, and sign it with the log in the bundle.

    A sample whose completions do not come back bit for bit fails. Scores are taken over from the log.

    Example:

        appliance inspect sign logs/talk.eval --model model.gguf --lab lab --out bundles/talk
    """
    from appliance.bridges import inspect_log

    folder = work or log.with_suffix("")
    if folder.exists():
        raise EnvironmentProblem(f"{folder} exists already: name another folder with --work, or remove it")
    content = read_file(log, MAX_LOG_BYTES)
    remade = inspect_log.remake(log, os.path.relpath(model.absolute(), folder.absolute()))
    folder.mkdir(parents=True)
    for name, data in remade.files.items():
        (folder / name).write_bytes(data)
    job = load(folder / inspect_log.JOB).job
    request = running.Request(
        job=folder / inspect_log.JOB,
        lab=labs.open_lab(lab, keys.read_passphrase(passphrase_file), now=now),
        engine=engines.folder_or_build(engine, job.numerics.profile),
        out=out or running.default_out(job.name),
        inspect_log=content,
    )
    with Reporter() as progress:
        outcome = running.run(request, progress)
    failed = sum(suite.failed for suite in outcome.results.suites)
    console.OUT.print(f"bundle: {outcome.bundle} ({remade.samples} samples, {failed} failed)")


@app.command("export")
def export(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    out: Annotated[Path, typer.Option(help="A new folder for the logs, one for each suite on each model.")],
) -> None:
    """Write a bundle as logs of Inspect, for its viewer. Nothing is verified: `attest verify` does that.

    Example:

        appliance inspect export bundles/demo-1 --out logs && inspect view --log-dir logs
    """
    write_log, logs = _exporter()
    if out.exists():
        raise EnvironmentProblem(f"{out} exists already: name another folder with --out, or remove it")
    found = list(logs(read_bundle(bundle)))
    out.mkdir(parents=True)
    for name, log in found:
        write_log(log, str(out / f"{name}.eval"))
        console.OUT.print(f"log: {out / name}.eval")


def _exporter() -> tuple[Callable[..., object], Callable[[Mapping[str, bytes]], Iterable[tuple[str, object]]]]:
    try:
        from inspect_ai.log import write_eval_log

        from appliance.bridges.inspect_export import logs
    except ImportError:
        raise EnvironmentProblem("inspect-ai is not installed: pip install 'vitrine[inspect]'") from None
    return write_eval_log, logs
