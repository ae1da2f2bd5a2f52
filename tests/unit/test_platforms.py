"""What a policy opts out of counts for its own platform alone, is said where it counted, and is strict without."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from attest import canonical, validity
from attest.appraise import appraise
from attest.appraise.platforms import Collateral, Judged, judge
from attest.appraise.policy import Hardware, read
from attest.capsule import Capsule, Item
from attest.digest import digest_of
from attest.dsse import b64encode
from attest.errors import MalformedInput, VerificationError
from tests.fakes import azure, sevsnp, tdx
from tests.unit.azure.test_azure_checks import Scene

VENDOR, INTEL = sevsnp.Vendor(), tdx.intel().endorsements()
COMMON: dict[str, Any] = {"name": "x", "not_before": "2020-01-01T00:00:00Z", "not_after": "2040-01-01T00:00:00Z"}


def intels(kind: Any, name: str, document: Any) -> Item:
    """A signed document, as Intel's service gives it."""
    answer = b'{"%s":%s,"signature":"%s"}' % (name.encode(), document.body, document.signature.hex().encode())
    return Item(platform="tdx", kind=kind, data=answer, chain=document.chain, **COMMON)


ITEMS = {
    "root": Item(platform="tdx", kind="root", data=INTEL.root, **COMMON),
    "root-list": Item(platform="tdx", kind="revocation-list", data=INTEL.root_crl or b"", **COMMON),
    "list": Item(platform="tdx", kind="revocation-list", data=INTEL.pck_crl or b"", **COMMON),
    "tcb": intels("tcb-info", "tcbInfo", INTEL.tcb_info),
    "qe": intels("qe-identity", "enclaveIdentity", INTEL.qe_identity),
    "ark": Item(platform="sev-snp", kind="certificate", data=VENDOR.ark, **COMMON),
    "ask": Item(platform="sev-snp", kind="certificate", data=VENDOR.ask, **COMMON),
    "amd-list": Item(platform="sev-snp", kind="revocation-list", data=VENDOR.crl(), **COMMON),
}
LOWEST = {"boot_loader": 0, "tee": 0, "snp": 0, "microcode": 0}
AMD = {"measurements": ["22" * 48], "minimum_tcb": {"Milan": LOWEST}, "guest_allows": ["smt"]}
TDX = {"measurements": {"mrtd": ["d0" * 48]}, "minimum_evaluation_data_number": 1}
REGISTERS = {"sha256:0": [azure.REGISTERS[0].hex()]}


def scene(tdx_: bool, missing: tuple[str, ...], **parts: dict[str, Any]) -> tuple[dict[str, Any], Hardware, Capsule]:
    """A machine on Azure, the policy on it with other `parts`, and a capsule without some of the collateral."""
    items = tuple(item for name, item in ITEMS.items() if name not in missing)
    roots = {"tdx": [digest_of(INTEL.root)], "sev-snp": [digest_of(VENDOR.ark)]}
    own = {"tdx": TDX | {"roots": roots["tdx"]}, "sev_snp": AMD}
    part = {name: own[name] | parts.get(name, {}) for name in {"tdx" if tdx_ else "sev_snp", *parts}}
    table = {"roots": roots, "azure": part | {"registers": REGISTERS}, "makers": [digest_of(b"key")]}
    document = json.loads(canonical.dump_model(Scene(tdx_).evidence()))
    made = Capsule(made=validity.write_time(sevsnp.NOW), maker=b"key", items=items)
    return document, canonical.validate(Hardware, table, "policy"), made


def judged(tdx_: bool, *missing: str, **parts: dict[str, Any]) -> Judged:
    """What Azure's part of an appraisal says to it."""
    document, hardware, made = scene(tdx_, missing, **parts)
    return judge("azure", document, Collateral(made, hardware, sevsnp.NOW))


def failing(found: Judged) -> list[str]:
    return [line.rule for line in found.lines if not line.holds]


@pytest.mark.parametrize("tdx_", [False, True])
def test_with_all_collateral_nothing_is_widened(tdx_: bool) -> None:
    found = judged(tdx_)
    assert (failing(found), found.widened) == ([], ())


OPTED: dict[str, dict[str, Any]] = {"tdx": {"unsafe_skipped": True}, "sev_snp": {"unsafe_without_revocation": True}}


@pytest.mark.parametrize(
    ("tdx_", "missing", "widened"),
    [
        (True, ("list",), ("tdx.skipped",)),
        (True, ("root-list",), ("tdx.skipped",)),
        (True, ("tcb",), ("tdx.skipped",)),
        (False, ("amd-list",), ("sev-snp.revocation",)),
    ],
)
def test_what_is_missing_is_refused_unless_this_hardware_is_opted_out(
    tdx_: bool, missing: tuple[str, ...], widened: tuple[str, ...]
) -> None:
    mine, other = ("tdx", "sev_snp") if tdx_ else ("sev_snp", "tdx")
    for parts in ({}, {other: OPTED[other]}):
        with pytest.raises(VerificationError, match="missing"):
            judged(tdx_, *missing, **parts)
    found = judged(tdx_, *missing, **{mine: OPTED[mine]})
    assert found.widened == widened


def test_without_a_pinned_root_of_intels_nothing_is_judged() -> None:
    pinned = digest_of(INTEL.root)
    with pytest.raises(VerificationError, match=f"tdx/root: expected {pinned}, in the capsule"):
        judged(True, "root")
    hardware = canonical.validate(Hardware, {"tdx": TDX}, "policy")
    document = {"format": "vitrine/tdx-evidence/v1", "quote": b64encode(tdx.intel().quote(tdx.domain()))}
    with pytest.raises(VerificationError, match="tdx/root: expected a root that the policy pins, in the capsule"):
        judge("tdx", document, Collateral(None, hardware, sevsnp.NOW))


