"""The stock clients on a bundle of a lab made for the occasion; skipped, in one line, where a client is not here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.clients import matrix, stock_clients
from tests.conformance.clients.stock_clients import Missing


@pytest.mark.slow
def test_every_client_accepts_the_good_bundle_and_rejects_the_tampered(tmp_path: Path) -> None:
    good, forger = matrix.sample(tmp_path)
    public = forger.lab.path / "public"
    try:
        asked = matrix.clients(public / "trusted_root.json", public / "trust_config.json")
    except Missing as missing:
        pytest.skip(str(missing))
    assert matrix.run(good, asked, tmp_path, forger) == []


def test_our_verifier_rejects_every_variant(tmp_path: Path) -> None:
    good, forger = matrix.sample(tmp_path)
    ours = stock_clients.ours(forger.lab.path / "public" / "trusted_root.json")
    assert matrix.run(good, [ours], tmp_path, forger) == []


def test_variants_can_be_made_without_the_lab(tmp_path: Path) -> None:
    good, forger = matrix.sample(tmp_path)
    ours = stock_clients.ours(forger.lab.path / "public" / "trusted_root.json")
    assert matrix.run(good, [ours], tmp_path, None) == []
