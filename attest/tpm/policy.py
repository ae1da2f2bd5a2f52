"""What a relying party requires of a TPM's evidence, and whether it is so.

The default is strict: a chip whose manufacturer vouches for it, nothing left unchecked, no debugger, Secure Boot, and
the firmware's registers quoted and explained. A policy without `registers` or `programs` knows no image: it says what
kind of machine spoke, not what ran on it.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from attest.appraisal import Line
from attest.canonical import Model
from attest.digest import Hex32
from attest.tpm.claims import Claims, Kind
from attest.tpm.evidence import Register, Value

FIRMWARE: Final = (0, 1, 2, 3, 4, 5, 6, 7)
EXPLANATIONS: Final = ("event-log", "ima-list", "untouched")
"""What explains a register; one of the firmware's is extended at every boot, so there only the log does."""
MAX_SHOWN: Final = 8

Index = Annotated[int, Field(ge=0, le=23)]
Manufacturer = Annotated[str, StringConstraints(pattern=r"^[0-9A-F]{8}$")]


class CounterRule(Model):
    """Where the TPM's counter has to stand."""

    index: Annotated[int, Field(ge=0x01000000, le=0x01FFFFFF)]
    """The counter's index."""
    at_least: Annotated[int, Field(ge=0)]
    """The lowest value that is accepted."""


class Policy(Model):
    """The section `tpm` of an appraisal policy."""

    kinds: tuple[Kind, ...] = ("hardware",)
    """Which kinds of TPM are accepted."""
    manufacturers: tuple[Manufacturer, ...] | None = None
    """Manufacturers that are accepted, by their number in the TCG's registry; any when absent."""
    unsafe_skipped: bool = False
    """Whether evidence is accepted of which something was not checked."""
    unsafe_debug: bool = False
    """Whether firmware with its debugger on is accepted."""
    bank: Literal["sha256", "sha384", "sha512"] = "sha256"
    """The bank that all rules are about."""
    quoted: tuple[Index, ...] = FIRMWARE
    """Registers that have to be quoted."""
    explained: tuple[Index, ...] = FIRMWARE
    """Registers that a log has to explain to the last bit."""
    registers: dict[Register, tuple[Value, ...]] = Field(default_factory=dict)
    """Values that are accepted, by register."""
    secure_boot: bool = True
    """Whether the firmware had to check signatures."""
    revoked: tuple[Hex32, ...] = ()
    """What the firmware had to refuse: digests that its `dbx` has to hold."""
    programs: tuple[Value, ...] | None = None
    """Authenticode digests of the programs that the firmware may have started; any when absent."""
    files: tuple[str, ...] | None = None
    """Digests (`sha256:hex`) of the files that the kernel may have measured; any when absent."""
    counter: CounterRule | None = None
    """Where the counter has to stand."""


def appraise(claims: Claims, policy: Policy) -> tuple[Line, ...]:
    """Each rule of `policy`, applied."""
    boot = claims.boot if claims.bank == policy.bank else None
    quoted = [register for register in policy.quoted if f"{policy.bank}:{register}" not in claims.measurements]
    unexplained = [
        register
        for register in policy.explained
        if claims.explained.get(f"{policy.bank}:{register}") not in EXPLANATIONS[: 1 if register in FIRMWARE else None]
    ]
    lines = [
        _line(
            "kind", " or ".join(policy.kinds), claims.kind, claims.kind in policy.kinds,
            "A TPM that is a program is as honest as the host that runs it.",
        ),
        _line(
            "skipped", "nothing left unchecked", _show(claims.skipped), policy.unsafe_skipped or not claims.skipped,
            "What was not checked may be false.",
        ),
        _line(
            "debug", "any" if policy.unsafe_debug else "no debugger", "a debugger" if claims.debug else "no debugger",
            policy.unsafe_debug or not claims.debug,
            "A debugger of the firmware changes what is run after it was measured.",
        ),
        _line(
            "quoted", f"{policy.bank} registers {_show(policy.quoted)}", f"without {_show(quoted)}", not quoted,
            "A register that is not quoted can hold anything.",
        ),
        _line(
            "explained", f"{policy.bank} registers {_show(policy.explained)}", f"without {_show(unexplained)}",
            not unexplained, "A value that no log explains says that something was measured, not what.",
        ),
    ]  # fmt: skip
    if policy.manufacturers is not None:
        lines.append(
            _line(
                "manufacturer", _show(policy.manufacturers), claims.manufacturer or "none",
                claims.manufacturer in policy.manufacturers, "Only these manufacturers' chips are trusted.",
            )
        )  # fmt: skip
    for register, allowed in policy.registers.items():
        found = claims.measurements.get(f"{policy.bank}:{register}")
        lines.append(
            _line(
                f"register-{register}", _show(allowed), found or "none", found in allowed,
                "Another value means that something else was started, or with other settings.",
            )
        )  # fmt: skip
    if policy.secure_boot:
        state = None if boot is None else boot.secure_boot
        lines.append(
            _line(
                "secure-boot", "on", {True: "on", False: "off", None: "not known"}[state], state is True,
                "Without it the firmware starts what nobody signed.",
            )
        )  # fmt: skip
    if policy.revoked:
        held = () if boot is None else boot.lists.get("dbx", ())
        missing = sorted(set(policy.revoked) - set(held))
        lines.append(
            _line(
                "revoked", f"a dbx with {len(policy.revoked)} digests", f"without {_show(missing)}", not missing,
                "The firmware would start programs that are known to be unsafe.",
            )
        )  # fmt: skip
    if policy.programs is not None:
        started = None if boot is None else [program.digest for program in boot.programs]
        other = sorted(set(started or ()) - set(policy.programs))
        lines.append(
            _line(
                "programs", _show(policy.programs), "not known" if started is None else f"besides {_show(other)}",
                bool(started) and not other, "A program that was started before the system can change it.",
            )
        )  # fmt: skip
    if policy.files is not None:
        known = frozenset(policy.files)
        other = [file.path for file in claims.files if file.violation or file.digest not in known]
        lines.append(
            _line(
                "files", f"{len(policy.files)} known files", f"{len(claims.files)} files, besides {_show(other)}",
                bool(claims.files) and not other, "A file was used that is not known, or could change.",
            )
        )  # fmt: skip
    if policy.counter is not None:
        counter = claims.counter
        holds = (
            counter is not None and counter.index == policy.counter.index and counter.value >= policy.counter.at_least
        )
        lines.append(
            _line(
                "counter", f"{policy.counter.index:#x} at least {policy.counter.at_least}",
                "none" if counter is None else f"{counter.index:#x} at {counter.value}", holds,
                "An older state of the machine, or another machine, stands lower.",
            )
        )  # fmt: skip
    return tuple(lines)


def _line(rule: str, expected: str, found: str, holds: bool, why: str) -> Line:
    return Line(rule=f"tpm.{rule}", expected=expected, found=found, holds=holds, why=why)


def _show(items: tuple[object, ...] | list[object] | list[int] | list[str]) -> str:
    shown = ", ".join(str(item) for item in items[:MAX_SHOWN])
    return f"{shown} and {len(items) - MAX_SHOWN} more" if len(items) > MAX_SHOWN else shown or "nothing"
