"""What a relying party requires of a guest on SEV-SNP, as data, and the comparison with claims.

measurements = ["96 hexadecimal digits"]        # launch measurements that are accepted, ...
id_keys = ["96 hexadecimal digits"]             # ... or keys (SHA-384) whose ID block vouches for the measurement
guest_allows = ["smt"]                          # what the guest's policy may allow its host
platform_requires = ["alias-check"]             # how the platform has to be set up
[minimum_tcb.Genoa]                             # a table for each product that is accepted
boot_loader = 10
tee = 0
snp = 25
microcode = 84

Everything that widens what a host can do is refused unless it is named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from attest.appraisal import Line
from attest.canonical import Model
from attest.sevsnp.certificates import Kind
from attest.sevsnp.claims import Abi, Claims, Firmware, Hex16, Hex32, Hex48, Hex64, UInt32
from attest.sevsnp.layout import PlatformFlag
from attest.sevsnp.tcb import Product, Tcb

Allowance = Literal["smt", "migration-agent", "cxl"]
"""What a guest's policy can allow its host. `debug` is one of them, and has its own name here: `unsafe_debug`."""
Requirement = Literal["single-socket", "aes-256-xts", "rapl-disabled", "ciphertext-hiding", "page-swap-disabled"]
"""What a guest's policy can require of its host; the firmware does not launch the guest otherwise."""

WHY_ALLOWED: dict[Allowance, str] = {
    "smt": "a sibling thread of the same core can watch the guest through what both share",
    "migration-agent": "a migration agent can move the guest, with its memory, to another machine",
    "cxl": "memory on CXL devices may hold the guest's pages",
}


class Policy(Model):
    """What is required. Either measurements or keys that vouch for them have to be named."""

    measurements: tuple[Hex48, ...] = ()
    """Launch measurements that are accepted. Any when empty, and a key is named below."""
    id_keys: tuple[Hex48, ...] = ()
    """SHA-384 of ID keys: the firmware launched only what one of them had signed. Any when empty."""
    author_keys: tuple[Hex48, ...] = ()
    """SHA-384 of author keys: one of them signed the ID key. Any when empty."""
    minimum_tcb: Annotated[Mapping[Product, Tcb], Field(min_length=1)]
    """The products that are accepted, and the lowest versions on each: reported, committed, current, at launch."""
    minimum_firmware: Firmware = Firmware(major=0, minor=0, build=0)
    """The lowest SNP firmware."""
    provisional_firmware: bool = False
    """Whether firmware is accepted that its host can still roll back."""
    signing_keys: tuple[Kind, ...] = ("vcek",)
    """Kinds of keys that are accepted."""
    providers: tuple[str, ...] = ()
    """Providers whose VLEKs are accepted."""
    chips: tuple[Hex64, ...] | None = None
    """Chips that are accepted; any when absent."""
    unsafe_debug: bool = False
    """Whether a guest is accepted that its host may look into: for tests only."""
    guest_allows: tuple[Allowance, ...] = ()
    """What the guest's policy may allow its host."""
    guest_requires: tuple[Requirement, ...] = ()
    """What the guest's policy has to require of its host."""
    minimum_abi: Abi = Abi()
    """The ABI that the guest's policy has to require at least."""
    platform_requires: tuple[PlatformFlag, ...] = ()
    """How the platform has to be set up."""
    vmpls: tuple[UInt32, ...] = (0,)
    """Privilege levels that may have asked for the report."""
    minimum_guest_svn: UInt32 = 0
    """The guest's lowest own security version."""
    family_id: Hex16 | None = None
    """The guest's family; any when absent."""
    image_id: Hex16 | None = None
    """The guest's image; any when absent."""
    host_data: Hex32 | None = None
    """What the host had bound at launch; anything when absent."""
    unsafe_without_revocation: bool = False
    """Whether AMD's revocation lists may have been left out."""

    @model_validator(mode="after")
    def _something_is_measured(self) -> Self:
        if not (self.measurements or self.id_keys or self.author_keys):
            raise ValueError("name measurements, id_keys or author_keys: without any, every guest would do")
        return self


def appraise(claims: Claims, policy: Policy) -> tuple[Line, ...]:
    """Compare `claims` with `policy`: a line for each rule, holding or not."""
    return tuple(_lines(claims, policy))


