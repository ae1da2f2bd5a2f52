"""Opens firmware that a confidential VM starts with: OVMF's, whose last page ends in a table of GUIDs.

The library `sev-snp-measure` reads the table; an optional extra, because only who releases images needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attest.errors import EnvironmentProblem, MalformedInput

if TYPE_CHECKING:
    from sevsnpmeasure.ovmf import OVMF

MAX_BYTES = 16 << 20
PAGE_BYTES = 4096
WHAT = "firmware"


def read(path: Path) -> OVMF:
    """The firmware at `path`, its table and SEV metadata read.

    Raises `MalformedInput` for a file that is none, `EnvironmentProblem` without the file or the library.
    """
    try:
        from sevsnpmeasure.ovmf import OVMF
    except ImportError:
        raise EnvironmentProblem("the launch measurement needs a library: pip install 'vitrine[snp]'") from None
    try:
        size = path.stat().st_size
    except OSError as error:
        raise EnvironmentProblem(f"cannot read the firmware {path}: {error.strerror}") from None
    if not PAGE_BYTES <= size <= MAX_BYTES or size % PAGE_BYTES:
        raise MalformedInput(WHAT, f"expected whole pages, at most {MAX_BYTES} bytes, found {size}")
    try:
        return OVMF(str(path))
    except (RuntimeError, ValueError) as error:
        raise MalformedInput(WHAT, f"expected UEFI firmware, found: {error}") from None
