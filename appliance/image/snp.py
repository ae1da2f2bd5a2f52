"""Predicts the launch measurement of a confidential VM under AMD SEV-SNP: firmware, processors, and the boot file.

The processor measures the pages that a guest starts with: the firmware, a page of hashes that QEMU makes of the boot
file (`-kernel vitrine.efi`, `kernel-hashes=on`), and the first state of each virtual processor. The library
`sev-snp-measure` computes it; an optional extra, because only who releases images needs it.

Refused: firmware without a place for those hashes, because its measurement would say nothing about the image. The
firmware of Debian 12 is of that kind; OVMF built from `OvmfPkg/AmdSev/AmdSevX64.dsc` is the other.
"""

from __future__ import annotations

from pathlib import Path

from appliance.image import firmware as firmwares
from attest.canonical import validate
from attest.digest import digest_file
from attest.errors import MalformedInput, Unsupported
from attest.reference import SnpLaunch

GUEST_FEATURES = 0x1
"""SEV_FEATURES of a guest's processors: SNP, and nothing else. Some kernels give 0x21: swapped debug state too."""
MAX_MEASURED_BYTES = 64 << 20
"""Of pages beside the firmware: a few hundred are usual."""
WHAT = "SEV-SNP firmware"


def launch(
    boot_file: Path, firmware: Path, *, processor: str, processors: int, guest_features: int = GUEST_FEATURES
) -> SnpLaunch:
    """The measurement of booting `boot_file` by `firmware` on so many `processors` of QEMU's type `processor`.

    Raises `Unsupported` for firmware that does not measure the boot file and for an unknown processor,
    `MalformedInput` for firmware that is none, `EnvironmentProblem` without the library.
    """
    found = firmwares.read(firmware)
    from sevsnpmeasure import guest, ovmf, vcpu_types

    if processor not in vcpu_types.CPU_SIGS:
        raise Unsupported("processor", f"expected one of {', '.join(vcpu_types.CPU_SIGS)}, found {processor}")
    try:
        hashes = ovmf.SectionType.SNP_KERNEL_HASHES
        measures = found.is_sev_hashes_table_supported() and found.has_metadata_section(hashes)
        measured_bytes = sum(section.size for section in found.metadata_items())
    except (RuntimeError, ValueError) as error:
        raise MalformedInput(WHAT, f"expected UEFI firmware, found: {error}") from None
    if not measures:
        expected = "a table of kernel hashes and SNP metadata, as OVMF from OvmfPkg/AmdSev/AmdSevX64.dsc has them"
        raise Unsupported(WHAT, f"expected {expected}; without them it starts a boot file that nobody measured")
    if measured_bytes > MAX_MEASURED_BYTES:
        raise MalformedInput(WHAT, f"expected metadata of at most {MAX_MEASURED_BYTES} bytes, found {measured_bytes}")
    try:
        measured = guest.snp_calc_launch_digest(
            processors, vcpu_types.CPU_SIGS[processor], str(firmware), str(boot_file), "", "", guest_features, ""
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        raise MalformedInput(WHAT, f"expected metadata of pages, found: {error}") from None
    fields = {
        "platform": "sev-snp",
        "measurement": measured.hex(),
        "firmware": digest_file(firmware),
        "processor": processor,
        "processors": processors,
        "guest_features": guest_features,
    }
    return validate(SnpLaunch, fields, "launch measurement")
