"""`appliance init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.commands.options import PassphraseOption, now
from appliance.notary import keys, stores
from appliance.notary import lab as labs
from attest import console


def init(
    folder: Annotated[Path, typer.Argument(help="The lab's folder; must not exist.")],
    name: Annotated[
        str, typer.Option(help="The lab's name, a DNS name; it stands in every certificate.")
    ] = labs.DEFAULT_NAME,
    passphrase_file: PassphraseOption = None,
    keys_in: Annotated[
        str,
        typer.Option(
            "--keys",
            metavar="file|tpm:[PATH]|pkcs11:...",
            help="Where its signing keys are made and stay: in files, a TPM 2.0, a PKCS#11 token.",
        ),
    ] = stores.FILES,
) -> None:
    """Create a lab: certificate authority, logs, time-stamp authority, and what auditors need to trust them.

    Examples:

        appliance init lab --name evals.lab.example

        appliance init lab --keys 'pkcs11:token=lab?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=pin'
    """
    passphrase = keys.read_passphrase(passphrase_file)
    lab = labs.create(folder, name, passphrase=passphrase, keys=None if keys_in == stores.FILES else keys_in, now=now)
    console.OUT.print(f"created lab {lab.name} in {folder}")
    console.OUT.print(f"give {folder}/public/trusted_root.json to auditors, over a channel that they trust")
