"""The attester of SEV-SNP over a fake configfs, whose chip really signs; what it gets is authenticated."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.attester import configfs, sevsnp
from attest.digest import digest_of
from attest.errors import EnvironmentProblem
from attest.sevsnp import Endorsements, authenticate
from tests.fakes.configfs import FakeRequests
from tests.fakes.sevsnp import NOW, Chip, Vendor, certificate_table

VCEK, VLEK = "63da758d-e664-4564-adc5-f4b93be8accd", "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
BOUND = bytes(range(64))


def machine(chip: Chip, auxiliary: bytes | None = None, **changes: object) -> FakeRequests:
    """configfs-tsm of a guest on `chip`."""
    if auxiliary is None:
        guid = VLEK if chip.kind == "vlek" else VCEK
        auxiliary = certificate_table({guid: Vendor().chip_certificate(chip)})
    return FakeRequests(lambda bound: chip.report(report_data=bound, **changes), "sev_guest", auxiliary)


@pytest.mark.parametrize("kind", ["vcek", "vlek"])
def test_evidence_is_authenticated(kind: str) -> None:
    requests = machine(Chip(kind=kind))
    evidence = sevsnp.report(BOUND, requests=requests)
    vendor = Vendor()
    endorsements = Endorsements((vendor.ark, vendor.ask, vendor.asvk), (vendor.crl(),))
    found = authenticate(evidence, endorsements, roots={digest_of(vendor.ark)}, now=NOW)
    assert (found.report.report_data, found.chip.kind) == (BOUND, kind)
    assert requests.entries == {}


def test_the_privilege_level_is_asked_for() -> None:
    asked = []

    class Watched(FakeRequests):
        def write(self, name: str, attribute: str, data: bytes) -> None:
            asked.append((attribute, data))
            super().write(name, attribute, data)

    good = machine(Chip())
    sevsnp.report(BOUND, requests=Watched(good.sign, good.provider, good.auxiliary), vmpl=2)
    assert asked == [("privlevel", b"2"), ("inblob", BOUND)]


@pytest.mark.parametrize("auxiliary", [b"", bytes(24), bytes(4096)])
def test_a_host_without_certificates_needs_one_given(auxiliary: bytes) -> None:
    chip = Chip()
    with pytest.raises(EnvironmentProblem, match=f"no VCEK certificate.*{chip.chip_id.hex()}.*{chip.tcb.hex()}"):
        sevsnp.report(BOUND, requests=machine(chip, auxiliary))
    given = Vendor().chip_certificate(chip)
    assert sevsnp.report(BOUND, requests=machine(chip, auxiliary), certificate=given).certificate == given


def test_the_certificate_is_of_the_kind_of_key_that_signed() -> None:
    other = certificate_table({VLEK: b"lent", VCEK: b""})
    with pytest.raises(EnvironmentProblem, match="no VCEK"):
        sevsnp.report(BOUND, requests=machine(Chip(), other))
    with pytest.raises(EnvironmentProblem, match="no NONE"):
        sevsnp.report(BOUND, requests=machine(Chip(), keys=7 << 2))


def test_a_platform_that_gives_something_else_is_refused() -> None:
    chip = Chip()
    for sign, message in {
        lambda bound: chip.report(report_data=b"old"): "another's report",
        lambda bound: chip.report(report_data=bound)[:-1]: "not known here",
        lambda bound: chip.report(report_data=bound, version=9): "not known here",
    }.items():
        with pytest.raises(EnvironmentProblem, match=message):
            sevsnp.report(BOUND, requests=FakeRequests(sign, "sev_guest", b""))
    with pytest.raises(EnvironmentProblem, match="not known here"):
        sevsnp.report(BOUND, requests=machine(chip, b"\x01" * 30))
    with pytest.raises(EnvironmentProblem, match="provider"):
        sevsnp.report(BOUND, requests=FakeRequests(chip.report, "tdx_guest", b""))


def test_a_machine_without_configfs_says_so(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="confidential VM"):
        sevsnp.report(BOUND, requests=configfs.Folder(tmp_path / "report"))


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_has_one_size(size: int) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        sevsnp.report(bytes(size), requests=machine(Chip()))
