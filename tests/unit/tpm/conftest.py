"""Where the real evidence of TPMs lies."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder(data: Path) -> Path:
    """The folder of it in the test data."""
    return data / "attestation" / "tpm"
