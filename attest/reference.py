"""Reference values of the measured virtual machine: what its TPM must hold after a boot, known without one.

The builder writes them from the image's files alone (`policy/reference/`); a verifier compares them with the registers
that a quote carries. Registers 0 to 3, 5 and 6 belong to the host's firmware and its settings and are not predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from attest import canonical
from attest.canonical import Model
from attest.digest import Digest, Hex32, raw, sha256
from attest.errors import MalformedInput, VerificationError

START = bytes(32)
MAX_BYTES = 1 << 20
REGISTERS = 24
IMAGE = (4, 9, 11)
"""The registers that the image alone decides."""
APPLICATION = 15
"""The register that what is run is extended into; everything below it belongs to the boot."""
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,2000}$")]
Register = Annotated[str, StringConstraints(pattern=r"^(0|[1-9]|1[0-9]|2[0-3])$")]
"""The number of a register of a TPM, as text: a key of JSON."""


class Measurement(Model):
    """One event: a register is extended by a digest, `new = SHA-256(old || digest)`."""

    register_: Annotated[int, Field(ge=0, lt=REGISTERS, alias="register")]
    """The register; `register` on the wire."""
    what: Text
    """What is measured, and by whom."""
    digest: Digest
    """By what it is extended."""


class ImageFile(Model):
    """One file of the built image."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
    """Its name in the image's folder."""
    digest: Digest
    """SHA-256 of it."""
    size_bytes: Annotated[int, Field(gt=0)]
    """Its size."""


class SnpLaunch(Model):
    """What an AMD processor measures of a confidential VM before its first instruction, where one boots the image."""

    platform: Literal["sev-snp"]
    """Whose processor."""
    measurement: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
    """SHA-384, hex: MEASUREMENT of an attestation report (SEV-SNP ABI specification, table 23)."""
    firmware: Digest
    """SHA-256 of the firmware; it checks the boot file against a digest that is part of the measurement."""
    processor: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,32}$")]
    """The type of the virtual processors, as QEMU names it."""
    processors: Annotated[int, Field(ge=1, le=512)]
    """How many there are."""
    guest_features: Annotated[int, Field(ge=0, lt=2**64)]
    """SEV_FEATURES of each of them."""


class TdxLaunch(Model):
    """What the TDX module measures of a trust domain before its first instruction: the firmware, not the image."""

    platform: Literal["tdx"]
    """Whose processor."""
    measurement: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
    """SHA-384, hex: MRTD of a quote (Intel TDX Module ABI specification, TDREPORT_STRUCT)."""
    firmware: Digest
    """SHA-256 of the firmware; it measures the boot file into RTMRs."""
    order: Literal["page", "section"]
    """Whether the host's kernel measures a page when it adds it, or a section when all of its pages are added."""


Launch = Annotated[SnpLaunch | TdxLaunch, Field(discriminator="platform")]
"""A launch measurement of a confidential VM."""


class ReferenceValues(Model):
    """What one image measures to."""

    format: Literal["vitrine/reference-values/v1"] = "vitrine/reference-values/v1"
    """Format and version."""
    image: Text
    """The image's name."""
    version: Annotated[int, Field(ge=0, lt=2**33)] | None = None
    """The image's version, which grows: the recipe's time in seconds. It is part of the boot file's release text."""
    architecture: Literal["amd64"]
    """The processor that it boots on."""
    files: tuple[ImageFile, ...]
    """The files that decide the values: the boot file and the root disk."""
    command_line: Text
    """The kernel's command line; it names the root disk's verity descriptor."""
    parts: dict[str, Digest]
    """SHA-256 of each part of the boot file, by section: `.linux`, `.initrd`, `.cmdline`, `.osrel`."""
    secure_boot: bool
    """Whether the values are those of a host with Secure Boot on."""
    events: Annotated[tuple[Measurement, ...], Field(min_length=1, max_length=64)]
    """The measurements, in order within each register."""
    registers: dict[Register, Hex32]
    """The values that the events give, and 64 zeros for registers that have to stay as they are."""
    launches: Annotated[tuple[Launch, ...], Field(max_length=16)] = ()
    """The launch measurements of confidential VMs that were asked for."""

    @model_validator(mode="after")
    def _registers_follow(self) -> Self:
        replayed = replay(self.events)
        for name, value in self.registers.items():
            if value != replayed.get(int(name), START).hex():
                raise ValueError(f"expected register {name} to be what the events give, found {value}")
        if missing := sorted(set(replayed) - {int(name) for name in self.registers}):
            raise ValueError(f"expected a value for each register with an event, found none for {missing}")
        return self


def read(data: bytes) -> ReferenceValues:
    """The reference values in `data`, JSON. Raises `MalformedInput`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput("reference values", f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    return canonical.parse(ReferenceValues, data, "reference values")


def image_of(registers: Mapping[str, str]) -> str:
    """What a certificate's identity says of a machine: SHA-256 over the canonical JSON of the registers of its image.

    These are registers 4, 9 and 11 (boot path, kernel with command line and root disk, boot file); 64 digits.
    """
    return sha256(canonical.dumps({str(register): registers[str(register)] for register in IMAGE})).hex()


def replay(events: tuple[Measurement, ...]) -> dict[int, bytes]:
    """The registers that `events` extend, and their values of 32 bytes."""
    values: dict[int, bytes] = {}
    for event in events:
        values[event.register_] = sha256(values.get(event.register_, START), raw(event.digest))
    return values


def compare(reference: ReferenceValues, found: dict[int, bytes]) -> None:
    """Raises `VerificationError` (layer `reference`) that names every register which `found` has otherwise."""
    in_order = sorted(reference.registers.items(), key=lambda item: int(item[0]))
    differ = [name for name, value in in_order if found.get(int(name), b"").hex() != value]
    if differ:
        raise VerificationError(
            "reference",
            "registers",
            expected=", ".join(f"{name}={reference.registers[name]}" for name in differ),
            found=", ".join(f"{name}={found.get(int(name), b'').hex() or 'nothing'}" for name in differ),
            advice="; ".join(MEANING.get(int(name), f"register {name} has to stay empty") for name in differ),
        )


def require_version(reference: ReferenceValues, minimum: int) -> None:
    """Raises `VerificationError` (layer `reference`) unless the image is of the version `minimum` or a later one."""
    if reference.version is None or reference.version < minimum:
        found = "none" if reference.version is None else reference.version
        advice = "this image is older than the policy allows: what was repaired since then is not in it"
        raise VerificationError("reference", "version", expected=f"at least {minimum}", found=found, advice=advice)


MEANING = {
    4: "register 4: another boot file was started, or another one before it",
    7: "register 7: other Secure Boot settings or keys",
    9: "register 9: another initramfs or command line (and with it root disk)",
    11: "register 11: another kernel, initramfs, command line (and with it root disk) or release text",
    12: "register 12: the host added to the command line",
    13: "register 13: the host added system extensions",
}
"""What a difference in a register means."""
