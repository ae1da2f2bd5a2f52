"""That witnesses saw a run in a lab's log: one cosigned checkpoint, and the proofs of intent and signature under it.

It lies beside the bundle: it is made after it, and a stock client refuses a bundle whose own checkpoint bears lines of
others. What holds then: a lab that puts its log back to before this run, or shows a log without it, finds none of these
witnesses for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field, StringConstraints

from attest import bundle as bundles
from attest import canonical, cosignature, merkle
from attest.bundle import MAX_PATH, Hash
from attest.canonical import Model
from attest.checkpoint import MAX_NOTE_CHARS, Checkpoint, TrustedLog, check_cosigned
from attest.cosignature import LAYER, Cosigned, WitnessKey
from attest.errors import VerificationError
from attest.log import parse_receipt

if TYPE_CHECKING:
    from attest.tiles import LogCopy

MAX_BYTES: Final = 1 << 18
Path = Annotated[tuple[Hash, ...], Field(max_length=MAX_PATH)]


class Witnessed(Model):
    """The file."""

    format: Literal["vitrine/witnessed/v1"] = "vitrine/witnessed/v1"
    """Format and version."""
    checkpoint: Annotated[str, StringConstraints(min_length=1, max_length=MAX_NOTE_CHARS)]
    """The tree head: signed by the log, cosigned by witnesses."""
    intent: Path
    """The RFC 6962 path of the intent, from the leaf up."""
    signature: Path
    """The RFC 6962 path of the signature."""


def read(data: bytes) -> Witnessed:
    """The file in `data`. Raises `MalformedInput`."""
    return canonical.parse(Witnessed, data, "witnessed")


def make(copy: LogCopy, cosigned: Checkpoint, signature: bytes, receipt: bytes) -> Witnessed:
    """The file for a bundle, given its signature and its intent's receipt (JSON), from a copy of the log.

    Raises `VerificationError`, `MalformedInput`.
    """
    copy.check_extends(cosigned)
    leaves = _leaves(signature, receipt)
    for index, body in leaves:
        if not index < cosigned.size or copy.leaves[index] != body:
            raise VerificationError(
                LAYER, "not-in-tree", expected=f"entry {index} of the bundle among the {cosigned.size} cosigned",
                found="another, or none", advice="have the witness cosign a later checkpoint of the bundle's log",
            )  # fmt: skip
    paths = [tuple(copy.tree.inclusion_path(index, cosigned.size)) for index, _ in leaves]
    return Witnessed(checkpoint=str(cosigned.note), intent=paths[0], signature=paths[1])


def check(
    witnessed: Witnessed,
    signature: bytes,
    receipt: bytes,
    logs: Sequence[TrustedLog],
    witnesses: Sequence[WitnessKey],
) -> tuple[Cosigned, ...]:
    """The cosignatures, one at least, of `witnesses` on a tree with the entries of a bundle, which was verified.

    Raises `VerificationError` (layers `witness`, `log`), `MalformedInput`.
    """
    # 1. The tree head is that of a log that the trust root names.
    checkpoint = check_cosigned(witnessed.checkpoint, logs)

    # 2. Intent and signature are in its tree, in the places where the bundle has them.
    paths = (witnessed.intent, witnessed.signature)
    for (index, body), path in zip(_leaves(signature, receipt), paths, strict=True):
        leaf = merkle.leaf_hash(body)
        merkle.verify_inclusion(leaf, index, checkpoint.size, path, checkpoint.root, layer=LAYER)

    # 3. Somebody whom the caller knows as a witness cosigned it.
    found = cosignature.check(checkpoint, witnesses)
    if not found:
        names = sorted({line.name for line in checkpoint.note.signatures})
        raise VerificationError(
            LAYER, "cosignature", expected=f"a line of one of {[witness.name for witness in witnesses]}",
            found=f"lines of {names}", advice="another key of the same name is another witness",
        )  # fmt: skip
    return found


def _leaves(signature: bytes, receipt: bytes) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    """Index and leaf of a bundle's intent, and of its signature."""
    intent, entry = parse_receipt(receipt), bundles.read(signature).entry
    return (intent.log_index, intent.body), (entry.log_index, entry.canonicalized_body)
