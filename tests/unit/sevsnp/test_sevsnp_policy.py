"""Each rule of a policy: a claim that keeps it, and one that does not."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from attest import appraisal, canonical
from attest.appraisal import require
from attest.errors import VerificationError
from attest.sevsnp import Claims, Policy, appraise, policy
from attest.sevsnp.claims import Abi, Firmware
from attest.sevsnp.tcb import Tcb

TCB = Tcb(boot_loader=4, tee=1, snp=24, microcode=219)
LOWER = TCB.model_copy(update={"microcode": 218})
FIRMWARE = Firmware(major=1, minor=55, build=29)
GOOD = Claims(
    bound="11" * 64, measurements={"launch": "22" * 48}, debug=False, version=3, product="Milan", signing_key="vcek",
    chip_id="55" * 64, vmpl=0, guest_svn=3, family_id="66" * 16, image_id="77" * 16, guest_flags=(),
    guest_abi=Abi(major=1, minor=51), platform_flags=("alias-check", "ecc"), host_data="33" * 32,
    id_key_digest="88" * 48, author_key_digest="99" * 48, id_block=False, report_id="44" * 32, reported_tcb=TCB,
    committed_tcb=TCB, current_tcb=TCB, launch_tcb=TCB, firmware=FIRMWARE, committed_firmware=FIRMWARE,
    root="sha256:" + "aa" * 32, valid_until="2027-01-01T00:00:00Z", skipped=(),
)  # fmt: skip
BASIC: dict[str, Any] = {"measurements": ("22" * 48,), "minimum_tcb": {"Milan": TCB}}


def failing(claims: dict[str, Any], rules: dict[str, Any] | None = None) -> list[str]:
    lines = appraise(GOOD.model_copy(update=claims), Policy(**(BASIC | (rules or {}))))
    assert all(line.rule.startswith("sev-snp.") and line.why for line in lines)
    return [line.rule.removeprefix("sev-snp.") for line in lines if not line.holds]


def test_good_claims_pass() -> None:
    lines = appraise(GOOD, Policy(**BASIC))
    assert [line.rule.removeprefix("sev-snp.") for line in lines] == [
        "measurement", "guest-svn", "product", "reported-tcb", "committed-tcb", "current-tcb", "launch-tcb",
        "firmware", "provisional-firmware", "signing-key", "platform", "debug", "smt", "migration-agent", "cxl",
        "guest-policy", "guest-abi", "vmpl", "revocation",
    ]  # fmt: skip
    require(lines)
    claims: appraisal.Claims = GOOD
    assert claims.measurements["launch"] == "22" * 48


def test_a_policy_that_measures_nothing_is_refused() -> None:
    for missing in ({"measurements": ()}, {"minimum_tcb": {}}):
        with pytest.raises(ValidationError):
            Policy(**(BASIC | missing))
    for signer in ("id_keys", "author_keys"):
        assert Policy(**(BASIC | {"measurements": (), signer: ("00" * 48,)}))


def test_the_first_line_that_fails_is_the_reason() -> None:
    with pytest.raises(VerificationError) as caught:
        require(appraise(GOOD.model_copy(update={"debug": True}), Policy(**BASIC)))
    assert (caught.value.layer, caught.value.code) == ("appraisal", "sev-snp.debug")
    assert "debugging" in caught.value.found


@pytest.mark.parametrize("when", ["reported", "committed", "current", "launch"])
def test_every_tcb_has_the_minimum(when: str) -> None:
    assert f"{when}-tcb" in failing({f"{when}_tcb": LOWER})
    assert failing({f"{when}_tcb": LOWER}, {"minimum_tcb": {"Milan": LOWER}, "provisional_firmware": True}) == []


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: rule, claims, what the policy says
    "another measurement": ("measurement", {"measurements": {"launch": "23" * 48}}, {}),
    "another ID key": ("id-key", {}, {"id_keys": ("89" * 48,)}),
    "no ID key": ("id-key", {"id_key_digest": None}, {"id_keys": ("88" * 48,)}),
    "another author's key": ("author-key", {}, {"author_keys": ("98" * 48,)}),
    "an older guest": ("guest-svn", {}, {"minimum_guest_svn": 4}),
    "another family": ("family-id", {}, {"family_id": "67" * 16}),
    "another image": ("image-id", {}, {"image_id": "78" * 16}),
    "other host data": ("host-data", {}, {"host_data": "34" * 32}),
    "older firmware": ("firmware", {}, {"minimum_firmware": Firmware(major=1, minor=55, build=30)}),
    "older firmware, by its minor number": ("firmware", {}, {"minimum_firmware": Firmware(major=1, minor=56, build=0)}),
    "versions that can be rolled back": (
        "provisional-firmware", {"committed_tcb": LOWER}, {"minimum_tcb": {"Milan": LOWER}},
    ),
    "firmware that can be rolled back": (
        "provisional-firmware", {"committed_firmware": Firmware(major=1, minor=55, build=28)}, {},
    ),
    "a lent key": ("signing-key", {"signing_key": "vlek"}, {}),
    "a key lent to another": (
        "provider", {"signing_key": "vlek", "provider": "CN=b"}, {"signing_keys": ("vlek",), "providers": ("CN=a",)},
    ),
    "a key lent to anybody": ("provider", {"signing_key": "vlek", "provider": "CN=b"}, {"signing_keys": ("vlek",)}),
    "another chip": ("chip", {}, {"chips": ("56" * 64,)}),
    "a masked chip": ("chip", {"chip_id": None}, {"chips": ("55" * 64,)}),
    "a platform without a protection": ("platform", {}, {"platform_requires": ("ecc", "ciphertext-hiding")}),
    "debugging": ("debug", {"debug": True}, {}),
    "siblings": ("smt", {"guest_flags": ("smt",)}, {}),
    "migration": ("migration-agent", {"guest_flags": ("migration-agent",)}, {}),
    "CXL": ("cxl", {"guest_flags": ("cxl",)}, {}),
    "a guest policy without a protection": ("guest-policy", {}, {"guest_requires": ("single-socket",)}),
    "an older ABI": ("guest-abi", {}, {"minimum_abi": Abi(major=1, minor=52)}),
    "an older ABI, by its major number": ("guest-abi", {}, {"minimum_abi": Abi(major=2)}),
    "less privileged code": ("vmpl", {"vmpl": 1}, {}),
    "no revocation list": ("revocation", {"skipped": ("no list",)}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_rule_that_is_broken_fails_alone(name: str) -> None:
    rule, claims, rules = REFUSED[name]
    assert failing(claims, rules) == [rule]


def test_an_unknown_product_has_no_minimum() -> None:
    tcbs = ["reported-tcb", "committed-tcb", "current-tcb", "launch-tcb"]
    assert failing({"product": "Genoa"}) == ["product", *tcbs]


KEPT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one of two measurements": ({}, {"measurements": ("00" * 48, "22" * 48)}),
    "keys in place of measurements": (
        {"measurements": {"launch": "00" * 48}}, {"measurements": (), "id_keys": ("88" * 48,)},
    ),
    "an author's key": ({}, {"measurements": (), "author_keys": ("99" * 48,)}),
    "the lowest guest": ({}, {"minimum_guest_svn": 3}),
    "family, image and host data": ({}, {"family_id": "66" * 16, "image_id": "77" * 16, "host_data": "33" * 32}),
    "the lowest firmware": ({}, {"minimum_firmware": FIRMWARE}),
    "firmware of a higher minor number": ({}, {"minimum_firmware": Firmware(major=1, minor=54, build=99)}),
    "provisional firmware": (
        {"committed_firmware": Firmware(major=1, minor=55, build=28)}, {"provisional_firmware": True},
    ),
    "a lent key": (
        {"signing_key": "vlek", "provider": "CN=a", "chip_id": None},
        {"signing_keys": ("vlek",), "providers": ("CN=a",)},
    ),
    "a known chip": ({}, {"chips": ("55" * 64,)}),
    "a platform exactly as required": ({}, {"platform_requires": ("alias-check", "ecc")}),
    "a protected platform": ({}, {"platform_requires": ("alias-check",)}),
    "debugging for tests": ({"debug": True, "guest_flags": ("debug",)}, {"unsafe_debug": True}),
    "siblings": ({"guest_flags": ("smt",)}, {"guest_allows": ("smt",)}),
    "migration": ({"guest_flags": ("migration-agent",)}, {"guest_allows": ("migration-agent",)}),
    "CXL": ({"guest_flags": ("cxl",)}, {"guest_allows": ("cxl",)}),
    "a strict guest policy": ({"guest_flags": ("single-socket",)}, {"guest_requires": ("single-socket",)}),
    "the lowest ABI": ({}, {"minimum_abi": Abi(major=1, minor=51)}),
    "an ABI of a higher major number": ({}, {"minimum_abi": Abi(major=0, minor=99)}),
    "a privilege level": ({"vmpl": 1}, {"vmpls": (1, 2)}),
    "no revocation list": ({"skipped": ("no list",)}, {"unsafe_without_revocation": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_a_rule_that_is_kept_holds(name: str) -> None:
    claims, rules = KEPT[name]
    assert failing(claims, rules) == []


def test_the_example_in_the_docstring_is_a_policy() -> None:
    example = (
        (policy.__doc__ or "").partition("\n\n")[2].rpartition("\n\n")[0].replace("96 hexadecimal digits", "0a" * 48)
    )
    found = canonical.validate(Policy, tomllib.loads(example), "policy")
    assert found.minimum_tcb["Genoa"].microcode == 84 and found.guest_allows == ("smt",)


def test_lines_say_what_was_required_and_what_was_found() -> None:
    claims = GOOD.model_copy(update={"guest_flags": ("smt",), "platform_flags": (), "skipped": ("one", "two")})
    rules = Policy(**(BASIC | {"signing_keys": (), "platform_requires": ("ecc", "tsme"), "guest_allows": ("smt",)}))
    said = {line.rule.removeprefix("sev-snp."): (line.expected, line.found) for line in appraise(claims, rules)}
    assert said["signing-key"] == ("one of none", "vcek")
    assert said["vmpl"] == ("one of 0", "0")
    assert said["platform"] == ("ecc, tsme", "none")
    assert said["guest-policy"] == ("none", "smt")
    assert (said["smt"], said["cxl"]) == (("allowed or not", "allowed"), ("not allowed", "not allowed"))
    assert said["revocation"] == ("nothing skipped", "one; two")
    assert {line.found for line in appraise(GOOD, rules) if line.rule == "sev-snp.revocation"} == {"nothing skipped"}
