"""What an authenticated GPU report says, and how its measurements compare with NVIDIA's manifests."""

from __future__ import annotations

from typing import Literal

from attest.canonical import Model
from attest.nvgpu.authenticate import Authenticated

NVDEC0_BLOCK = 36
"""The block that counts only while the first video decoder is on (NVIDIA's entry 35)."""


class Mismatch(Model):
    """A measurement with another value than its manifest allows."""

    block: int
    """Its block's index, from 1."""
    found: str
    """Its value, hexadecimal digits; empty where the report has no such block."""
    allowed: tuple[str, ...]
    """The values of the manifest."""


class Claims(Model):
    """The claims of a GPU."""

    platform: Literal["nvidia-gpu"]
    """Which platform the evidence is of."""
    bound: str
    """The 32 bytes of nonce that whoever asked had signed, hexadecimal digits."""
    measurements: dict[str, str]
    """Each measurement block by its index, `1` ... `64`: hexadecimal digits."""
    debug: bool
    """Whether debugging is not ruled out. No field of a report says so: as in NVIDIA's own claims, it is ruled out by
    measurements that are all as in the manifests of driver and VBIOS."""
    model: str
    """The chip: `GH100 A01 GSP BROM`."""
    device: str
    """SHA-256 of the certificate of the chip's boot ROM: which GPU it is."""
    driver_version: str
    """As reported: `550.90.07`."""
    vbios_version: str
    """As reported: `96.00.9F.00.01`."""
    driver_rim_version: str | None
    """The version that the driver's manifest is of; None without one."""
    vbios_rim_version: str | None
    """The version that the VBIOS's manifest is of; None without one."""
    rim_products: tuple[str, ...]
    """The chips that the manifests are of."""
    matched: tuple[int, ...]
    """The blocks with a value that a manifest allows."""
    mismatched: tuple[Mismatch, ...]
    """Those with another."""
    uncovered: tuple[int, ...]
    """Those that no manifest speaks of."""
    protected_pcie: bool
    """Whether the link to other GPUs is in protected mode."""
    skipped: tuple[str, ...]
    """What authentication did not check because the caller said so."""


def claims(authenticated: Authenticated) -> Claims:
    """The claims of an authenticated report."""
    report, rims = authenticated.report, authenticated.manifests
    manifests = [manifest for manifest in (rims.driver, rims.vbios) if manifest]
    golden = {block: values for manifest in manifests for block, values in manifest.values.items()}
    if not report.opaque.nvdec0_enabled:
        golden.pop(NVDEC0_BLOCK, None)
    matched = [block for block, values in golden.items() if report.measurements.get(block) in values]
    mismatched = [
        Mismatch(
            block=block,
            found=report.measurements.get(block, b"").hex(),
            allowed=tuple(value.hex() for value in golden[block]),
        )
        for block in sorted(golden.keys() - set(matched))
    ]
    return Claims(
        platform="nvidia-gpu",
        bound=report.nonce.hex(),
        measurements={str(block): value.hex() for block, value in sorted(report.measurements.items())},
        debug=bool(mismatched) or not (rims.driver and rims.vbios and matched),
        model=authenticated.model,
        device=authenticated.device.hex(),
        driver_version=report.opaque.driver_version,
        vbios_version=report.opaque.vbios_version,
        driver_rim_version=rims.driver.version if rims.driver else None,
        vbios_rim_version=rims.vbios.version if rims.vbios else None,
        rim_products=tuple(manifest.product for manifest in manifests),
        matched=tuple(sorted(matched)),
        mismatched=tuple(mismatched),
        uncovered=tuple(sorted(report.measurements.keys() - golden.keys())),
        protected_pcie=report.opaque.protected_pcie,
        skipped=authenticated.skipped,
    )
