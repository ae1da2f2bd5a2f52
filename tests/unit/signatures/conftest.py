"""A signed bundle, the lab that signed it, and who forges in its name: for the tests of signature and certificate."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.notary.lab import Lab
from attest.errors import VerificationError
from tests.conformance.clients import matrix
from tests.conformance.clients.tampering import Case, Forger


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Forger]:
    """A good bundle, and its lab's forger."""
    return matrix.sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def good(sample: tuple[Case, Forger]) -> Case:
    """The good bundle."""
    return sample[0]


@pytest.fixture(scope="module")
def lab(sample: tuple[Case, Forger]) -> Lab:
    """The lab that signed it."""
    return sample[1].lab


@pytest.fixture(scope="module")
def root(lab: Lab) -> bytes:
    """The lab's trusted root."""
    return lab.trusted_root


def refused(call: Callable[[], object]) -> str:
    """The layer and the code with which `call` is refused."""
    with pytest.raises(VerificationError) as caught:
        call()
    return f"{caught.value.layer}/{caught.value.code}"
