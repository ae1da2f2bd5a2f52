"""`attest witness`: be a witness of a lab's log, over files. The one part of `attest` that keeps something."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from attest import console, durable, trust
from attest.errors import EnvironmentProblem
from attest.files import read_file
from attest.ledger_cli import TrustOption, read_checkpoint

app = typer.Typer(help="Witness a lab's log: cosign checkpoints, each of which extends the last.", no_args_is_help=True)


@app.command("keygen")
def keygen_command(
    name: Annotated[str, typer.Argument(help="The witness's name, such as auditor.example.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where the private key goes; the public one beside it, with .pub.")],
) -> None:
    """Make a witness's key. Relying parties are given the public one, and trust the witness by it.

    Example:

        attest witness keygen auditor.example --out auditor.key
    """
    from attest import cosignature

    signer = cosignature.make_signer(name, secrets.token_bytes(32))
    public = out.with_name(f"{out.name}.pub")
    for path in (out, public):
        if path.exists():
            raise EnvironmentProblem(f"{path} exists already: name another file with --out")
    durable.write_file(out, f"{signer.secret()}\n".encode(), mode=0o600, exclusive=True)
    durable.write_file(public, f"{signer.witness}\n".encode(), exclusive=True)
    console.OUT.print(f"{public}: {signer.witness}")


@app.command("cosign")
def cosign_command(
    checkpoint: Annotated[Path, typer.Argument(help="The log's checkpoint: a file, or a bundle's folder.")],
    trusted: TrustOption,
    state: Annotated[Path, typer.Option(help="The witness's folder: what it cosigned last of each log.")],
    key: Annotated[Path, typer.Option(help="The witness's private key.")],
    out: Annotated[Path, typer.Option(help="Where the cosigned checkpoint goes; must not exist.")],
    proof: Annotated[
        Path | None, typer.Option(help="That it extends the last one: from `appliance log prove`.")
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="This log is new to the witness: begin here.")] = False,
) -> None:
    """Cosign a log's checkpoint, if the log grew from the last one that was cosigned; remember it.

    Lines of other witnesses stay. Exit codes: 0 cosigned, 10 the log was put back or forked, 30 malformed.

    Examples:

        attest witness cosign lab.checkpoint --first --trust trusted_root.json --state seen --key auditor.key --out c1

        attest witness cosign new.checkpoint --proof growth --trust trusted_root.json --state seen --key auditor.key \\
            --out c2
    """
    from attest import cosignature, growth, witness

    if out.exists():
        raise EnvironmentProblem(f"{out} exists already: name another file with --out")
    logs = trust.read(read_file(trusted, trust.MAX_TRUST_BYTES)).logs
    signer = cosignature.parse_signer(read_file(key, cosignature.MAX_KEY_BYTES))
    grown = growth.parse(read_file(proof, growth.MAX_BYTES)) if proof else None
    new = read_checkpoint(checkpoint, logs)
    state.mkdir(mode=0o700, exist_ok=True)
    note = witness.cosign(state, signer, new, grown, logs, now=datetime.now(UTC), first=first)
    durable.write_file(out, note.encode(), exclusive=True)
    console.OUT.print(f"{out}: {signer.name} cosigned {new.size} entries of {new.origin}")
