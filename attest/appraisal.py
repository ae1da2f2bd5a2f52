"""What an appraisal is made of: claims, compared with a policy line by line, and the verdict that follows.

Every platform (`attest.tpm`, `attest.sevsnp`, ...) keeps apart: `layout` (bytes to fields), `authenticate` (signatures
and certificates), `claims` (what authenticated evidence says), and `policy` (what a relying party requires of it, as
data, and the comparison). A comparison gives a `Line` for each of its rules, whether it holds or not, so that a reader
sees what was looked at. Authentication raises; a policy's lines are collected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from attest.canonical import Model
from attest.errors import VerificationError


class Claims(Protocol):
    """What every platform's claims have."""

    @property
    def platform(self) -> str:
        """Which platform the evidence is of."""
        ...

    @property
    def bound(self) -> str:
        """What the attester had bound into the evidence (report data, qualifying data, nonce): hexadecimal digits."""
        ...

    @property
    def measurements(self) -> Mapping[str, str]:
        """What was measured, by name: hexadecimal digits."""
        ...

    @property
    def debug(self) -> bool:
        """Whether whoever runs the host can look into what was measured, by its settings."""
        ...


class Line(Model):
    """One rule of a policy, applied."""

    rule: str
    """The rule's name: `sev-snp.debug`."""
    expected: str
    """What the policy requires."""
    found: str
    """What the evidence says."""
    holds: bool
    """Whether that is so."""
    why: str
    """What the rule protects from, one sentence."""


def require(lines: Iterable[Line]) -> None:
    """Raises `VerificationError` (layer `appraisal`) for the first line that does not hold; its code is the rule."""
    for line in lines:
        if not line.holds:
            raise VerificationError("appraisal", line.rule, expected=line.expected, found=line.found, advice=line.why)
