"""Chooses, of all of NVIDIA's reference manifests in a capsule, those of one report's driver and VBIOS.

Whether they hold, and fit, is for `attest.nvgpu`: where none fits, the first one is handed on, to be refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from attest.nvgpu import layout, rim, xmldsig


def manifests(report: bytes, drivers: Sequence[bytes], vbioses: Sequence[bytes]) -> tuple[bytes | None, bytes | None]:
    """Driver's and VBIOS's manifest for a GPU's `report`; None where there is none at all.

    Raises `MalformedInput`, `Unsupported`.
    """
    versions = layout.read(report).opaque
    return _of(versions.driver_version, drivers), _of(versions.vbios_version, vbioses)


def _of(version: str, candidates: Sequence[bytes]) -> bytes | None:
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    fitting = (data for data in candidates if _version(data) == version.upper())
    return next(fitting, candidates[0])


def _version(data: bytes) -> str:
    """By what the manifest says of itself, unverified: it names the candidate, and proves nothing."""
    return rim.read(xmldsig.read(data, rim.WHAT).root).version.upper()
