"""Evidence of a synthetic AMD processor with its collateral: good, until a test changes something."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from attest.digest import digest_of
from attest.errors import VerificationError
from attest.sevsnp import Authenticated, Endorsements, Evidence, authenticate
from tests.fakes import sevsnp as fake
from tests.fakes.sevsnp import NOW, Chip, Vendor


@dataclass
class Scene:
    """Evidence and collateral that are good, until a test changes something."""

    chip: Chip = field(default_factory=Chip)
    vendor: Vendor = field(default_factory=Vendor)
    report: dict[str, Any] = field(default_factory=dict)
    leaf: dict[str, Any] = field(default_factory=dict)
    ark: bytes = b""
    ask: bytes = b""
    crls: tuple[bytes, ...] | None = None
    more: tuple[bytes, ...] = ()
    now: datetime = NOW
    roots: frozenset[str] | None = None
    block: dict[str, Any] | None = None
    authentication: dict[str, Any] = field(default_factory=dict)
    unsafe: bool = False

    def evidence(self) -> Evidence:
        """What the chip shows."""
        report = self.chip.report(**self.report)
        found = Evidence(report=report, certificate=self.vendor.chip_certificate(self.chip, **self.leaf))
        if self.block is None:
            return found
        block = fake.id_block(report, **self.block)
        authentication = fake.id_authentication(block, **self.authentication)
        return found.model_copy(update={"id_block": block, "id_authentication": authentication})

    def endorsements(self) -> Endorsements:
        """What its maker publishes."""
        ask = self.ask or (self.vendor.asvk if self.chip.kind == "vlek" else self.vendor.ask)
        crls = (self.vendor.crl(),) if self.crls is None else self.crls
        return Endorsements((self.ark or self.vendor.ark, ask, *self.more), crls)

    def decide(self) -> Authenticated:
        """The verifier's word on it."""
        endorsements = self.endorsements()
        roots = frozenset({digest_of(endorsements.certificates[0])}) if self.roots is None else self.roots
        return authenticate(
            self.evidence(), endorsements, roots=roots, now=self.now, unsafe_without_revocation=self.unsafe
        )


def of(product: str, kind: str = "vcek", version: int = 3) -> Scene:
    """Good evidence of this product."""
    return Scene(Chip(product, kind, version), Vendor(product))


def refused(scene: Scene) -> str:
    """The code of the rejection of `scene`."""
    with pytest.raises(VerificationError) as caught:
        scene.decide()
    assert caught.value.layer == "sev-snp"
    return caught.value.code
