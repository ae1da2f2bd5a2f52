"""Compares our launch measurement of TDX firmware with what others publish for the same file.

    python -m tests.conformance.tdx_launch OVMF.fd

The firmware is not fetched: it is `/usr/share/ovmf/OVMF.fd` of Ubuntu's package ovmf of the version that is named.
"""

import sys
from pathlib import Path

from appliance.image import tdx
from attest import console

PUBLISHED = {
    "sha256:9e807cb2cd4313406a3aa4becc0836671a5c64ca7bdc08a45e15260184b446bf": (
        "ovmf 2025.02-3ubuntu2, by virtee/tdx-measure (tests/fixtures); Tinfoil's machines (QEMU 10) quote it",
        "7357a10d2e2724dffe68813e3cc4cfcde6814d749f2fb62e3953e54f6e0b50a219786afe2cd478f684b52c61837e1114",
    ),
}
"""By SHA-256 of the firmware: its package, who says so, and the MRTD of a host that measures page by page."""


def main(path: Path) -> int:
    """0 where the file is known and measures to what is published, 1 otherwise."""
    found = tdx.launch(path)
    if found.firmware not in PUBLISHED:
        console.OUT.print(f"expected one of {', '.join(PUBLISHED)}, found {found.firmware}")
        return 1
    what, expected = PUBLISHED[found.firmware]
    console.OUT.print(f"{what}: {'as published' if found.measurement == expected else 'differs'}: {found.measurement}")
    return int(found.measurement != expected)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
