"""Which of several files in a capsule is taken: by quote, by report, or by when it came into force."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attest import canonical, validity
from attest.appraise import intel, nvidia
from attest.appraise.platforms import Collateral, accepted, judge
from attest.appraise.policy import Hardware
from attest.capsule import Capsule, Item
from attest.digest import digest_of
from attest.dsse import b64encode
from attest.errors import MalformedInput
from attest.tdx import Signed
from attest.tdx import signed as read_signed
from tests.fakes import tdx
from tests.fakes.nvgpu import DRIVER, VBIOS, Gpu, manifest_chain, signed, tag

INTEL, OTHER = tdx.intel(), tdx.make()
QUOTE, SGX_QUOTE = INTEL.quote(tdx.domain()), INTEL.quote(tdx.enclave(), version=3)
ROOTS = [item.root.public_bytes(Encoding.DER) for item in (OTHER, INTEL)]
LISTS = [
    tdx.revocations(tdx.ROOT, INTEL.root_key),
    tdx.revocations(tdx.PLATFORM, INTEL.authority_key),
    tdx.revocations(tdx.ROOT, OTHER.root_key),
]
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_AGO, LONG_AFTER = "2020-01-01T00:00:00Z", "2040-01-01T00:00:00Z"


def answer(field: str, document: dict[str, Any]) -> tuple[bytes, bytes]:
    """As Intel's service gives it."""
    made = INTEL.signed(document)
    return b'{"%s":%s,"signature":"%s"}' % (field.encode(), made.body, made.signature.hex().encode()), made.chain


INFO, SGX_INFO = INTEL.tcb, INTEL.for_sgx().tcb
INFOS = [
    answer("tcbInfo", item)
    for item in (SGX_INFO, INFO | {"fmspc": "000000000000"}, INFO, INFO | {"tcbEvaluationDataNumber": 1})
]
IDENTITIES = [answer("enclaveIdentity", item) for item in (INTEL.for_sgx().qe, INTEL.qe, INTEL.qe | {"version": 1})]


def tcb_info(given: tuple[bytes, bytes]) -> Signed:
    return read_signed(given[0], "tcbInfo", given[1])


def qe_identity(given: tuple[bytes, bytes]) -> Signed:
    return read_signed(given[0], "enclaveIdentity", given[1])


def test_intels_files_are_those_of_the_quote() -> None:
    found = intel.endorsements(QUOTE, ROOTS, LISTS, INFOS, IDENTITIES)
    assert (found.root, found.root_crl, found.pck_crl) == (ROOTS[1], LISTS[0], LISTS[1])
    assert (found.tcb_info, found.qe_identity) == (tcb_info(INFOS[2]), qe_identity(IDENTITIES[1]))
    found = intel.endorsements(SGX_QUOTE, ROOTS, LISTS, INFOS, IDENTITIES)
    assert (found.tcb_info, found.qe_identity) == (tcb_info(INFOS[0]), qe_identity(IDENTITIES[0]))


def test_what_is_missing_is_none() -> None:
    found = intel.endorsements(QUOTE, ROOTS[:1], (), INFOS[:2], IDENTITIES[:1])
    assert (found.root, found.root_crl, found.pck_crl) == (ROOTS[0], None, None)
    assert (found.tcb_info, found.qe_identity) == (None, None)


@pytest.mark.parametrize("text", [b"[]", b"1", b"null", b"{}", b'{"tcbInfo":[]}', b'{"tcbInfo":1}'])
def test_an_answer_is_an_object(text: bytes) -> None:
    with pytest.raises(MalformedInput, match="Intel's answer"):
        intel.endorsements(QUOTE, ROOTS, (), [(text, b"")], ())


def test_nvidias_manifests_are_those_of_the_report() -> None:
    chain, gpu = manifest_chain(), Gpu()
    report = gpu.sign(gpu.message())
    old, driver, again = (signed(tag(version, (1,)), chain) for version in ("1.2.3", DRIVER, DRIVER))
    vbios = signed(tag(VBIOS.lower(), (2,)), chain)
    assert nvidia.manifests(report, (), ()) == (None, None)
    assert nvidia.manifests(report, (old,), (b"unread",)) == (old, b"unread")
    assert nvidia.manifests(report, (old, driver, again), (old, vbios)) == (driver, vbios)
    assert nvidia.manifests(report, (driver, old), (old, old)) == (driver, old)


def item(name: str, day: int) -> Item:
    start, end = (validity.write_time(NOW + timedelta(days=days)) for days in (day, 100))
    return Item(
        platform="tpm", kind="certificate", name=name, data=name.encode(), not_before=start, not_after=end
    )  # fmt: skip


def test_the_newest_comes_first_and_what_is_not_yet_in_force_last() -> None:
    items = tuple(item(name, day) for name, day in (("old", -9), ("next", 1), ("today", 0), ("later", 5), ("new", -1)))
    made = Capsule(made=validity.write_time(NOW), maker=b"key", items=items)
    at = Collateral(made, Hardware(), NOW)
    assert at.of("tpm", "certificate") == (b"today", b"new", b"old", b"later", b"next")
    assert Collateral(None, Hardware(), NOW).of("tpm", "certificate") == ()


def test_a_platform_without_a_part_in_the_policy_is_not_accepted() -> None:
    hardware = Hardware.model_validate({"tpm": {}})
    assert [accepted(platform, hardware) for platform in ("tpm", "tdx", "nvidia-gpu")] == [True, False, False]


@pytest.mark.parametrize(
    ("log", "problem"),
    [(None, None), (b" \n[1]", "events.0"), (b"\0[", "bytes"), (b"x", "bytes")],
)
def test_a_domains_log_is_dstacks_or_the_firmwares(log: bytes | None, problem: str | None) -> None:
    common: dict[str, Any] = {"platform": "tdx", "name": "x", "not_before": LONG_AGO, "not_after": LONG_AFTER}
    items = [
        Item(kind="root", data=ROOTS[1], **common),
        *(Item(kind="revocation-list", data=data, **common) for data in LISTS[:2]),
        Item(kind="tcb-info", data=INFOS[2][0], chain=INFOS[2][1], **common),
        Item(kind="qe-identity", data=IDENTITIES[1][0], chain=IDENTITIES[1][1], **common),
    ]
    made = Capsule(made=LONG_AGO, maker=b"key", items=tuple(items))
    rules = {"measurements": {"mrtd": ["00" * 48]}, "minimum_evaluation_data_number": 1}
    hardware = canonical.validate(Hardware, {"roots": {"tdx": [digest_of(ROOTS[1])]}, "tdx": rules}, "policy")
    document = {"quote": b64encode(QUOTE)} | ({} if log is None else {"event_log": b64encode(log)})
    at = Collateral(made, hardware, tdx.NOW)
    if problem is None:
        assert judge("tdx", document, at).lines
    else:
        with pytest.raises(MalformedInput, match=problem):
            judge("tdx", document, at)
