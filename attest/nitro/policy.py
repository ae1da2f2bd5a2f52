"""What a relying party requires of a Nitro enclave, and the comparison."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from attest.appraisal import Line
from attest.canonical import Model
from attest.nitro.claims import Claims

Register = Annotated[str, StringConstraints(pattern=r"^PCR([0-9]|[12][0-9]|3[01])$")]
"""`PCR0` ... `PCR31`."""
Value = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$")]
"""A register's value: 32, 48 or 64 bytes as lower-case hexadecimal digits."""
IDENTITY = ("PCR0", "PCR8")
"""The registers that say which image it is, or who signed it."""


class Policy(Model):
    """The Nitro part of an appraisal policy. What it leaves out is refused."""

    measurements: dict[Register, Annotated[tuple[Value, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """The values allowed of each register; at least one of PCR0 (image) and PCR8 (signer of the image)."""
    unsafe_any_measurement: bool = False
    """Accept an enclave of any image."""
    unsafe_allow_debug: bool = False
    """Accept an enclave in debug mode."""
    unsafe_without_revocation: bool = False
    """Accept evidence whose certificates were not checked for revocation."""


def appraise(claims: Claims, policy: Policy) -> tuple[Line, ...]:
    """One line for each rule of the policy."""
    named = [register for register in IDENTITY if register in policy.measurements]
    return (
        Line(
            rule="nitro.debug",
            expected="debug or not" if policy.unsafe_allow_debug else "no debug mode",
            found="debug mode" if claims.debug else "no debug mode",
            holds=policy.unsafe_allow_debug or not claims.debug,
            why="whoever runs the host reads the console of an enclave in debug mode, which measures nothing",
        ),
        Line(
            rule="nitro.revocation",
            expected="checked or not" if policy.unsafe_without_revocation else "checked",
            found="; ".join(claims.skipped) or "checked",
            holds=policy.unsafe_without_revocation or not claims.skipped,
            why="a key that leaked is only found on a revocation list",
        ),
        Line(
            rule="nitro.identity",
            expected="any image" if policy.unsafe_any_measurement else f"a policy that names {' or '.join(IDENTITY)}",
            found=", ".join(named) or "none",
            holds=policy.unsafe_any_measurement or bool(named),
            why="an enclave of any image is genuine too",
        ),
        *(_register(claims, register, values) for register, values in sorted(policy.measurements.items())),
    )


def _register(claims: Claims, register: str, values: tuple[str, ...]) -> Line:
    found = claims.measurements.get(register, "none")
    return Line(
        rule=f"nitro.{register.lower()}",
        expected=" or ".join(values),
        found=found,
        holds=found in values,
        why="another value is another image, kernel, role or signer",
    )
