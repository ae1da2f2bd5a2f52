"""A witness of logs, over files: cosigns a checkpoint that extends all that it cosigned before, and nothing else.

    DIR/lock                       held while cosigning
    DIR/<hex>.checkpoint           the last checkpoint of one log (SHA-256 of its origin), with the witness's own line

The state is written, whole and durable, before a cosignature leaves: a crash or two processes at once cannot make it
cosign two histories. It is read back by its own signature. Refused: a log that the trust root does not name, one that
was not seen before (unless `first` says so), a smaller tree, another tree of the same size, one without a proof that it
extends the last, and a time before the last one. A witness that loses its directory has to be told `first` again, and
with that it gives up what it knew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from attest import cosignature, durable, growth
from attest.checkpoint import MAX_NOTE_CHARS, Checkpoint, TrustedLog, check_cosigned, check_order, parse_checkpoint
from attest.cosignature import LAYER, Cosigned, Signer
from attest.digest import sha256
from attest.errors import MalformedInput, VerificationError
from attest.files import read_file
from attest.growth import Growth

LOCK: Final = "lock"


def cosign(
    directory: Path,
    signer: Signer,
    new: Checkpoint,
    proof: Growth | None,
    logs: Sequence[TrustedLog],
    *,
    now: datetime,
    first: bool = False,
) -> str:
    """The note of `new`, which was checked before, with the line of `signer` in place of an older one of its own.

    `proof` leads from the last checkpoint to `new`; there is none where the tree is the same, nor at `first`.
    Raises `VerificationError` (layers `witness`, `log`), `MalformedInput`, `EnvironmentProblem`, `OSError`.
    """
    path = directory / f"{sha256(new.origin.encode()).hex()}.checkpoint"
    with durable.exclusive(directory / LOCK):
        last = _read(path, signer, logs)
        _check_known(last, new, first)
        if last is not None:
            _check_extends(last[0], new, proof, logs)
            _check_time(last[1], now)
        line = signer.cosign(new.note.text, int(now.timestamp()))
        others = tuple(one for one in new.note.signatures if (one.name, one.hint) != (line.name, line.hint))
        note = str(replace(new.note, signatures=(*others, line)))
        parse_checkpoint(note)
        durable.write_file(path, note.encode())
    return note


def _read(path: Path, signer: Signer, logs: Sequence[TrustedLog]) -> tuple[Checkpoint, Cosigned] | None:
    """What was cosigned last; None where nothing was."""
    if not path.exists():
        return None
    try:
        last = check_cosigned(read_file(path, 4 * MAX_NOTE_CHARS).decode("utf-8"), logs)
    except UnicodeDecodeError:
        raise MalformedInput(str(path), "expected a checkpoint in UTF-8, found other bytes") from None
    found = cosignature.check(last, [signer.witness])
    if not found:
        raise VerificationError(
            LAYER, "state", expected=f"the last checkpoint that {signer.name} cosigned", found="one without its line",
            advice="a witness has one key and one directory",
        )  # fmt: skip
    return last, found[0]


def _check_known(last: object, new: Checkpoint, first: bool) -> None:
    if last is None and not first:
        raise VerificationError(
            LAYER, "unknown-log", expected="a log that this witness cosigned before", found=new.origin,
            advice="the first time say --first; was the directory lost, compare with what relying parties keep",
        )  # fmt: skip
    if last is not None and first:
        raise VerificationError(LAYER, "known-log", expected="a log that is new to this witness", found=new.origin)


def _check_extends(last: Checkpoint, new: Checkpoint, proof: Growth | None, logs: Sequence[TrustedLog]) -> None:
    check_order(last, new)
    if new.size == last.size:
        return
    if proof is None:
        raise VerificationError(
            LAYER, "proof", expected=f"a proof from {last.size} to {new.size} entries", found="none",
            advice=f"ask the lab for one: appliance log prove --old {last.size}",
        )  # fmt: skip
    growth.check(proof, last, new, logs)


def _check_time(last: Cosigned, now: datetime) -> None:
    if now < last.time:
        raise VerificationError(
            LAYER, "clock", expected=f"a time from {last.time.isoformat()} on", found=now.isoformat(),
            advice="set this machine's clock",
        )  # fmt: skip
