"""`appliance seal`."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.commands.options import JsonOption
from appliance.seal.plan import Kind, plan_for
from attest import console


def seal(
    show: Annotated[bool, typer.Option("--show", help="Print the plans.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what a sealed worker may do, as it would be carried out on this host. Nothing is done.

    Example:

        appliance seal --show
    """
    kinds: tuple[Kind, ...] = ("model", "eval", "program")
    plans = [plan_for(kind, memory_bytes=8 << 30, threads=1) for kind in kinds]
    if as_json:
        console.print_json([plan.model_dump(mode="json", exclude_none=True) for plan in plans])
    elif not show:
        raise typer.BadParameter("expected --show (or --json)")
    else:
        for plan in plans:
            console.OUT.print(plan.describe() + "\n")
