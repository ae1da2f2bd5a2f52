"""What a relying party requires of an Intel quote, as data, and the comparison: one line a rule.

What is not named is refused: at least one root and one measurement have to be. Whatever opens a way for the host
carries `unsafe_` in its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from attest.appraisal import Line
from attest.canonical import MAX_INTEGER, Model
from attest.digest import Digest
from attest.tdx.claims import IntelClaims
from attest.tdx.collateral import Advisory

_Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){1,64}$")]
_Flags = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{1,30}$")]
_Register = Literal["rtmr0", "rtmr1", "rtmr2", "rtmr3"]
Acceptable = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]
"""Statuses that a policy can accept: all but `Revoked`."""


class Policy(Model):
    """What is required. Every list says what is allowed."""

    platforms: tuple[Literal["tdx", "sgx"], ...] = ("tdx",)
    """Trust domains, enclaves."""
    roots: tuple[Digest, ...] = ()
    """SHA-256 of Intel's root certificate (DER). In a policy file: the table `hardware.roots`."""
    measurements: Mapping[_Name, tuple[_Hex, ...]] = Field(min_length=1)
    """By name (`mrtd`, `rtmr0` ...), which values may be found."""
    minimum_evaluation_data_number: int = Field(ge=1, le=MAX_INTEGER)
    """How recent Intel's evaluation has to be (`tcbEvaluationDataNumber`)."""
    tcb_statuses: tuple[Acceptable, ...] = ("UpToDate",)
    """What Intel may say of the platform."""
    advisories: tuple[Advisory, ...] = ()
    """Intel's advisories that were looked at and are acceptable."""
    attributes: tuple[_Flags, ...] | None = None
    """Attributes as a whole, 8 bytes; None leaves bits that have no rule of their own open."""
    features: tuple[_Flags, ...] | None = None
    """Processor features (XFAM, XFRM), 8 bytes; None leaves them open."""
    explained: tuple[_Register, ...] = ()
    """Registers that an event log has to replay to."""
    unsafe_debug: bool = False
    """Accept what the host can look into."""
    unsafe_sept_ve_enabled: bool = False
    """Accept a domain whose memory the host can make vanish unnoticed."""
    unsafe_migratable: bool = False
    """Accept a domain that may be moved."""
    unsafe_skipped: bool = False
    """Accept that revocation or the TCB was not looked at."""


def appraise(claims: IntelClaims, policy: Policy) -> tuple[Line, ...]:
    """One line for each rule, whether it holds or not. The layer of the names is `tdx`, for enclaves too."""
    lines = [
        _among("platform", claims.platform, policy.platforms, "An enclave is not a machine."),
        _among("root", claims.root, policy.roots, "Only Intel's own root speaks for Intel's processors."),
        _flag("skipped", bool(claims.skipped), policy.unsafe_skipped, "What was not checked may be broken."),
        *_tcb(claims, policy),
        _flag("debug", claims.debug, policy.unsafe_debug, "Whoever runs the host can read and change a debuggee."),
    ]
    if claims.platform == "tdx":
        enabled, migratable = not claims.sept_ve_disable, bool(claims.migratable)
        moved = "A migration domain decides where a migratable domain runs."
        unnoticed = "A domain has to notice when the host takes a page of its memory away."
        lines.append(_flag("sept-ve-enabled", enabled, policy.unsafe_sept_ve_enabled, unnoticed))
        lines.append(_flag("migratable", migratable, policy.unsafe_migratable, moved))
    if policy.attributes is not None:
        lines.append(_among("attributes", claims.attributes, policy.attributes, "Each bit weakens or names a feature."))
    if policy.features is not None:
        lines.append(_among("features", claims.features, policy.features, "Features change what code computes."))
    for name, allowed in policy.measurements.items():
        found = claims.measurements.get(name, "none")
        lines.append(_among(f"measurement.{name}", found, allowed, "Only code that was reviewed is trusted."))
    for register in policy.explained:
        holds = register in claims.explained
        found = "explained" if holds else "not explained"
        why = "A register says what ran only by the events that lead to it."
        lines.append(_line(f"explained.{register}", "explained by an event log", found, holds=holds, why=why))
    return tuple(lines)


def _tcb(claims: IntelClaims, policy: Policy) -> Iterable[Line]:
    """Nothing where the TCB was not looked at: the rule `skipped` speaks of that."""
    if claims.tcb is None:
        return
    yield _among("tcb-status", claims.tcb.status, policy.tcb_statuses, "Known flaws of a platform break its isolation.")
    others = [advisory for advisory in claims.tcb.advisories if advisory not in policy.advisories]
    yield _line(
        "advisories",
        f"none but {', '.join(policy.advisories)}" if policy.advisories else "none",
        ", ".join(others) or "none",
        holds=not others,
        why="Each advisory is a flaw that somebody has to have judged.",
    )
    found, least = claims.tcb.evaluation_data_number, policy.minimum_evaluation_data_number
    why = "An old evaluation does not know new flaws."
    yield _line("evaluation-data-number", f"at least {least}", str(found), holds=found >= least, why=why)


def _among(rule: str, found: str, allowed: Iterable[str], why: str) -> Line:
    allowed = tuple(allowed)
    return _line(rule, " or ".join(allowed) or "nothing", found, holds=found in allowed, why=why)


def _flag(rule: str, found: bool, accepted: bool, why: str) -> Line:
    expected = "yes or no" if accepted else "no"
    return _line(rule, expected, "yes" if found else "no", holds=accepted or not found, why=why)


def _line(rule: str, expected: str, found: str, *, holds: bool, why: str) -> Line:
    return Line(rule=f"tdx.{rule}", expected=expected, found=found, holds=holds, why=why)
