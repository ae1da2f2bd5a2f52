"""What a relying party requires of a confidential VM on Azure, as data, and the comparison with claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from attest import sevsnp
from attest.appraisal import Line
from attest.azure.claims import Claims, Measured
from attest.canonical import Model
from attest.digest import Hex32
from attest.tdx import Policy as TdxPolicy
from attest.tdx import appraise as appraise_tdx


class Policy(Model):
    """What is required. Hardware without a policy here is not accepted."""

    sev_snp: sevsnp.Policy | None = None
    """What is required of SEV-SNP, and of the paravisor that it measured; None: not accepted."""
    tdx: TdxPolicy | None = None
    """What is required of TDX, and of the paravisor that it measured; None: not accepted."""
    registers: Annotated[Mapping[Measured, tuple[Hex32, ...]], Field(min_length=1)]
    """What the vTPM's registers may hold."""
    secure_boot: bool = True
    """Whether the firmware has to start only signed boot loaders."""
    console: bool = False
    """Whether a serial console is accepted."""


def appraise(claims: Claims, policy: Policy) -> tuple[Line, ...]:
    """Compare `claims` with `policy`: a line for each rule, holding or not; the hardware's lines come first."""
    return tuple(_lines(claims, policy))


def _lines(claims: Claims, policy: Policy) -> Iterator[Line]:
    if claims.sev_snp is not None and policy.sev_snp is not None:
        yield from sevsnp.appraise(claims.sev_snp, policy.sev_snp)
    elif claims.tdx is not None and policy.tdx is not None:
        yield from appraise_tdx(claims.tdx, policy.tdx)
    else:
        yield _line("hardware", "hardware that the policy speaks of", claims.platform, False, "nothing vouches for it")
    for register, accepted in policy.registers.items():
        found = claims.measurements.get(register, "not quoted")
        yield _line(register, f"one of {', '.join(accepted)}", found, found in accepted, "something else was booted")
    yield _line(
        "secure-boot", "on" if policy.secure_boot else "on or off", "on" if claims.secure_boot else "off",
        claims.secure_boot or not policy.secure_boot, "the firmware starts unsigned boot loaders",
    )  # fmt: skip
    yield _line(
        "console", "on or off" if policy.console else "off", "on" if claims.console else "off",
        policy.console or not claims.console, "the host reads and types at the console",
    )  # fmt: skip


def _line(rule: str, expected: str, found: str, holds: bool, why: str) -> Line:
    return Line(rule=f"azure.{rule}", expected=expected, found=found, holds=holds, why=why)
