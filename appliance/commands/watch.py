"""`appliance watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance import watch as watching
from attest import console


def watch(
    bundle: Annotated[Path, typer.Argument(help="The folder of the bundle that is to come, or that is there.")],
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for more until the run ends, or show what there is.")
    ] = True,
) -> None:
    """Show prompts and replies of the samples that ended, while a run goes on in another terminal.

    It reads the transcript and verifies nothing; the run does not know of it.

    Example:

        appliance watch bundles/redteam
    """
    for text in watching.samples(watching.find(bundle), follow=follow):
        console.OUT.print(text)
