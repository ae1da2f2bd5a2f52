"""A policy's rules: each holds where it should, and fails for its own reason alone."""

from __future__ import annotations

import pytest

from attest import canonical
from attest.appraisal import require
from attest.errors import MalformedInput, VerificationError
from attest.tpm import Claims, Policy, appraise
from attest.tpm.boot import Boot, Program
from attest.tpm.claims import Counter, _text
from attest.tpm.ima import File
from attest.tpm.policy import CounterRule

GOOD = "ab" * 32
CLAIMS = Claims(
    bound="00" * 32,
    measurements={f"sha256:{register}": f"{register:064x}" for register in range(24)},
    debug=False,
    kind="hardware",
    vouched_by="endorsement-key",
    root="sha256:" + "11" * 32,
    manufacturer="53544D20",
    manufacturer_name="STM",
    model="ST33KTPM",
    model_version="id:00010002",
    key="000b" + "22" * 32,
    resets=3,
    restarts=0,
    clock_ms=5,
    explained={f"sha256:{register}": "event-log" for register in range(8)}
    | {"sha256:10": "ima-list", "sha256:11": "untouched", "sha256:12": "unexplained"},
    bank="sha256",
    boot=Boot(
        secure_boot=True,
        debug=False,
        lists={"dbx": ("33" * 32, "44" * 32)},
        programs=(Program(digest=GOOD, path="\\a.efi"),),
        loads=(),
    ),
    files=(File(path="/a", digest="sha256:" + GOOD, violation=False),),
    counter=Counter(index=0x01500010, value=41),
    skipped=(),
)
STRICT = Policy(
    manufacturers=("53544D20",),
    registers={"4": (f"{4:064x}", GOOD)},
    revoked=("33" * 32,),
    programs=(GOOD, "cd" * 32),
    files=("sha256:" + GOOD,),
    counter=CounterRule(index=0x01500010, at_least=41),
    explained=(*range(8), 10, 11),
)


def failed(claims: Claims = CLAIMS, policy: Policy = STRICT) -> list[str]:
    """The rules that do not hold."""
    return [line.rule for line in appraise(claims, policy) if not line.holds]


def with_boot(**fields: object) -> Claims:
    """Claims with another boot."""
    assert CLAIMS.boot is not None
    return CLAIMS.model_copy(update={"boot": CLAIMS.boot.model_copy(update=fields)})


def with_(**fields: object) -> Claims:
    """Other claims."""
    return CLAIMS.model_copy(update=fields)


def test_every_rule_is_shown_and_holds() -> None:
    lines = appraise(CLAIMS, STRICT)
    assert [line.rule for line in lines if not line.holds] == []
    assert [line.rule for line in lines] == [
        "tpm.kind", "tpm.skipped", "tpm.debug", "tpm.quoted", "tpm.explained", "tpm.manufacturer", "tpm.register-4",
        "tpm.secure-boot", "tpm.revoked", "tpm.programs", "tpm.files", "tpm.counter",
    ]  # fmt: skip
    require(lines)


def test_the_default_is_strict() -> None:
    assert failed(policy=Policy()) == []
    assert [line.rule for line in appraise(CLAIMS, Policy())] == [
        "tpm.kind", "tpm.skipped", "tpm.debug", "tpm.quoted", "tpm.explained", "tpm.secure-boot",
    ]  # fmt: skip
    assert failed(with_(kind="software"), Policy()) == ["tpm.kind"]
    assert failed(with_(kind="unknown"), Policy()) == ["tpm.kind"]
    assert failed(with_(debug=True), Policy()) == ["tpm.debug"]
    assert failed(with_(skipped=("Something.",)), Policy()) == ["tpm.skipped"]
    assert failed(with_boot(secure_boot=False), Policy()) == ["tpm.secure-boot"]
    assert failed(with_boot(secure_boot=None), Policy()) == ["tpm.secure-boot"]
    assert failed(with_(boot=None), Policy()) == ["tpm.secure-boot"]
    with pytest.raises(VerificationError, match=r"appraisal/tpm\.kind"):
        require(appraise(with_(kind="software"), Policy()))


@pytest.mark.parametrize("register", range(8))
@pytest.mark.parametrize("how", ["unexplained", "untouched", "ima-list", None])
def test_a_register_of_the_firmware_is_explained_by_its_log_alone(register: int, how: str | None) -> None:
    explained = {**CLAIMS.explained, f"sha256:{register}": how}
    if how is None:
        del explained[f"sha256:{register}"]
    assert failed(with_(explained=explained)) == ["tpm.explained"]


