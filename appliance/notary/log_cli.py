"""`appliance log`: hand out the lab's transparency log. No key is needed, nothing is signed and nothing is changed."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Annotated

import typer

from appliance.notary import files
from appliance.notary.tiles import LOCK
from attest import bundle as bundles
from attest import canonical, console, growth, trust, verify, witnessed
from attest.checkpoint import TrustedLog
from attest.errors import EnvironmentProblem
from attest.growth import Growth
from attest.ledger_cli import read_checkpoint, read_copy
from attest.log import MAX_RECEIPT_BYTES
from attest.tiles import CHECKPOINT, MAX_CHECKPOINT_BYTES, LogCopy

app = typer.Typer(help="Hand out the lab's transparency log to auditors.", no_args_is_help=True)

LabOption = Annotated[Path, typer.Option(help="The lab's folder.")]
OutOption = Annotated[Path, typer.Option(help="Where to; must not exist.")]


@app.command("copy")
def copy_command(out: OutOption, lab: LabOption = Path("lab")) -> None:
    """Copy the whole log for auditors: checkpoint, entries, hashes. It holds no secret; see `attest ledger`.

    Example:

        appliance log copy --lab lab --out lab-log
    """
    if out.exists():
        raise EnvironmentProblem(f"{out} exists already: name another folder with --out")
    beside = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    try:
        with files.exclusive(lab / "log" / LOCK):
            shutil.copytree(lab / "log", beside, ignore=shutil.ignore_patterns(LOCK, ".*"))
        beside.chmod(0o755)
        copy = _read(lab, beside)
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    console.OUT.print(f"{out}: {len(copy.leaves)} entries of {copy.checkpoint.origin}")


@app.command("checkpoint")
def checkpoint_command(out: OutOption, lab: LabOption = Path("lab")) -> None:
    """Write the log's checkpoint to a file: whoever keeps it can tell later that the log was put back or forked.

    Example:

        appliance log checkpoint --lab lab --out lab.checkpoint
    """
    with files.exclusive(lab / "log" / LOCK):
        copy = _read(lab, lab / "log")
        note = files.read_bounded(lab / "log" / CHECKPOINT, MAX_CHECKPOINT_BYTES)
    files.write_file(out, note, exclusive=True)
    console.OUT.print(f"{out}: {len(copy.leaves)} entries of {copy.checkpoint.origin}")


@app.command("prove")
def prove_command(
    out: OutOption,
    old: Annotated[int, typer.Option(min=0, help="How many entries the other side knows of.")],
    new: Annotated[
        Path | None, typer.Option(help="A checkpoint, or a bundle's folder, to prove it to; the log's own by default.")
    ] = None,
    lab: LabOption = Path("lab"),
) -> None:
    """Prove that the log grew from a checkpoint that an auditor or a witness kept: see `attest consistency`.

    Examples:

        appliance log prove --old 17 --out growth

        appliance log prove --old 17 --new cosigned.checkpoint --out growth
    """
    with files.exclusive(lab / "log" / LOCK):
        copy = _read(lab, lab / "log")
    grown = copy.checkpoint if new is None else read_checkpoint(new, _logs(lab))
    copy.check_extends(grown)
    if old > grown.size:
        raise typer.BadParameter(f"expected at most {grown.size}, the entries of the checkpoint", param_hint="--old")
    proof = Growth(old, tuple(copy.tree.consistency_proof(old, grown.size)), str(grown.note))
    files.write_file(out, growth.write(proof), exclusive=True)
    console.OUT.print(f"{out}: from {old} to {grown.size} entries of {grown.origin}")


@app.command("witnessed")
def witnessed_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    cosigned: Annotated[Path, typer.Option(help="A checkpoint that witnesses cosigned, of after the run.")],
    out: OutOption,
    lab: LabOption = Path("lab"),
) -> None:
    """Prove that a bundle's intent and signature are in a tree that witnesses cosigned: see `attest verify`.

    Example:

        appliance log witnessed bundles/gsm8k --cosigned cosigned.checkpoint --out gsm8k.witnessed
    """
    with files.exclusive(lab / "log" / LOCK):
        copy = _read(lab, lab / "log")
    signature = files.read_bounded(bundle / verify.SIGNATURE, bundles.MAX_BUNDLE_BYTES)
    receipt = files.read_bounded(bundle / verify.INTENT, MAX_RECEIPT_BYTES)
    grown = read_checkpoint(cosigned, _logs(lab))
    made = witnessed.make(copy, grown, signature, receipt)
    files.write_file(out, canonical.dump_model(made), exclusive=True)
    signers = ", ".join(line.name for line in grown.note.signatures)
    console.OUT.print(f"{out}: intent and signature are among {grown.size} entries, signed by {signers}")


def _read(lab: Path, log: Path) -> LogCopy:
    """The log, verified whole as an auditor would."""
    return read_copy(log, _logs(lab))


def _logs(lab: Path) -> tuple[TrustedLog, ...]:
    """The logs of the lab's own trust root."""
    return trust.read(files.read_bounded(lab / "public" / "trusted_root.json", trust.MAX_TRUST_BYTES)).logs
