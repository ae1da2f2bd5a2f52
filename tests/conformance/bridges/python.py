"""Inspect and lm-eval beside this project, in a place of their own: `python -m tests.conformance.bridges.python`.

The environment sees the packages of the one that makes it, and this project, so that what is tested is what is here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT

HOME = ROOT / "build" / "bridges"
PYTHON = HOME / "bin" / "python"
PACKAGES = ("inspect-ai==0.3.285", "lm-eval==0.4.13")
STAMP = HOME / "ready"


def ensure() -> Path:
    """The environment's interpreter, installed now if it is not there."""
    if STAMP.is_file() and STAMP.read_text() == "\n".join(PACKAGES):
        return PYTHON
    subprocess.run([sys.executable, "-m", "venv", HOME], check=True)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    subprocess.run(pip, check=True)
    (site,) = HOME.glob("lib/python*/site-packages")
    (site / "vitrine.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    STAMP.write_text("\n".join(PACKAGES))
    return PYTHON


def installed() -> Path:
    """Its interpreter, for a test; one that needs it and has none is skipped."""
    if not STAMP.is_file() or STAMP.read_text() != "\n".join(PACKAGES):
        pytest.skip("no harnesses of others: python -m tests.conformance.bridges.python installs them")
    return PYTHON


def without_network() -> list[str]:
    """What a command begins with that is to have no network; nothing, where this host does not allow that."""
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    return alone if shutil.which("unshare") and subprocess.run([*alone, "true"]).returncode == 0 else []


if __name__ == "__main__":
    sys.stdout.write(f"{ensure()}\n")
