"""What authenticated evidence of SEV-SNP says, in a form that can be recorded and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints

from attest import validity
from attest.canonical import Model
from attest.digest import Digest
from attest.manifest import Time
from attest.sevsnp.authenticate import Authenticated
from attest.sevsnp.certificates import Kind
from attest.sevsnp.layout import GuestFlag, PlatformFlag
from attest.sevsnp.tcb import Product, Tcb

Hex8 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""8 bytes as 16 lower-case hexadecimal digits."""
Hex16 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""16 bytes as 32 lower-case hexadecimal digits."""
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""32 bytes as 64 lower-case hexadecimal digits."""
Hex48 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
"""48 bytes as 96 lower-case hexadecimal digits."""
Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
"""64 bytes as 128 lower-case hexadecimal digits."""
Byte = Annotated[int, Field(ge=0, le=255)]
"""A number of 8 bits."""
UInt32 = Annotated[int, Field(ge=0, lt=1 << 32)]
"""A number of 32 bits."""


M = TypeVar("M", bound=Model)


class Firmware(Model):
    """A version of the SNP firmware."""

    major: Byte
    """Of the ABI."""
    minor: Byte
    """Of the ABI."""
    build: Byte
    """Of the firmware."""

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


class Abi(Model):
    """A version of the SEV-SNP ABI."""

    major: Byte = 0
    """Its major number."""
    minor: Byte = 0
    """Its minor number."""

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


class Processor(Model):
    """What CPUID says of the processor, extensions added."""

    family: Byte
    """25 for Milan and Genoa, 26 for Turin."""
    model: Byte
    """Its model."""
    stepping: Byte
    """Its stepping."""


class Claims(Model):
    """The claims of one report. Satisfies `attest.appraisal.Claims`."""

    platform: Literal["sev-snp"] = "sev-snp"
    """Which platform the evidence is of."""
    bound: Hex64
    """What the guest had bound into the report (`REPORT_DATA`)."""
    measurements: Mapping[str, Hex48]
    """`launch`: what the firmware measured before the guest's first instruction."""
    debug: bool
    """Whether the host may read and write the guest's memory through the firmware."""
    version: Annotated[int, Field(ge=2, le=5)]
    """Of the report."""
    product: Product
    """The processor's product line, by AMD's certificate."""
    processor: Processor | None = None
    """The processor, by the report; None before version 3."""
    signing_key: Kind
    """What kind of key signed."""
    provider: str | None = None
    """Whom a VLEK was lent to; None for a VCEK."""
    chip_id: Hex64 | None = None
    """The chip; None where the host masks it."""
    vmpl: UInt32
    """The privilege level within the guest that asked for the report; 0 is the highest."""
    guest_svn: UInt32
    """The guest's own security version."""
    family_id: Hex16
    """The guest's family, of its ID block; zeros without one."""
    image_id: Hex16
    """The guest's image, of its ID block; zeros without one."""
    guest_flags: tuple[GuestFlag, ...]
    """What the guest's policy allows the host, or requires of it; sorted."""
    guest_abi: Abi
    """The lowest version of the ABI that the guest's policy allows to run it."""
    platform_flags: tuple[PlatformFlag, ...]
    """How the platform is set up; sorted."""
    host_data: Hex32
    """What the host had bound at launch."""
    id_key_digest: Hex48 | None = None
    """SHA-384 of the key that signed the guest's ID block; None without one."""
    author_key_digest: Hex48 | None = None
    """SHA-384 of the key that signed the ID key; None without one."""
    id_block: bool
    """Whether the ID block itself was given, and verified."""
    report_id: Hex32
    """The guest's id, fresh with each launch."""
    migration_agent: Hex32 | None = None
    """The id of the guest that may migrate this one; None without one."""
    reported_tcb: Tcb
    """The versions that the signing key is derived from."""
    committed_tcb: Tcb
    """The versions below which the firmware cannot be rolled back."""
    current_tcb: Tcb
    """The versions that run."""
    launch_tcb: Tcb
    """The versions when the guest was launched or imported."""
    firmware: Firmware
    """The SNP firmware that runs."""
    committed_firmware: Firmware
    """The SNP firmware below which it cannot be rolled back."""
    launch_mitigations: Hex8 | None = None
    """Mitigations that were verified at launch, a bit each; None before version 5."""
    current_mitigations: Hex8 | None = None
    """Mitigations that are verified now, a bit each; None before version 5."""
    root: Digest
    """The fingerprint of the ARK that the evidence was authenticated with."""
    valid_until: Time
    """When the first ends of the certificates and revocation lists that were looked at."""
    skipped: tuple[str, ...]
    """What authentication did not look at, a sentence each."""


def claims(authenticated: Authenticated) -> Claims:
    """What `authenticated` says."""
    report = authenticated.report
    return Claims(
        bound=report.report_data.hex(),
        measurements={"launch": report.measurement.hex()},
        debug="debug" in report.guest_flags,
        version=report.version,
        product=authenticated.chip.product,
        processor=None if report.cpuid is None else _named(Processor, report.cpuid),
        signing_key=authenticated.chip.kind,
        provider=authenticated.chip.provider,
        chip_id=_unless(bytes(64), report.chip_id),
        vmpl=report.vmpl,
        guest_svn=report.guest_svn,
        family_id=report.family_id.hex(),
        image_id=report.image_id.hex(),
        guest_flags=tuple(sorted(report.guest_flags)),
        guest_abi=_named(Abi, report.abi),
        platform_flags=tuple(sorted(report.platform_flags)),
        host_data=report.host_data.hex(),
        id_key_digest=_unless(bytes(48), report.id_key_digest),
        author_key_digest=_unless(bytes(48), report.author_key_digest),
        id_block=authenticated.id_block,
        report_id=report.report_id.hex(),
        migration_agent=_unless(b"\xff" * 32, report.report_id_ma),
        reported_tcb=authenticated.reported_tcb,
        committed_tcb=authenticated.committed_tcb,
        current_tcb=authenticated.current_tcb,
        launch_tcb=authenticated.launch_tcb,
        firmware=_named(Firmware, report.current_firmware),
        committed_firmware=_named(Firmware, report.committed_firmware),
        launch_mitigations=_vector(report.launch_mitigations),
        current_mitigations=_vector(report.current_mitigations),
        root=authenticated.root,
        valid_until=validity.write_time(authenticated.valid_until),
        skipped=authenticated.skipped,
    )


def _unless(absent: bytes, found: bytes) -> str | None:
    return None if found == absent else found.hex()


def _named(model: type[M], numbers: tuple[int, ...]) -> M:
    return model(**dict(zip(model.model_fields, numbers, strict=True)))


def _vector(bits: int | None) -> str | None:
    return None if bits is None else f"{bits:016x}"
