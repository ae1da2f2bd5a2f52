"""`appliance init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.commands.options import PassphraseOption, now, passphrase
from appliance.notary import lab as labs
from attest import console


def init(
    folder: Annotated[Path, typer.Argument(help="The lab's folder; must not exist.")],
    name: Annotated[
        str, typer.Option(help="The lab's name, a DNS name; it stands in every certificate.")
    ] = labs.DEFAULT_NAME,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Create a lab: certificate authority, logs, time-stamp authority, and what auditors need to trust them.

    Example:

        appliance init lab --name evals.lab.example
    """
    lab = labs.create(folder, name, passphrase=passphrase(passphrase_file), now=now)
    console.OUT.print(f"created lab {lab.name} in {folder}")
    console.OUT.print(f"give {folder}/public/trusted_root.json to auditors, over a channel that they trust")
