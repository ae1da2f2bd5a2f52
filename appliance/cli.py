"""`appliance`: run sealed evals and leave signed bundles. The commands are in `appliance.commands`, one to a file."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance import logs
from appliance.attester.cli import app as tpm_app
from appliance.commands import boot, doctor, engine, init, inspect, lock, run, seal, suite, watch
from appliance.enrol_cli import app as enrol_app
from appliance.image.cli import app as image_app
from appliance.notary import hold
from appliance.notary.log_cli import app as log_app
from appliance.relay import WorkerFailure
from attest import console

app = typer.Typer(
    name="appliance",
    help="Run AI-safety evals sealed and offline, and leave signed bundles that anybody can verify.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (doctor.doctor, init.init, run.run, lock.lock, boot.boot, seal.seal, watch.watch):
    app.command()(command)
for name, group in (
    ("engine", engine.app),
    ("image", image_app),
    ("log", log_app),
    ("tpm", tpm_app),
    ("enroll", enrol_app),
    ("inspect", inspect.app),
    ("suite", suite.app),
):
    app.add_typer(group, name=name)


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what workers print, too.")] = False,
) -> None:
    """Run AI-safety evals sealed and offline, and leave signed bundles that anybody can verify."""
    logs.configure(verbose=verbose)
    hold.hold()


def main() -> None:
    """Entry point of the console script."""
    try:
        console.run(app, "appliance")
    except WorkerFailure as error:
        console.fail(str(error), error.exit_code)
