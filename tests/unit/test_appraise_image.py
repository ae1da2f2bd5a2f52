"""Which image a machine booted: one of those that a relying party knows, and no older than it wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from attest import reference
from attest.appraise import Appraisal, image
from tests.tools import swtpm

KNOWN = reference.read((swtpm.RECORDED / "reference.json").read_bytes()).model_copy(update={"version": 5})
OTHER = KNOWN.model_copy(update={"image": "other", "registers": KNOWN.registers | {"11": "0" * 64}, "version": 9})


@dataclass(frozen=True)
class Said:
    """A TPM's claims, as far as an image is known by them."""

    measurements: dict[str, str] = field(
        default_factory=lambda: (
            {f"sha256:{register}": value for register, value in KNOWN.registers.items()}
            | {f"sha384:{register}": "00" * 48 for register in range(16)}
        )
    )


def found(*tpms: Any, platform: Any = "tpm") -> Appraisal:
    return Appraisal(datetime(2026, 1, 1, tzinfo=UTC), {platform: tpms} if tpms else {}, (), (), ())


def holds(appraisal: Appraisal, known: list[Any], minimum: int | None) -> dict[str, tuple[bool, str]]:
    """The rules that were added, whether each holds, and what was found."""
    return {line.rule: (line.holds, line.found) for line in image.judge(appraisal, known, minimum).lines}


def test_nothing_is_added_for_somebody_who_does_not_ask() -> None:
    before = found(Said())
    assert image.judge(before, [], None) is before


@pytest.mark.parametrize("known", [[KNOWN], [OTHER, KNOWN], [KNOWN, OTHER]])
def test_the_image_is_one_of_those_known(known: list[Any]) -> None:
    assert holds(found(Said()), known, None) == {"image.known": (True, KNOWN.image)}


@pytest.mark.parametrize(("minimum", "new_enough"), [(4, True), (5, True), (6, False), (0, True)])
def test_an_image_has_a_version(minimum: int, new_enough: bool) -> None:
    lines = holds(found(Said()), [OTHER, KNOWN], minimum)
    assert lines == {"image.known": (True, KNOWN.image), "image.version": (new_enough, "5")}
    bare = KNOWN.model_copy(update={"version": None})
    assert holds(found(Said()), [bare], minimum)["image.version"] == (False, "none")


def test_another_image_is_named_by_its_registers() -> None:
    lines = holds(found(Said()), [OTHER], 0)
    assert not lines["image.known"][0]
    assert "11" in lines["image.known"][1]
    assert lines["image.version"] == (False, "none")


@pytest.mark.parametrize("appraisal", [found(), found(Said(), platform="azure"), found(Said({"sha384:0": "00" * 48}))])
def test_without_registers_of_a_tpm_nothing_is_known(appraisal: Appraisal) -> None:
    for known in ([], [KNOWN]):
        assert not holds(appraisal, known, 0)["image.known"][0]
    assert holds(appraisal, [], 0)["image.known"][1] == "no registers of a TPM that are authentic"
    assert holds(found(Said()), [], 0)["image.known"] == (False, "nothing to compare with")


def test_the_lines_follow_those_that_were_there() -> None:
    first = image.judge(found(Said()), [OTHER], None)
    assert image.judge(first, [KNOWN], None).lines[:1] == first.lines
