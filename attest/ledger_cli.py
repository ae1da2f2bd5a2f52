"""`attest ledger` and `attest consistency`: what a lab's log says of attempts, and whether it only ever grew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attest import bundle as bundles
from attest import console, trust, verify
from attest.checkpoint import MAX_NOTE_CHARS, Checkpoint, TrustedLog, check_cosigned
from attest.errors import MalformedInput
from attest.files import read_file
from attest.log import MAX_RECEIPT_BYTES

if TYPE_CHECKING:
    from attest.ledger import Attempt, Ledger
    from attest.tiles import LogCopy

LogArgument = Annotated[Path, typer.Argument(help="A copy of the lab's log: its folder.", show_default=False)]
TrustOption = Annotated[Path, typer.Option("--trust", help="The lab's trusted_root.json, from where you trust it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def ledger_command(
    log: LogArgument,
    trusted: TrustOption,
    job: Annotated[str | None, typer.Option(help="Only attempts at this job: its digest, sha256:...")] = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle whose intent and signature have to be in it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List every attempt that a lab's log holds, finished or not, and tell what is wrong with their numbers.

    The lab hands out a copy of the log with `appliance log copy`. It is verified whole, for all jobs.
    Exit codes: 0 nothing is wrong, 10 something is, 20 unsupported, 30 malformed.

    Examples:

        attest ledger lab-log --trust trusted_root.json

        attest ledger lab-log --trust trusted_root.json --bundle bundles/gsm8k
    """
    from attest import ledger

    root = read_file(trusted, trust.MAX_TRUST_BYTES)
    copy = read_copy(log, trust.read(root).logs)
    found = ledger.read(copy)
    if bundle is not None:
        signature = read_file(bundle / verify.SIGNATURE, bundles.MAX_BUNDLE_BYTES)
        intent, _ = ledger.check_bundle(copy, signature, read_file(bundle / verify.INTENT, MAX_RECEIPT_BYTES), root)
        job = job or intent.job_digest
    attempts = found.attempts if job is None else found.of(job)
    if as_json:
        console.print_json(_as_json(found, attempts))
    else:
        _print(found, attempts)
    found.require()


def consistency_command(
    old: Annotated[Path, typer.Argument(help="What you kept: a checkpoint's file, or a bundle's folder.")],
    new: Annotated[Path, typer.Argument(help="A copy of the log; with --proof what you would keep next.")],
    trusted: TrustOption,
    proof: Annotated[Path | None, typer.Option(help="The lab's proof, instead of the whole log.")] = None,
) -> None:
    """Check that a lab's log begins with the tree of a checkpoint that you kept: nothing of it was changed or removed.

    The lab makes a proof with `appliance log prove`; a whole copy of the log needs none.
    Exit codes: 0 it does, 10 it was put back or forked, 30 malformed.

    Examples:

        attest consistency kept.checkpoint lab-log --trust trusted_root.json

        attest consistency bundles/gsm8k lab-log --trust trusted_root.json

        attest consistency kept.checkpoint new.checkpoint --proof growth --trust trusted_root.json
    """
    logs = trust.read(read_file(trusted, trust.MAX_TRUST_BYTES)).logs
    kept = read_checkpoint(old, logs)
    if proof is None:
        copy = read_copy(new, logs)
        copy.check_extends(kept)
        grown = copy.checkpoint
    else:
        from attest import growth

        grown = read_checkpoint(new, logs)
        growth.check(growth.parse(read_file(proof, growth.MAX_BYTES)), kept, grown, logs)
    console.OUT.print(f"log         {kept.origin}\nkept        {kept.size} entries\nnow         {grown.size} entries")
    console.OUT.print("\nCONSISTENT: nothing of what was kept is changed or missing", style="bold green")


def read_copy(folder: Path, logs: tuple[TrustedLog, ...]) -> LogCopy:
    """The log in a folder, verified whole. Raises `VerificationError`, `MalformedInput`."""
    from attest.tiles import read_log

    return read_log(lambda path, limit: read_file(folder / path, limit), logs)


def read_checkpoint(path: Path, logs: tuple[TrustedLog, ...]) -> Checkpoint:
    """The checkpoint in a file, in a bundle's signature, or of a log's folder. Raises as `read_copy`."""
    from attest.tiles import CHECKPOINT

    if (path / verify.SIGNATURE).exists():
        data = read_file(path / verify.SIGNATURE, bundles.MAX_BUNDLE_BYTES)
        return check_cosigned(bundles.read(data).entry.inclusion_proof.checkpoint.envelope, logs)
    file = path / CHECKPOINT if path.is_dir() else path
    try:
        return check_cosigned(read_file(file, MAX_NOTE_CHARS).decode("utf-8"), logs)
    except UnicodeDecodeError:
        raise MalformedInput(str(file), "expected a signed checkpoint in UTF-8, found other bytes") from None


def _print(found: Ledger, attempts: tuple[Attempt, ...]) -> None:
    jobs = {attempt.intent.job_digest for attempt in attempts}
    console.OUT.print(f"{found.entries} entries, {len(attempts)} attempts at {len(jobs)} jobs")
    for job in sorted(jobs):
        console.OUT.print(f"\njob {job}", style="bold")
        for attempt in (one for one in attempts if one.intent.job_digest == job):
            intent = attempt.intent
            state = f"signed in entry {attempt.signatures[0]}" if attempt.signatures else "NOT FINISHED"
            console.OUT.print(f"  attempt {intent.attempt}  {intent.time}  entry {attempt.index}  {state}")
            console.OUT.print(f"    lock {intent.lock_digest}\n    key  {intent.key_digest}")
            if intent.counter is not None:
                console.OUT.print(f"    counter {intent.counter.value} of the TPM {intent.counter.tpm}")
    for finding in found.findings:
        console.OUT.print(f"\nWRONG {finding.error()}", style="bold")


def _as_json(found: Ledger, attempts: tuple[Attempt, ...]) -> dict[str, Any]:
    return {
        "entries": found.entries,
        "attempts": [
            attempt.intent.model_dump(mode="json", exclude_none=True)
            | {"entry": attempt.index, "signatures": list(attempt.signatures)}
            for attempt in attempts
        ],
        "findings": [
            {"code": one.code, "entry": one.entry, "expected": one.expected, "found": one.found}
            for one in found.findings
        ],
    }
