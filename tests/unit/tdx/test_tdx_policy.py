"""Claims of authenticated quotes, and each line of a policy, holding and not."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import pytest

from attest import canonical
from attest.appraisal import Claims, Line, require
from attest.errors import MalformedInput, VerificationError
from attest.tdx import IntelClaims, Policy, appraise, authenticate, claims, eventlog
from attest.tdx.eventlog import Event
from tests.fakes import tdx
from tests.fakes.tdx import NOW

INTEL = tdx.intel()
MRTD = "d0" * 48


def claims_of(
    body: bytes | None = None, events: tuple[Event, ...] = (), version: int = 4, **opted: bool
) -> IntelClaims:
    quote = INTEL.quote(tdx.domain(b"\7" * 64) if body is None else body, version=version)
    return claims(authenticate(quote, INTEL.endorsements(), now=NOW, **opted), events)


def enclave_claims(**fields: Any) -> IntelClaims:
    sgx = INTEL.for_sgx()
    return claims(authenticate(sgx.quote(tdx.enclave(b"\7" * 64, **fields), version=3), sgx.endorsements(), now=NOW))


GOOD = claims_of()


def policy(**changes: Any) -> Policy:
    fields = {"roots": (GOOD.root,), "measurements": {"mrtd": (MRTD,)}, "minimum_evaluation_data_number": 18}
    return Policy(**fields | changes)


def failing(found: IntelClaims, **changes: Any) -> list[str]:
    return [line.rule for line in appraise(found, policy(**changes)) if not line.holds]


def line_of(found: IntelClaims, rule: str, **changes: Any) -> Line:
    (line,) = (line for line in appraise(found, policy(**changes)) if line.rule == rule)
    return line


def test_what_a_domain_claims() -> None:
    found: Claims = GOOD
    assert (found.platform, found.bound, found.debug) == ("tdx", "07" * 64, False)
    assert found.measurements["mrtd"] == MRTD
    assert (found.measurements["rtmr0"], found.measurements["rtmr3"]) == ("a0" * 48, "a3" * 48)
    assert [found.measurements[name][:2] for name in ("mrconfigid", "mrowner", "mrownerconfig")] == ["c1", "c2", "c3"]
    assert "mrservicetd" not in found.measurements
    assert (GOOD.sept_ve_disable, GOOD.migratable, GOOD.isv_svn, GOOD.isv_prod_id) == (True, False, None, None)
    assert (GOOD.fmspc, GOOD.ppid, GOOD.skipped) == (tdx.FMSPC.hex(), tdx.PPID.hex(), ())
    assert (GOOD.features, GOOD.attributes) == ("e702060000000000", "0000001000000000")
    assert (GOOD.explained, GOOD.unexplained) == ((), ("rtmr0", "rtmr1", "rtmr3"))
    assert GOOD.valid_until == "2026-03-21T12:00:00Z"


def test_claims_are_json() -> None:
    for found in (GOOD, enclave_claims()):
        assert canonical.parse(IntelClaims, canonical.dump_model(found), "claims") == found
    assert json.loads(canonical.dump_model(GOOD))["tcb"]["status"] == "UpToDate"


def test_what_a_domain_of_version_5_claims_besides() -> None:
    found = claims_of(tdx.domain(td15=True, mr_service_td=b"\6" * 48), version=5)
    assert (found.quote_version, found.measurements["mrservicetd"]) == (5, "06" * 48)


def test_what_an_enclave_claims() -> None:
    found = enclave_claims(isv_svn=9)
    assert (found.platform, found.bound, found.debug, found.quote_version) == ("sgx", "07" * 64, False, 3)
    assert found.measurements == {
        "mrenclave": tdx.sha256(b"enclave").hexdigest(),
        "mrsigner": found.measurements["mrsigner"],
    }
    assert (found.isv_prod_id, found.isv_svn, found.sept_ve_disable, found.migratable) == (2, 9, None, None)
    assert (found.attributes, found.features) == ("1500000000000000", "e700000000000000")
    assert enclave_claims(attributes=b"\x17" + bytes(15)).debug
    assert not enclave_claims(attributes=b"\xfd" + bytes(15)).debug


@pytest.mark.parametrize("bit", range(8))
def test_every_bit_of_the_debug_group_is_debug(bit: int) -> None:
    assert claims_of(tdx.domain(td_attributes=bytes([1 << bit, 0, 0, 0x10, 0, 0, 0, 0]))).debug


def test_an_event_log_has_to_replay() -> None:
    events = (Event(0, 4, b"\1" * 48, b""), Event(2, 4, b"\2" * 48, b""))
    values = eventlog.replay(events)
    body = tdx.domain(rtmrs=(values[0], b"\5" * 48, values[2], bytes(48)))
    found = claims_of(body, events)
    assert (found.explained, found.unexplained) == (("rtmr0", "rtmr2"), ("rtmr1",))
    with pytest.raises(VerificationError) as caught:
        claims_of(body, events[:1] + events[:1])
    assert caught.value.code == "event-log"
    sgx = INTEL.for_sgx()
    quote = authenticate(sgx.quote(tdx.enclave(), version=3), sgx.endorsements(), now=NOW)
    with pytest.raises(MalformedInput, match="expected no event log"):
        claims(quote, events)


def test_a_domain_that_a_strict_policy_accepts() -> None:
    lines = appraise(GOOD, policy())
    assert [line.rule for line in lines if not line.holds] == []
    require(lines)
    assert len({line.rule for line in lines}) == len(lines) == 10
    assert all(line.why.endswith(".") and line.expected and line.found for line in lines)


def test_every_rule_has_a_case() -> None:
    """Expected and found, as a reader sees them."""
    assert line_of(GOOD, "tdx.measurement.mrtd").expected == MRTD
    refused = line_of(GOOD, "tdx.measurement.mrtd", measurements={"mrtd": ("00" * 48, "11" * 48)})
    assert (refused.expected, refused.found, refused.holds) == (f"{'00' * 48} or {'11' * 48}", MRTD, False)
    assert line_of(GOOD, "tdx.tcb-status", tcb_statuses=()).expected == "nothing"
    assert line_of(GOOD, "tdx.debug").expected == "no"
    assert line_of(GOOD, "tdx.debug", unsafe_debug=True).expected == "yes or no"
    assert [line_of(item, "tdx.debug").found for item in (GOOD, claims_of(attributes(1)))] == ["no", "yes"]
    assert line_of(GOOD, "tdx.explained.rtmr0", explained=("rtmr0",)).found == "not explained"
    advisories = line_of(GOOD, "tdx.advisories")
    assert (advisories.expected, advisories.found) == ("none", "none")
    advisories = line_of(at_level(8), "tdx.advisories", advisories=("INTEL-SA-00101", "INTEL-SA-00999"))
    assert (advisories.expected, advisories.found) == ("none but INTEL-SA-00101, INTEL-SA-00999", "INTEL-SA-00105")
    with pytest.raises(VerificationError) as caught:
        require(appraise(GOOD, policy(measurements={"mrtd": ("00" * 48,)})))
    assert (caught.value.layer, caught.value.code) == ("appraisal", "tdx.measurement.mrtd")


def attributes(bits: int) -> bytes:
    return tdx.domain(td_attributes=struct.pack("<Q", bits))


def at_level(pce_svn: int) -> IntelClaims:
    extensions = tdx.intels(tdx.sgx_extension(pce_svn=pce_svn))
    leaf = tdx.certify(tdx.LEAF, INTEL.pck_key, tdx.PLATFORM, INTEL.authority_key, ca=False, extensions=extensions)
    intel = replace(INTEL, leaf=leaf)
    return claims(authenticate(intel.quote(tdx.domain()), intel.endorsements(), now=NOW))


@pytest.mark.parametrize(
    ("found", "changes", "rules"),
    [
        (GOOD, {"roots": ("sha256:" + "0" * 64,)}, ["root"]),
        (GOOD, {"roots": ()}, ["root"]),
        (GOOD, {"platforms": ("sgx",)}, ["platform"]),
        (GOOD, {"measurements": {"mrtd": ("d1" * 48,)}}, ["measurement.mrtd"]),
        (GOOD, {"measurements": {"mrtd": ()}}, ["measurement.mrtd"]),
        (GOOD, {"measurements": {"mrtd": ("d1" * 48, MRTD)}}, []),
        (GOOD, {"measurements": {"rtmr0": ("a0" * 48,), "rtmr1": ("a0" * 48,)}}, ["measurement.rtmr1"]),
        (GOOD, {"measurements": {"mrservicetd": ("00" * 48,)}}, ["measurement.mrservicetd"]),
        (GOOD, {"minimum_evaluation_data_number": 19}, ["evaluation-data-number"]),
        (GOOD, {"minimum_evaluation_data_number": 17}, []),
        (GOOD, {"attributes": ("0000000000000000",)}, ["attributes"]),
        (GOOD, {"attributes": ("0000001000000000",)}, []),
        (GOOD, {"features": ("0000000000000000",)}, ["features"]),
        (GOOD, {"features": ("e702060000000000",)}, []),
        (GOOD, {"explained": ("rtmr1",)}, ["explained.rtmr1"]),
        (claims_of(attributes(1 | 1 << 28)), {}, ["debug"]),
        (claims_of(attributes(1 | 1 << 28)), {"unsafe_debug": True}, []),
        (claims_of(attributes(0)), {}, ["sept-ve-enabled"]),
        (claims_of(attributes(0)), {"unsafe_sept_ve_enabled": True}, []),
        (claims_of(attributes(3 << 28)), {}, ["migratable"]),
        (claims_of(attributes(3 << 28)), {"unsafe_migratable": True}, []),
        (claims_of(unsafe_without_revocation=True), {}, ["skipped"]),
        (claims_of(unsafe_without_tcb=True), {}, ["skipped"]),
        (claims_of(unsafe_without_tcb=True), {"unsafe_skipped": True}, []),
        (at_level(10), {}, ["tcb-status", "advisories"]),
        (at_level(10), {"tcb_statuses": ("UpToDate", "SWHardeningNeeded")}, ["advisories"]),
        (at_level(10), {"advisories": ("INTEL-SA-00110",)}, ["tcb-status"]),
        (at_level(10), {"tcb_statuses": ("SWHardeningNeeded",), "advisories": ("INTEL-SA-00110",)}, []),
        (at_level(4), {}, ["tcb-status"]),
        (enclave_claims(), {}, ["platform", "measurement.mrtd"]),
        (enclave_claims(attributes=b"\7" + bytes(15)), {"platforms": ("sgx",)}, ["debug", "measurement.mrtd"]),
    ],
)
def test_each_rule(found: IntelClaims, changes: dict[str, Any], rules: list[str]) -> None:
    assert failing(found, **changes) == [f"tdx.{rule}" for rule in rules]


def test_registers_that_a_log_explains() -> None:
    events = (Event(0, 4, b"\1" * 48, b""),)
    found = claims_of(tdx.domain(rtmrs=(eventlog.replay(events)[0], *[bytes(48)] * 3)), events)
    assert failing(found, explained=("rtmr0",)) == []
    assert line_of(found, "tdx.explained.rtmr0", explained=("rtmr0",)).found == "explained"
    assert failing(found, explained=("rtmr0", "rtmr2")) == ["tdx.explained.rtmr2"]


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"roots": [GOOD.root], "measurements": {}, "minimum_evaluation_data_number": 17},
        {"roots": [GOOD.root], "measurements": {"mrtd": [MRTD]}},
        {"roots": [GOOD.root], "measurements": {"mrtd": [MRTD]}, "minimum_evaluation_data_number": 0},
        {
            "roots": [GOOD.root],
            "measurements": {"mrtd": [MRTD]},
            "minimum_evaluation_data_number": 17,
            "tcb_statuses": ["Revoked"],
        },
    ],
)
def test_policies_that_name_too_little(text: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput, match="policy"):
        canonical.validate(Policy, text, "policy")


def test_a_policy_as_data() -> None:
    text = {"roots": [GOOD.root], "measurements": {"mrtd": [MRTD]}, "minimum_evaluation_data_number": 18}
    assert canonical.validate(Policy, text, "policy") == policy()
