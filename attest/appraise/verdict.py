"""The appraisal of evidence: every platform judged, its binding compared, one verdict with a reason for each line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from attest import capsule as capsules
from attest import validity
from attest.appraisal import Claims, Line
from attest.appraise import platforms
from attest.appraise.platforms import Collateral
from attest.appraise.policy import Hardware
from attest.canonical import JSON
from attest.capsule import Capsule
from attest.errors import VerificationError
from attest.evidence import FORMATS
from attest.manifest import Platform

Status = Literal["affirming", "warning", "contraindicated"]
"""As in AR4SI: everything holds; everything holds, with something left out on request; something does not hold."""


@dataclass(frozen=True)
class Appraisal:
    """What came of it."""

    as_of: datetime
    """The time that it was judged at."""
    claims: Mapping[Platform, tuple[Claims, ...]]
    """The claims of each platform whose evidence is authentic: of each of its GPUs, of any other platform once."""
    lines: tuple[Line, ...]
    """Every rule that was applied, holding or not."""
    downgrades: tuple[str, ...]
    """What the policy let pass although it was not looked at, or looked at with old collateral; a sentence each."""
    unauthentic: tuple[str, ...]
    """The rules by which evidence was found not to be authentic: nothing else is known of what it says."""

    @property
    def status(self) -> Status:
        """The verdict."""
        if not self.lines or not all(line.holds for line in self.lines):
            return "contraindicated"
        return "warning" if self.downgrades else "affirming"


def appraise(
    documents: Sequence[dict[str, JSON]],
    hardware: Hardware,
    capsule: Capsule | None,
    *,
    bound: bytes | None,
    now: datetime,
) -> Appraisal:
    """Appraise `documents` (one a platform) at `now`. `bound` is what each has to bear; None where nobody knows it.

    What does not hold is a line, also where authentication fails. Raises `MalformedInput` and `Unsupported`.
    """
    lines: list[Line] = []
    downgrades: list[str] = []
    unauthentic: list[str] = []
    if not documents:
        lines.append(_line("evidence", "evidence of a platform", "none", "a machine that says nothing proves nothing"))
    at = _collateral(hardware, capsule, now, lines, downgrades)
    claims: dict[Platform, tuple[Claims, ...]] = {}
    for document in documents:
        platform = FORMATS[str(document["format"])]
        if not platforms.accepted(platform, hardware):
            lines.append(
                _line("platform", "platforms of the policy", platform, "nothing is known of what it has to say")
            )
            continue
        try:
            judged = platforms.judge(platform, document, at)
        except VerificationError as error:
            rule = f"{error.layer}.{error.code}"
            why = error.advice or "evidence that is not authentic says nothing"
            lines.append(Line(rule=rule, expected=str(error.expected), found=str(error.found), holds=False, why=why))
            unauthentic.append(rule)
            continue
        claims[platform] = judged.claims
        lines += [*(_bound(platform, one, bound, hardware) for one in judged.claims), *judged.lines]
        downgrades += [f"{rule} holds only because the policy opts out of it" for rule in judged.widened]
        downgrades += dict.fromkeys(sentence for one in judged.claims for sentence in getattr(one, "skipped", ()))
    if bound is None:
        downgrades.append("nobody said what the evidence has to be bound to: it may be of another run, or old")
    found = {FORMATS[str(document["format"])] for document in documents}
    lines += [
        _line("required", f"evidence of {platform}", "none", "a part of the machine did not speak")
        for platform in hardware.require
        if platform not in found
    ]
    return Appraisal(at.now, claims, tuple(lines), tuple(downgrades), tuple(unauthentic))


def _collateral(
    hardware: Hardware, capsule: Capsule | None, now: datetime, lines: list[Line], downgrades: list[str]
) -> Collateral:
    """The collateral, and when to judge; a capsule of others, of the future or too old counts as none."""
    at = Collateral(None, hardware, now)
    if capsule is None:
        return at
    try:
        max_age = timedelta(days=hardware.max_age_days)
        fresh = capsules.check(capsule, makers=hardware.makers, now=now, max_age=max_age)
    except VerificationError as error:
        lines.append(
            Line(
                rule=f"capsule.{error.code}", expected=str(error.expected), found=str(error.found), holds=False,
                why=error.advice or "collateral of somebody else, or of another time, proves nothing",
            )
        )  # fmt: skip
        return at
    if not fresh.expired:
        return replace(at, capsule=capsule)
    if hardware.stale == "as-of-capsule":
        downgrades.append(f"collateral has expired ({'; '.join(fresh.expired)}): judged as of {capsule.made}")
        return replace(at, capsule=capsule, now=validity.read_time(capsule.made))
    # Expired collateral that evidence does not need is no reason to refuse; what it needs, its platform refuses.
    return replace(at, capsule=capsule)


def _bound(platform: Platform, claims: Claims, bound: bytes | None, hardware: Hardware) -> Line:
    """Fields longer than what is bound are filled up with zeros."""
    found = bytes.fromhex(claims.bound)
    if bound is None:
        return Line(
            rule=f"{platform}.bound", expected="anything" if hardware.unsafe_unbound else "what the caller says",
            found=claims.bound, holds=hardware.unsafe_unbound, why="evidence of another run or machine is genuine too",
        )  # fmt: skip
    return Line(
        rule=f"{platform}.bound",
        expected=bound.hex(),
        found=claims.bound,
        holds=found == bound.ljust(len(found), b"\0"),
        why="evidence of another run or machine is genuine too",
    )


def _line(rule: str, expected: str, found: str, why: str) -> Line:
    return Line(rule=f"hardware.{rule}", expected=expected, found=found, holds=False, why=why)
