"""The counter of a TPM that numbers runs: raised by one at the start of each, certified in the evidence of the start,
and named by the intent in the lab's log. A log that was put back goes on where it was; the counter does not.

Assumes that the TPM keeps its counter: a software TPM whose state is put back with the log tells nothing.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from attest.canonical import MAX_INTEGER, Model
from attest.digest import Digest

INDEX: Final = 0x01800A11
"""The index of the TPM's memory: of the owner's range (TCG registry of reserved handles), the same on every machine."""


class RunCounter(Model):
    """Where the counter stood when a run started."""

    tpm: Digest
    """Whose counter it is: SHA-256 of the public area of the TPM's attestation key."""
    value: int = Field(ge=0, le=MAX_INTEGER)
    """What it was raised to."""
