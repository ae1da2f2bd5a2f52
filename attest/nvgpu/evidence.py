"""Evidence of GPUs as it travels: a report with its certificates, alone or in NVIDIA's list of several.

The list is JSON: for each GPU its report and certificates in base64, and beside them architecture, versions and nonce,
which nobody signed: they are read, compared with nothing, and dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attest import canonical
from attest.canonical import Model
from attest.dsse import Base64
from attest.errors import MalformedInput

WHAT = "GPU evidence list"
MAX_BYTES = 1 << 20
MAX_GPUS = 64


@dataclass(frozen=True)
class Evidence:
    """What one GPU gave."""

    report: bytes
    """The attestation report: SPDM request and response."""
    certificates: bytes
    """The certificates of the key that signed it, leaf first, PEM."""


class Listed(Model):
    """One GPU in NVIDIA's list."""

    arch: str
    """Unsigned: `HOPPER`."""
    certificate: Base64
    """The certificates, PEM, in base64."""
    driver_version: str
    """Unsigned."""
    evidence: Base64
    """The report, in base64."""
    nonce: str
    """Unsigned."""
    vbios_version: str
    """Unsigned."""
    version: Literal["1.0"]
    """Of the list's format."""


def read_list(data: bytes) -> tuple[Evidence, ...]:
    """The evidence in NVIDIA's list. Raises `MalformedInput`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    items = canonical.loads(data, WHAT)
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_GPUS:
        raise MalformedInput(WHAT, f"expected a list of 1 to {MAX_GPUS} GPUs")
    listed = [canonical.validate(Listed, item, WHAT) for item in items]
    return tuple(Evidence(item.evidence, item.certificate) for item in listed)