@pytest.mark.parametrize("platform", ["tpm", "sev-snp", "tdx", "nitro", "azure", "nvidia-gpu"])
def test_a_platform_without_rules_is_its_callers_mistake(platform: Any) -> None:
    with pytest.raises(RuntimeError, match="a platform that the policy accepts"):
        judge(platform, {}, Collateral(None, Hardware(), sevsnp.NOW))


@pytest.mark.parametrize(
    ("missing", "rule", "why"),
    [
        ("root", "tdx.root", "evidence that is not authentic says nothing"),
        ("list", "tdx.collateral-missing", "capsule"),
    ],
)
def test_what_is_not_authentic_is_a_line_and_named(missing: str, rule: str, why: str) -> None:
    document, hardware, made = scene(True, (missing,))
    found = appraise([document], hardware, made, bound=b"", now=sevsnp.NOW)
    assert (found.claims, found.unauthentic) == ({}, (rule,))
    (line,) = [line for line in found.lines if line.rule == rule]
    assert not line.holds
    assert why in line.why


def test_opt_outs_that_counted_are_downgrades() -> None:
    document, hardware, made = scene(True, ("list",), tdx=OPTED["tdx"])
    bound = bytes.fromhex(judge("azure", document, Collateral(made, hardware, sevsnp.NOW)).claims[0].bound)
    found = appraise([document], hardware, made, bound=bound, now=sevsnp.NOW)
    assert [line.rule for line in found.lines if not line.holds] == []
    assert found.status == "warning"
    assert "tdx.skipped holds only because the policy opts out of it" in found.downgrades
    assert any("Revocation was not checked" in sentence for sentence in found.downgrades)
    other = appraise([document], hardware, made, bound=bound[:-1], now=sevsnp.NOW)
    assert [line.rule for line in other.lines if not line.holds] == ["azure.bound"]


def test_a_rule_that_does_not_hold_either_way_was_not_widened() -> None:
    found = judged(True, "list", tdx=OPTED["tdx"] | {"measurements": {"mrtd": ["00" * 48]}})
    assert (failing(found), found.widened) == (["tdx.measurement.mrtd"], ("tdx.skipped",))


@pytest.mark.parametrize("unbound", [False, True])
def test_evidence_that_nobody_binds_is_refused_unless_asked_for(unbound: bool) -> None:
    document, hardware, made = scene(True, ())
    hardware = hardware.model_copy(update={"unsafe_unbound": unbound})
    found = appraise([document], hardware, made, bound=None, now=sevsnp.NOW)
    assert [line.rule for line in found.lines if not line.holds] == ([] if unbound else ["azure.bound"])
    assert found.status == ("warning" if unbound else "contraindicated")


@pytest.mark.parametrize("stale", ["refuse", "as-of-capsule"])
@pytest.mark.parametrize("expired", [False, True])
def test_when_evidence_is_judged(stale: str, expired: bool) -> None:
    """Certificates and lists hold longer than the capsule says, so that an end there is all that can expire."""
    document, hardware, made = scene(True, ())
    hardware = hardware.model_copy(update={"stale": stale, "unsafe_unbound": True})
    earlier, end = (validity.write_time(sevsnp.NOW - timedelta(hours=hours)) for hours in (2, 1))
    items = tuple(item.model_copy(update={"not_after": end}) if expired else item for item in made.items)
    found = appraise(
        [document], hardware, made.model_copy(update={"made": earlier, "items": items}), bound=None, now=sevsnp.NOW
    )
    assert [line.rule for line in found.lines if not line.holds] == []
    moved = expired and stale == "as-of-capsule"
    assert found.as_of == (sevsnp.NOW - timedelta(hours=2) if moved else sevsnp.NOW)
    assert any("judged as of" in sentence for sentence in found.downgrades) == moved


def test_a_capsule_of_somebody_else_is_none() -> None:
    document, hardware, made = scene(True, ())
    found = appraise([document], hardware.model_copy(update={"makers": ()}), made, bound=b"", now=sevsnp.NOW)
    assert [line.rule for line in found.lines] == ["capsule.maker", "tdx.root"]
    assert not any(line.holds for line in found.lines)


PINNED, OWN = digest_of(b"pinned"), digest_of(b"own")


def test_intels_parts_take_their_roots_from_the_table_unless_they_name_their_own() -> None:
    table = {"roots": {"tdx": [PINNED]}, "tdx": TDX, "azure": {"registers": REGISTERS, "tdx": TDX}}
    found = read(table)
    assert found.tdx is not None and found.azure is not None and found.azure.tdx is not None
    assert (found.tdx.roots, found.azure.tdx.roots) == ((PINNED,), (PINNED,))
    own = read(table | {"tdx": TDX | {"roots": [OWN]}})
    assert own.tdx is not None and own.tdx.roots == (OWN,)
    bare = read({"roots": {"sev-snp": [PINNED]}, "tdx": TDX})
    assert bare.tdx is not None and bare.tdx.roots == ()
    assert read({"roots": {}}) == read({}) == Hardware()
    assert read({"roots": {}, "azure": {"registers": REGISTERS}}).azure is not None


@pytest.mark.parametrize(
    "value",
    [[], 1, "roots", {"roots": []}, {"roots": {}, "azure": []}, {"roots": {}, "azure": {"tdx": []}},
     {"roots": {}, "tdx": []}, {"roots": {}, "azure": 1}, {"tdx": "roots"}],
)  # fmt: skip
def test_what_is_no_table_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedInput, match="hardware"):
        read(value)
