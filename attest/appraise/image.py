"""Which image a machine booted, by its TPM's registers and the reference values that a relying party has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attest import reference
from attest.appraisal import Line
from attest.appraise.verdict import Appraisal
from attest.errors import VerificationError
from attest.reference import ReferenceValues

BANK = "sha256:"


def judge(found: Appraisal, references: Sequence[ReferenceValues], minimum: int | None) -> Appraisal:
    """`found`, with a line that its image is one of `references`, and one that it is of version `minimum` or later.

    Without references and without a minimum nothing is added.
    """
    if not references and minimum is None:
        return found
    image, why = _identify(found, references)
    lines = [
        Line(
            rule="image.known", expected=" or ".join(values.image for values in references) or "one of --reference",
            found=image.image if image else why, holds=image is not None,
            why="registers say that something booted; which image that was, only reference values say",
        )
    ]  # fmt: skip
    if minimum is not None:
        version = image.version if image else None
        lines.append(
            Line(
                rule="image.version", expected=f"at least {minimum}", found="none" if version is None else str(version),
                holds=version is not None and version >= minimum,
                why="what was repaired since an older image is not in it",
            )
        )  # fmt: skip
    return replace(found, lines=(*found.lines, *lines))


def _identify(found: Appraisal, references: Sequence[ReferenceValues]) -> tuple[ReferenceValues | None, str]:
    """The image, or why it is none of them."""
    registers = {
        int(name.removeprefix(BANK)): bytes.fromhex(value)
        for claims in found.claims.get("tpm", ())
        for name, value in claims.measurements.items()
        if name.startswith(BANK)
    }
    why = "no registers of a TPM that are authentic" if not registers else "nothing to compare with"
    for values in references:
        try:
            reference.compare(values, registers)
        except VerificationError as error:
            why = error.found
        else:
            return values, ""
    return None, why
