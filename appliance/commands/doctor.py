"""`appliance doctor`."""

from __future__ import annotations

import typer

from appliance.commands.options import JsonOption
from appliance.enclave import doctor as doctors
from attest import console
from attest.errors import Exit


def doctor(as_json: JsonOption = False) -> None:
    """Examine this host: which walls can be used, how far the seal goes, what is missing and how to get it.

    Changes nothing, needs no root. Ends with 0 where jobs can be run behind the process wall, with 1 otherwise.

    Example:

        appliance doctor
    """
    report = doctors.examine()
    if as_json:
        console.print_json(report.model_dump(mode="json"))
    else:
        console.OUT.print(doctors.render(report))
    if not report.usable:
        raise typer.Exit(Exit.FAULT)