def _lines(claims: Claims, policy: Policy) -> Iterator[Line]:
    # 1. What runs, or who vouches for it.
    if policy.measurements:
        yield _one_of(
            "measurement", policy.measurements, claims.measurements["launch"], "another guest than a known one runs"
        )
    if policy.id_keys:
        yield _one_of("id-key", policy.id_keys, claims.id_key_digest, "nobody that is trusted vouches for the guest")
    if policy.author_keys:
        yield _one_of("author-key", policy.author_keys, claims.author_key_digest, "nobody trusted made the ID key")
    yield _line(
        "guest-svn", f"at least {policy.minimum_guest_svn}", claims.guest_svn,
        claims.guest_svn >= policy.minimum_guest_svn, "older guests have known faults",
    )  # fmt: skip
    for name in ("family_id", "image_id", "host_data"):
        expected, found = getattr(policy, name), getattr(claims, name)
        if expected is not None:
            yield _line(name.replace("_", "-"), expected, found, found == expected, "the guest is of another kind")
    # 2. On what: chip, versions of what protects it, set-up.
    minimum = policy.minimum_tcb.get(claims.product)
    yield _one_of("product", sorted(policy.minimum_tcb), claims.product, "nothing is known of its faults")
    for when in ("reported", "committed", "current", "launch"):
        tcb: Tcb = getattr(claims, f"{when}_tcb")
        yield _line(
            f"{when}-tcb", f"at least {minimum}", tcb, minimum is not None and tcb.at_least(minimum),
            "older versions have known faults, through which a host reads the guest or forges reports",
        )  # fmt: skip
    yield _line(
        "firmware", f"at least {policy.minimum_firmware}", claims.firmware,
        _numbers(claims.firmware) >= _numbers(policy.minimum_firmware), "older versions have known faults",
    )  # fmt: skip
    yield _line(
        "provisional-firmware", "firmware that cannot be rolled back",
        f"{claims.firmware} ({claims.current_tcb}) over {claims.committed_firmware} ({claims.committed_tcb})",
        policy.provisional_firmware
        or (claims.firmware, claims.current_tcb) == (claims.committed_firmware, claims.committed_tcb),
        "the host can go back to what was committed, with its faults, and keep the guest",
    )  # fmt: skip
    yield _one_of("signing-key", policy.signing_keys, claims.signing_key, "a VLEK says less of the chip than a VCEK")
    if claims.provider is not None:
        yield _one_of("provider", policy.providers, claims.provider, "the key was lent to somebody who is not trusted")
    if policy.chips is not None:
        yield _one_of("chip", policy.chips, claims.chip_id, "the machine is not a known one")
    yield _line(
        "platform", policy.platform_requires, claims.platform_flags,
        set(policy.platform_requires) <= set(claims.platform_flags), "the platform lacks a protection",
    )  # fmt: skip
    # 3. What the host may do to the guest.
    yield _line(
        "debug", "no debugging", "debugging" if claims.debug else "no debugging",
        policy.unsafe_debug or not claims.debug, "with debugging the host reads and writes the guest's memory",
    )  # fmt: skip
    for allowance, why in WHY_ALLOWED.items():
        allowed = allowance in claims.guest_flags
        yield _line(
            allowance, "allowed or not" if allowance in policy.guest_allows else "not allowed",
            "allowed" if allowed else "not allowed", not allowed or allowance in policy.guest_allows, why,
        )  # fmt: skip
    yield _line(
        "guest-policy", policy.guest_requires, claims.guest_flags,
        set(policy.guest_requires) <= set(claims.guest_flags), "the guest would also be launched without a protection",
    )  # fmt: skip
    yield _line(
        "guest-abi", f"at least {policy.minimum_abi}", claims.guest_abi,
        _numbers(claims.guest_abi) >= _numbers(policy.minimum_abi), "older versions of the ABI protect less",
    )  # fmt: skip
    yield _one_of("vmpl", policy.vmpls, claims.vmpl, "less privileged code of the guest asked for the report")
    # 4. Whether AMD still stands by its keys.
    yield _line(
        "revocation", "nothing skipped", "; ".join(claims.skipped) or "nothing skipped",
        policy.unsafe_without_revocation or not claims.skipped, "a revoked key may have signed a forged report",
    )  # fmt: skip


def _one_of(rule: str, accepted: Iterable[object], found: object, why: str) -> Line:
    accepted = tuple(accepted)
    return _line(rule, f"one of {', '.join(map(str, accepted)) or 'none'}", found, found in accepted, why)


def _line(rule: str, expected: object, found: object, holds: bool, why: str) -> Line:
    return Line(rule=f"sev-snp.{rule}", expected=_text(expected), found=_text(found), holds=holds, why=why)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _numbers(version: Firmware | Abi) -> tuple[int, ...]:
    return tuple(number for _, number in version)
