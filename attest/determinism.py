"""What a model worker found when it tested, in a run, whether its host keeps the numerics contract.

The contract: the logits after a token depend on the model and on the tokens before it, and on nothing else. A cell of
the test computes the same logits in another way and compares every bit. The class follows from the cells; a report
without all the cells of this list is refused, so that leaving one out does not help.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from attest import canonical
from attest.canonical import Model
from attest.digest import Digest
from attest.errors import MalformedInput, VerificationError
from attest.job import Name

CELLS: Final = {
    "repeat": "the same again in the same slot",
    "prefix": "after a prefix that was copied from another slot",
    "rollback": "after other tokens that were decoded and taken back",
    "slot": "in the last slot, which held another sequence before, in place of the first",
    "decode": "token by token in place of one prefill",
    "chunks": "cut into pieces of uneven lengths",
    "mates": "beside other sequences of other lengths, prefilled together",
    "mates-decode": "token by token beside other sequences",
    "threads": "on another number of threads",
}
"""Every cell, in its order, and how the logits were computed in it."""

NumericsClass = Literal["exact", "varies"]


class Cell(Model):
    """One way to compute the same logits."""

    cell: Name
    """Which way, a key of `CELLS`."""
    rows: Annotated[int, Field(ge=1)]
    """Rows of logits that were compared."""
    differing: Annotated[int, Field(ge=0)]
    """Rows with at least one bit that differed."""


class SelfTest(Model):
    """The report on one model."""

    model: Name
    """The model."""
    fingerprint: Digest
    """SHA-256 over the reference logits: float32, little endian, whole vocabulary, every position.

    The tokens follow from the size of the vocabulary alone, so equal models give equal fingerprints on equal numerics.
    """
    cells: Annotated[tuple[Cell, ...], Field(max_length=64)]
    """The cells, in the order of `CELLS`."""

    @property
    def numerics_class(self) -> NumericsClass:
        """`exact`: no bit differed in any cell."""
        return "varies" if any(cell.differing for cell in self.cells) else "exact"

    @property
    def differing(self) -> tuple[str, ...]:
        """The cells with a difference."""
        return tuple(cell.cell for cell in self.cells if cell.differing)


def read(data: bytes, model: str) -> SelfTest:
    """The report of the worker of `model`. Raises `MalformedInput`."""
    report = canonical.parse(SelfTest, data, f"self-test of model {model}")
    check_form(report, model)
    return report


def check_form(report: SelfTest, model: str) -> None:
    """Raises `MalformedInput` unless `report` is of `model` and has every cell."""
    found = [cell.cell for cell in report.cells]
    if report.model != model or found != list(CELLS):
        raise MalformedInput(
            f"self-test of model {model}",
            f"expected the cells {list(CELLS)} of {model}, found {found} of {report.model}",
        )
    if excess := [cell.cell for cell in report.cells if cell.differing > cell.rows]:
        raise MalformedInput(f"self-test of model {model}", f"cells {excess} differ in more rows than they have")


def require_exact(report: SelfTest) -> None:
    """Raises `VerificationError` when a cell differs."""
    if report.differing:
        raise VerificationError(
            "numerics",
            "self-test",
            expected=f"logits of model {report.model} that are equal to the bit in all {len(report.cells)} cells",
            found=f"differences in {', '.join(report.differing)}",
            advice="Use an engine of an exact profile and a model that docs/determinism.md names, or let the job say "
            "`numerics: reported`",
        )
