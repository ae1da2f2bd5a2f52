"""The self-test's report: whole or refused, and its class follows from its cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from attest import canonical, determinism
from attest.determinism import CELLS, SelfTest
from attest.errors import MalformedInput, VerificationError
from tests.tools.manifests import self_test


def read(value: dict[str, Any]) -> SelfTest:
    return determinism.read(canonical.dumps(value), "m")


def test_the_class_follows_from_the_cells() -> None:
    exact, varying = read(self_test("m")), read(self_test("m", mates=1, mates_decode=96))
    assert (exact.numerics_class, exact.differing) == ("exact", ())
    assert (varying.numerics_class, varying.differing) == ("varies", ("mates", "mates-decode"))
    determinism.require_exact(exact)
    with pytest.raises(VerificationError) as caught:
        determinism.require_exact(varying)
    assert (caught.value.layer, caught.value.code) == ("numerics", "self-test")
    assert "mates-decode" in caught.value.found


def test_every_cell_is_documented() -> None:
    assert len(CELLS) == 9
    assert all(CELLS.values())


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(model="n"),
        lambda value: value["cells"].pop(),
        lambda value: value["cells"].pop(0),
        lambda value: value["cells"].append(value["cells"][0]),
        lambda value: value["cells"].reverse(),
        lambda value: value["cells"].clear(),
        lambda value: value["cells"][0].update(rows=0),
        lambda value: value["cells"][0].update(differing=-1),
        lambda value: value["cells"][0].update(differing=97),
        lambda value: value["cells"][0].update(cell="other"),
        lambda value: value.update(fingerprint="sha256:0"),
        lambda value: value.update(numerics_class="exact"),
        lambda value: value.pop("fingerprint"),
    ],
)
def test_a_report_out_of_form_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    value = self_test("m")
    change(value)
    with pytest.raises(MalformedInput):
        read(value)
