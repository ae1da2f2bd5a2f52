"""The default policies that come with the verifier, of a lab, an auditor and a partner: data in `policy/appraisal`.

They are strict: an auditor's refuses every bundle until it is filled in with whom that auditor trusts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

from attest.files import read_file
from attest.policy import MAX_BYTES

Name = Literal["lab", "auditor", "partner"]
"""Whose policy."""
NAMES: Final[tuple[Name, ...]] = get_args(Name)
_PACKAGE: Final = Path(__file__).resolve().parent


def path(name: Name) -> Path:
    """Where the policy lies: inside an installed package, or in a checkout beside it."""
    installed = _PACKAGE / "_data" / "appraisal"
    return (installed if installed.is_dir() else _PACKAGE.parent / "policy" / "appraisal") / f"{name}.toml"


def read(given: Path) -> bytes:
    """The text of a policy: of that name (`auditor`), or else in that file; a file of that name needs its whole path.

    Raises `MalformedInput` for a file that is not there or too long.
    """
    named = next((name for name in NAMES if str(given) == name), None)
    return read_file(given if named is None else path(named), MAX_BYTES)