@pytest.mark.parametrize(
    ("claims", "policy", "rules"),
    [
        (with_(measurements={k: v for k, v in CLAIMS.measurements.items() if k != "sha256:7"}), {}, ["tpm.quoted"]),
        (with_(measurements={k: v for k, v in CLAIMS.measurements.items() if k != "sha256:4"}), {},
         ["tpm.quoted", "tpm.register-4"]),
        (with_(measurements=CLAIMS.measurements | {"sha256:4": "ef" * 32}), {}, ["tpm.register-4"]),
        (CLAIMS, {"explained": (12,)}, ["tpm.explained"]),
        (with_(manufacturer="00001014"), {}, ["tpm.manufacturer"]),
        (with_(manufacturer=None), {}, ["tpm.manufacturer"]),
        (CLAIMS, {"revoked": ("33" * 32, "55" * 32)}, ["tpm.revoked"]),
        (with_boot(lists={}), {}, ["tpm.revoked"]),
        (with_boot(programs=()), {}, ["tpm.programs"]),
        (with_boot(programs=(Program(digest=GOOD, path=""), Program(digest="ef" * 32, path=""))), {}, ["tpm.programs"]),
        (with_(boot=None), {}, ["tpm.secure-boot", "tpm.revoked", "tpm.programs"]),
        (with_(bank="sha384"), {}, ["tpm.secure-boot", "tpm.revoked", "tpm.programs"]),
        (with_(files=()), {}, ["tpm.files"]),
        (with_(files=(File(path="/b", digest="sha256:" + "00" * 32, violation=False),)), {}, ["tpm.files"]),
        (with_(files=(File(path="/a", digest="sha256:" + GOOD, violation=True),)), {}, ["tpm.files"]),
        (with_(counter=None), {}, ["tpm.counter"]),
        (with_(counter=Counter(index=0x01500010, value=40)), {}, ["tpm.counter"]),
        (with_(counter=Counter(index=0x01500011, value=50)), {}, ["tpm.counter"]),
        (with_(counter=Counter(index=0x01500010, value=42)), {}, []),
    ],
)  # fmt: skip
def test_a_rule_that_does_not_hold(claims: Claims, policy: dict[str, object], rules: list[str]) -> None:
    assert failed(claims, STRICT.model_copy(update=policy)) == rules


def test_what_is_not_safe_has_to_be_asked_for_by_that_name() -> None:
    lenient = Policy(unsafe_debug=True, unsafe_skipped=True, kinds=("unknown",), secure_boot=False)
    assert failed(with_(debug=True, skipped=("Something.",), kind="unknown", boot=None), lenient) == []


def test_another_bank_is_not_looked_at() -> None:
    assert {"tpm.quoted", "tpm.explained", "tpm.register-4"} <= set(
        failed(policy=STRICT.model_copy(update={"bank": "sha384"}))
    )


@pytest.mark.parametrize(
    "value",
    [
        {"bank": "sha1"}, {"quoted": [24]}, {"registers": {"24": [GOOD]}}, {"registers": {"4": ["abc"]}},
        {"kinds": ["any"]}, {"unknown": 1}, {"counter": {"index": 1, "at_least": 0}}, {"manufacturers": ["STM"]},
    ],
)  # fmt: skip
def test_a_policy_is_read_strictly(value: dict[str, object]) -> None:
    with pytest.raises(MalformedInput):
        canonical.validate(Policy, value, "policy")


def texts(rule: str, claims: Claims = CLAIMS, policy: Policy = STRICT) -> tuple[str, str]:
    """What a line says."""
    (line,) = [line for line in appraise(claims, policy) if line.rule == rule]
    return line.expected, line.found


def test_a_line_says_what_was_expected_and_found() -> None:
    assert texts("tpm.debug") == ("no debugger", "no debugger")
    assert texts("tpm.debug", with_(debug=True), Policy(unsafe_debug=True)) == ("any", "a debugger")
    assert texts("tpm.skipped") == ("nothing left unchecked", "nothing")
    assert texts("tpm.quoted")[0] == "sha256 registers 0, 1, 2, 3, 4, 5, 6, 7"
    assert texts("tpm.manufacturer", with_(manufacturer=None)) == ("53544D20", "none")
    assert texts("tpm.register-4", with_(measurements={}))[1] == "none"
    assert texts("tpm.manufacturer") == ("53544D20", "53544D20")
    assert texts("tpm.register-4")[1] == f"{4:064x}"
    assert texts("tpm.counter")[1] == "0x1500010 at 41"
    assert texts("tpm.files")[1] == "1 files, besides nothing"
    assert texts("tpm.secure-boot", with_(boot=None)) == ("on", "not known")
    assert texts("tpm.secure-boot", with_boot(secure_boot=False))[1] == "off"
    assert texts("tpm.programs", with_(boot=None))[1] == "not known"
    assert texts("tpm.programs", with_boot(programs=()))[1] == "besides nothing"
    assert texts("tpm.counter", with_(counter=None)) == ("0x1500010 at least 41", "none")


def test_long_lists_are_cut_in_messages() -> None:
    many = Policy(revoked=tuple(f"{number:064x}" for number in range(20)))
    (line,) = [line for line in appraise(CLAIMS, many) if line.rule == "tpm.revoked"]
    assert line.found.endswith("and 12 more")
    assert len(line.found) < 700


def test_a_manufacturer_has_a_name_where_its_number_is_one() -> None:
    assert [_text(number) for number in ("53544D20", "49465800", "00001014", "00000000", "FFFFFFFF")] == [
        "STM", "IFX", None, None, None,
    ]  # fmt: skip
