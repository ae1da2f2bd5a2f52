"""Levels: which one a platform is at, and what follows from its parts. All through signed documents."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from attest.errors import MalformedInput, VerificationError
from attest.tdx import Standing, authenticate, tcb
from attest.tdx.collateral import EnclaveStatus, Status
from tests.fakes import tdx
from tests.fakes.tdx import COMPONENTS, NOW, Intel


def platform(components: tuple[int, ...] = COMPONENTS, pce_svn: int = 11) -> Intel:
    """A platform of these versions."""
    intel = tdx.intel()
    extensions = tdx.intels(tdx.sgx_extension(components=components, pce_svn=pce_svn))
    certificate = tdx.certify(
        tdx.LEAF, intel.pck_key, tdx.PLATFORM, intel.authority_key, ca=False, extensions=extensions
    )
    return replace(intel, leaf=certificate)


def standing(
    intel: Intel, svn: tuple[int, ...] = (6, 1, 3), qe: dict[str, Any] | None = None, **fields: Any
) -> Standing:
    body = tdx.domain(tee_tcb_svn=bytes(svn).ljust(16, b"\0"), **fields)
    result = authenticate(intel.quote(body, qe=qe), intel.endorsements(), now=NOW).standing
    assert result is not None
    return result


def code_of(*args: Any, **fields: Any) -> str:
    with pytest.raises(VerificationError) as caught:
        standing(*args, **fields)
    return caught.value.code


def document(**changes: Any) -> Intel:
    return replace(tdx.intel(), tcb=copy.deepcopy(tdx.TCB) | changes)


@pytest.mark.parametrize(
    ("pce_svn", "status", "advisories"),
    [
        (12, "UpToDate", ()),
        (11, "UpToDate", ()),
        (10, "SWHardeningNeeded", ("INTEL-SA-00110",)),
        (9, "ConfigurationNeeded", ("INTEL-SA-00109",)),
        (8, "OutOfDate", ("INTEL-SA-00101", "INTEL-SA-00105")),
        (5, "OutOfDate", ("INTEL-SA-00101", "INTEL-SA-00105")),
        (4, "Revoked", ()),
    ],
)
def test_the_first_level_by_pcesvn(pce_svn: int, status: str, advisories: tuple[str, ...]) -> None:
    found = standing(platform(pce_svn=pce_svn))
    assert (found.status, found.platform, found.advisories) == (status, status, advisories)


def test_no_level_by_pcesvn() -> None:
    with pytest.raises(VerificationError, match="PCESVN 3, TEE TCB SVN 060103000") as caught:
        standing(platform(pce_svn=3))
    assert caught.value.code == "tcb-level"


@pytest.mark.parametrize("place", [number for number, svn in enumerate(COMPONENTS) if svn])
def test_every_component_counts(place: int) -> None:
    lower = (*COMPONENTS[:place], COMPONENTS[place] - 1, *COMPONENTS[place + 1 :])
    higher = (*COMPONENTS[:place], COMPONENTS[place] + 1, *COMPONENTS[place + 1 :])
    assert standing(platform(higher)).status == "UpToDate"
    if place == 0:
        assert standing(platform(lower)).status == "OutOfDate"
    else:
        assert code_of(platform(lower)) == "tcb-level"


@pytest.mark.parametrize("place", range(16))
def test_every_component_of_tdx_counts(place: int) -> None:
    least = [5, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    if place in (0, 2, 15):
        found = tuple(svn - (number == place) for number, svn in enumerate(least))
    else:
        found, least[place] = tuple(least), 1 if place == 1 else least[place] + 1
    levels = [tdx.level("UpToDate", COMPONENTS, 11, tuple(least[:3]))]
    levels[0]["tcb"]["tdxtcbcomponents"] = [{"svn": svn} for svn in least]
    assert code_of(document(tcbLevels=levels), found) == "tcb-level"
    if place != 1:
        assert standing(document(tcbLevels=levels), tuple(max(a, b) for a, b in zip(found, least, strict=True)))


def test_a_module_of_major_version_0_is_rated_with_the_platform() -> None:
    found = standing(tdx.intel(), (5, 0, 2))
    assert (found.status, found.module) == ("UpToDate", None)
    assert standing(tdx.intel(), (4, 0, 2)).status == "OutOfDate"
    assert code_of(tdx.intel(), (0, 0, 2)) == "tcb-level"


def test_a_module_of_a_later_major_version_is_rated_by_its_own_levels() -> None:
    intel = tdx.intel()
    assert standing(intel, (4, 1, 2)).status == "UpToDate"
    old = standing(intel, (3, 1, 2))
    assert (old.status, old.platform, old.module) == ("OutOfDate", "UpToDate", "OutOfDate")
    assert old.advisories == ("INTEL-SA-00202",)
    assert standing(intel, (1, 1, 2)).status == "Revoked"
    assert code_of(intel, (0, 1, 2)) == "module-level"
    assert code_of(intel, (9, 2, 2)) == "module-unknown"
    # Versions of the platform below those of the module still count.
    assert standing(intel, (4, 1, 1)).status == "OutOfDate"


def test_module_names_are_read_in_either_case() -> None:
    levels = tdx.TCB["tdxModuleIdentities"][0]
    for name in ("TDX_0a", "TDX_0A"):
        assert standing(document(tdxModuleIdentities=[levels | {"id": name}]), (4, 10, 2)).module == "UpToDate"


def test_a_module_has_to_be_intels() -> None:
    intel = tdx.intel()
    for svn in ((6, 1, 3), (5, 0, 2)):
        assert code_of(intel, svn, mr_signer_seam=b"\1" + bytes(47)) == "module-signer"
        assert code_of(intel, svn, seam_attributes=b"\1" + bytes(7)) == "module-attributes"
    without = document()
    del without.tcb["tdxModule"]
    assert code_of(without, (5, 0, 2)) == "module-unknown"
    assert standing(without, (6, 1, 3)).status == "UpToDate"
    masked = document(tdxModule=tdx.TCB["tdxModule"] | {"attributesMask": "FE" + "FF" * 7})
    assert standing(masked, (5, 0, 2), seam_attributes=b"\1" + bytes(7)).status == "UpToDate"


def test_a_level_without_components_of_tdx() -> None:
    levels = [tdx.level("UpToDate", COMPONENTS, 11, None)]
    with pytest.raises(MalformedInput, match="TDX components"):
        standing(document(tcbLevels=levels))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"misc_select": b"\1\0\0\0"}, "qe-miscselect"),
        ({"misc_select": b"\0\0\0\1"}, "qe-miscselect"),
        ({"attributes": bytes.fromhex("1700000000000000e700000000000000")}, "qe-attributes"),
        ({"attributes": bytes.fromhex("0100000000000000e700000000000000")}, "qe-attributes"),
        ({"mr_signer": bytes(32)}, "qe-signer"),
        ({"isv_prod_id": 1}, "qe-product"),
        ({"isv_prod_id": 3}, "qe-product"),
        ({"isv_svn": 1}, "qe-level"),
    ],
)
def test_a_quoting_enclave_that_is_not_intels(fields: dict[str, Any], code: str) -> None:
    assert code_of(tdx.intel(), qe=fields) == code


def test_attributes_out_of_the_mask_are_free() -> None:
    fields = {"attributes": bytes.fromhex("1100000000000000ffffffffffffffff"), "mr_enclave": bytes(32)}
    assert standing(tdx.intel(), qe=fields).status == "UpToDate"


def test_the_miscselect_mask() -> None:
    intel = replace(tdx.intel(), qe=tdx.QE | {"miscselectMask": "FEFFFFFF"})
    assert standing(intel, qe={"misc_select": b"\1\0\0\0"}).status == "UpToDate"
    assert code_of(intel, qe={"misc_select": b"\2\0\0\0"}) == "qe-miscselect"


@pytest.mark.parametrize(
    ("svn", "status", "advisories"),
    [(5, "UpToDate", ()), (4, "UpToDate", ()), (3, "OutOfDate", ("INTEL-SA-00303",)), (2, "Revoked", ())],
)
def test_the_level_of_the_quoting_enclave(svn: int, status: str, advisories: tuple[str, ...]) -> None:
    found = standing(tdx.intel(), qe={"isv_svn": svn})
    assert (found.status, found.platform, found.qe, found.advisories) == (status, "UpToDate", status, advisories)


def test_advisories_of_all_parts_each_once() -> None:
    intel = document()
    intel.tcb["tcbLevels"][1]["advisoryIDs"] = ["INTEL-SA-00303", "INTEL-SA-00110"]
    intel = replace(platform(pce_svn=10), tcb=intel.tcb)
    found = standing(intel, (3, 1, 2), qe={"isv_svn": 3})
    assert found.advisories == ("INTEL-SA-00303", "INTEL-SA-00110", "INTEL-SA-00202")
    assert found.status == "OutOfDate"


def test_the_lower_evaluation_counts() -> None:
    intel = tdx.intel()
    assert standing(intel).evaluation == 18
    assert standing(document(tcbEvaluationDataNumber=17)).evaluation == 17


STATUSES: list[tuple[Status, Status]] = [
    ("UpToDate", "OutOfDate"),
    ("SWHardeningNeeded", "OutOfDate"),
    ("ConfigurationNeeded", "OutOfDateConfigurationNeeded"),
    ("ConfigurationAndSWHardeningNeeded", "OutOfDateConfigurationNeeded"),
    ("OutOfDate", "OutOfDate"),
    ("OutOfDateConfigurationNeeded", "OutOfDateConfigurationNeeded"),
    ("Revoked", "Revoked"),
]


@pytest.mark.parametrize(("status", "beside"), STATUSES)
def test_how_statuses_meet(status: Status, beside: Status) -> None:
    parts: dict[EnclaveStatus, Status] = {"UpToDate": status, "OutOfDate": beside, "Revoked": "Revoked"}
    assert {part: tcb.converge(status, part) for part in parts} == parts


def test_an_enclave_is_rated_without_tdx() -> None:
    sgx = platform(pce_svn=10).for_sgx()
    result = authenticate(sgx.quote(tdx.enclave(), version=3), sgx.endorsements(), now=NOW).standing
    assert result is not None
    assert (result.status, result.module) == ("SWHardeningNeeded", None)
    low = platform((0,) * 16).for_sgx()
    with pytest.raises(VerificationError) as caught:
        authenticate(low.quote(tdx.enclave(), version=3), low.endorsements(), now=NOW)
    assert caught.value.code == "tcb-level"
