"""The verdict on evidence: without a line nothing was shown, and nothing that is missing passes in silence."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from attest import canonical
from attest.appraisal import Line, require
from attest.appraise import Appraisal, Hardware, appraise
from attest.errors import VerificationError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def line(rule: str, holds: bool = True) -> Line:
    return Line(rule=rule, expected="one", found="other", holds=holds, why="a reason")


@pytest.mark.parametrize(
    ("lines", "downgrades", "status"),
    [
        ((), (), "contraindicated"),
        ((), ("something",), "contraindicated"),
        ((line("a"),), (), "affirming"),
        ((line("a"),), ("something",), "warning"),
        ((line("a"), line("b", holds=False)), (), "contraindicated"),
        ((line("a", holds=False), line("b")), ("something",), "contraindicated"),
    ],
)
def test_the_status_follows_from_the_lines(lines: tuple[Line, ...], downgrades: tuple[str, ...], status: str) -> None:
    assert Appraisal(NOW, {}, lines, downgrades, ()).status == status


def test_the_first_line_that_does_not_hold_is_raised() -> None:
    require([line("a"), line("b")])
    with pytest.raises(VerificationError, match="appraisal/b"):
        require([line("a"), line("b", holds=False), line("c", holds=False)])


def judged(documents: list[Any], *, bound: bytes | None = b"", **table: Any) -> tuple[list[str], tuple[str, ...]]:
    """The rules that do not hold, and the downgrades."""
    hardware = canonical.validate(Hardware, table, "policy")
    found = appraise(documents, hardware, None, bound=bound, now=NOW)
    assert all(not each.holds for each in found.lines)
    return [each.rule for each in found.lines], found.downgrades


def test_no_evidence_and_evidence_of_others_are_lines() -> None:
    snp = {"format": "vitrine/sev-snp-evidence/v1"}
    assert judged([]) == (["hardware.evidence"], ())
    assert judged([], require=["tpm", "tdx"]) == (["hardware.evidence", "hardware.required", "hardware.required"], ())
    assert judged([snp]) == (["hardware.platform"], ())
    # What the policy does not accept is there all the same.
    assert judged([snp], require=["sev-snp", "tdx"]) == (["hardware.platform", "hardware.required"], ())


def test_somebody_who_knows_no_binding_is_told() -> None:
    (sentence,) = judged([], bound=None)[1]
    assert "nobody said what the evidence has to be bound to" in sentence
