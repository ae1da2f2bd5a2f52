"""The appraisal policy: every requirement is met or refused by name, and its TOML is read strictly."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from attest import canonical, policy, reference
from attest.digest import digest_of
from attest.errors import Exit, MalformedInput, Unsupported, VerificationError
from attest.manifest import ExecutionManifest
from attest.policy import Policy
from attest.rollback import Kept, Thing
from tests.tools import swtpm
from tests.tools.manifests import CLAIM, MANIFEST, D, self_test


def manifest(**more: Any) -> ExecutionManifest:
    return canonical.validate(ExecutionManifest, {**MANIFEST, **more}, "manifest")


def seal(worker: str, level: str) -> dict[str, Any]:
    return {**MANIFEST["seal"][0], "worker": worker, "level": level}


INCOMPLETE = {"complete": False, "ended_by": "failed", "counts": {"planned": 9, "run": 3, "failed": 1}}
BROKEN = {"claims": [{"claim": CLAIM, "value": "1.000000", "holds": True}, {"claim": CLAIM, "holds": False}]}


def test_the_default_requires_a_complete_run_and_nothing_else() -> None:
    assert policy.read(b"") == Policy.default() == Policy()
    everything_else = {
        "lock": {**MANIFEST["lock"], "origin": "made-for-this-run"},
        "seal": [seal("eval", "partial")],
        "job": {**MANIFEST["job"], "attempt": 99},
        "resumed": [{"attempt": 98, "samples": 1}],
        "determinism": [self_test("m", mates=3)],
        **BROKEN,
    }
    Policy.default().check(manifest(**everything_else))
    Policy.default().check(manifest(claims=[]))
    with pytest.raises(VerificationError) as caught:
        Policy.default().check(manifest(**INCOMPLETE))
    assert caught.value.code == "complete"


@pytest.mark.parametrize(
    ("text", "good", "bad", "code", "found"),
    [
        ("complete = true", {}, INCOMPLETE, "complete", "4 of 9 samples (failed)"),
        (
            "reviewed_lock = true",
            {},
            {"lock": {**MANIFEST["lock"], "origin": "made-for-this-run"}},
            "reviewed-lock",
            "made",
        ),
        ("exact_numerics = true", {}, {"determinism": [self_test("m", mates=3)]}, "exact-numerics", "['m']"),
        (
            "full_seal = true",
            {"seal": [seal("eval", "full"), seal("model.m", "full")]},
            {"seal": [seal("eval", "full"), seal("model.m", "partial")]},
            "full-seal",
            "['model.m']",
        ),
        ("walls = ['vm', 'container']", {"wall": "vm", "evidence": ("tpm",)}, {"wall": "process"}, "wall", "process"),
        ("walls = ['process']", {"wall": "process"}, {"wall": "vm", "evidence": ("tpm",)}, "wall", "vm"),
        (f"locks = ['{D}']", {}, {"lock": {**MANIFEST["lock"], "digest": digest_of(b"y")}}, "lock", digest_of(b"y")),
        (
            "minimum_lock_version = 4",
            {"lock": {**MANIFEST["lock"], "version": 4}},
            {"lock": {**MANIFEST["lock"], "version": 3}},
            "lock-version",
            "3",
        ),
        (
            "max_attempts = 2",
            {"job": {**MANIFEST["job"], "attempt": 2}},
            {"job": {**MANIFEST["job"], "attempt": 3}},
            "attempts",
            "3",
        ),
        (
            "uninterrupted = true",
            {"job": {**MANIFEST["job"], "attempt": 3}},
            {"job": {**MANIFEST["job"], "attempt": 3}, "resumed": [{"attempt": 1, "samples": 1}]},
            "uninterrupted",
            "attempt 1: 1",
        ),
        ("claims_hold = true", {}, BROKEN, "claims", "exact of arc on m"),
        ("claims_hold = true", {}, {"claims": []}, "claims", "without claims"),
    ],
)
def test_every_requirement(text: str, good: dict[str, Any], bad: dict[str, Any], code: str, found: str) -> None:
    required = policy.read(text.encode())
    required.check(manifest(**good))
    with pytest.raises(VerificationError) as caught:
        required.check(manifest(**bad))
    assert (caught.value.layer, caught.value.code, caught.value.exit_code) == ("policy", code, Exit.REJECTED)
    assert found in caught.value.found


@pytest.mark.parametrize("text", ["walls = []", "locks = []"])
def test_an_empty_list_accepts_nothing(text: str) -> None:
    with pytest.raises(VerificationError):
        policy.read(text.encode()).check(manifest())


def test_as_many_witnesses_as_required() -> None:
    for required, found in ((0, 0), (1, 1), (2, 3)):
        policy.read(f"required_witnesses = {required}".encode()).check_witnesses(found)
    with pytest.raises(VerificationError, match="policy/witnesses: expected cosignatures of at least 2, found 1"):
        policy.read(b"required_witnesses = 2").check_witnesses(1)


def test_the_image_is_as_new_as_required() -> None:
    """The recorded boot is of a real image, of before images had a version."""
    old = reference.read((swtpm.RECORDED / "reference.json").read_bytes())
    Policy.default().check_image(None)
    required = policy.read(b"minimum_image_version = 1795305600")
    for newer in (1795305600, 1795305601):
        required.check_image(old.model_copy(update={"version": newer}))
    with pytest.raises(VerificationError, match=r"reference/version.*found 1795305599"):
        required.check_image(old.model_copy(update={"version": 1795305599}))
    with pytest.raises(VerificationError, match=r"reference/version.*found none"):
        required.check_image(old)
    with pytest.raises(VerificationError, match=r"policy/image-version.*--reference"):
        required.check_image(None)
    with pytest.raises(VerificationError, match="reference/version"):
        policy.read(b"minimum_image_version = 0").check_image(old)


def test_versions_have_to_be_in_a_tpm_where_that_is_required() -> None:
    required = policy.read(b"rollback_refused = true")
    lock, image = (Kept(Thing(kind, "gsm8k"), 4) for kind in ("lock", "image"))
    for wall, kept, enough in (
        ("process", [lock], True),
        ("process", [], False),
        ("process", [image], False),
        ("vm", [lock, image], True),
        ("vm", [lock], False),
    ):
        behind = manifest().model_copy(update={"wall": wall})
        policy.read(b"").check_kept(behind, kept)
        with contextlib.nullcontext() if enough else pytest.raises(VerificationError, match="policy/rollback"):
            required.check_kept(behind, kept)


def test_what_hardware_has_to_say_is_a_table_or_read_already() -> None:
    found = policy.read(b"[hardware]\nrequire = ['tpm']").hardware
    assert found is not None and found.require == ("tpm",)
    assert Policy(hardware=found).hardware is found
    assert Policy(hardware=None).hardware is None
    for text in (b"hardware = 'tpm'", b"[hardware]\nrequire = 'tpm'"):
        with pytest.raises(MalformedInput, match="hardware"):
            policy.read(text)


def test_a_policy_is_bounded() -> None:
    longest = b"#".ljust(policy.MAX_BYTES, b" ")
    assert policy.read(longest) == Policy()
    with pytest.raises(MalformedInput, match="at most"):
        policy.read(longest + b" ")


def test_completeness_can_be_waived() -> None:
    policy.read(b"complete = false").check(manifest(**INCOMPLETE))


def test_a_whole_policy_is_read() -> None:
    text = f"""
        format = "vitrine/appraisal-policy/v1"   # a comment
        identity = "https://lab.example/appliance/*"
        complete = true
        reviewed_lock = true
        full_seal = true
        exact_numerics = true
        walls = ["container", "vm"]
        locks = ["{D}"]
        minimum_lock_version = 2
        minimum_image_version = 1795305600
        rollback_refused = true
        max_attempts = 1
        uninterrupted = true
        claims_hold = true
        assurance = "quoted"
        required_witnesses = 2
    """
    assert policy.read(text.encode()).model_dump() == {
        "format": "vitrine/appraisal-policy/v1",
        "identity": "https://lab.example/appliance/*",
        "complete": True,
        "reviewed_lock": True,
        "full_seal": True,
        "exact_numerics": True,
        "walls": ("container", "vm"),
        "locks": (D,),
        "minimum_lock_version": 2,
        "minimum_image_version": 1795305600,
        "rollback_refused": True,
        "max_attempts": 1,
        "uninterrupted": True,
        "claims_hold": True,
        "assurance": "quoted",
        "required_witnesses": 2,
        "hardware": None,
    }


@pytest.mark.parametrize(
    "data",
    [
        b"surplus = 1",
        b"Complete = true",
        b"complete = 'true'",
        b"complete = 1",
        b"complete = true\ncomplete = true",
        b"complete",
        b"max_attempts = 0",
        b"minimum_lock_version = 0",
        b"minimum_lock_version = 9007199254740992",
        b"minimum_image_version = '1'",
        b"required_witnesses = -1",
        b"required_witnesses = true",
        b"max_attempts = 1.0",
        b"max_attempts = '1'",
        b"max_attempts = true",
        b"max_attempts = 2024-01-01",
        b"max_attempts = nan",
        b"max_attempts = 1e999",
        b"max_attempts = " + b"9" * 5000,
        b"max_attempts = 0x" + b"f" * 5000,
        b"walls = ['cloud']",
        b"walls = 'vm'",
        b"locks = ['sha256:0']",
        b"locks = [1]",
        b"identity = ''",
        b"identity = '" + b"x" * 401 + b"'",
        b"[walls]\nvm = true",
        b"[[policy]]\ncomplete = true",
        b"x = " + b"[" * 20_000,
        b"x = " + b"{a=" * 20_000,
        b".".join([b"a"] * 1500) + b" = 1",
        b"\xff",
        b"\xef\xbb\xbfcomplete = true",
        b"complete = true\0",
        "complete = true".encode("utf-16"),
        b'{"complete": true}',
        b"#" * (policy.MAX_BYTES + 1),
    ],
    ids=lambda data: repr(data[:25]),
)
def test_what_is_not_a_policy_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="policy"):
        policy.read(data)


def test_another_version_is_unsupported() -> None:
    with pytest.raises(Unsupported):
        policy.read(b'format = "vitrine/appraisal-policy/v2"\nfuture = true')


@given(st.text("ab=[]{}.\"'#\n ,0123456789-:eTZ_+xinf\\", max_size=40).map(str.encode) | st.binary(max_size=20))
@example(b"max_attempts = 00:99")
def test_any_bytes_give_a_policy_or_our_error(data: bytes) -> None:
    try:
        assert isinstance(policy.read(data), Policy)
    except (MalformedInput, Unsupported) as error:
        assert str(error).startswith("policy")


@pytest.mark.parametrize("wanted", ["signed", "measured", "quoted", "confidential"])
def test_the_ladder_is_climbed_as_far_as_required(wanted: str) -> None:
    required = policy.read(f"assurance = '{wanted}'".encode())
    ladder = ["signed", "measured", "quoted (software TPM)", "confidential"]
    enough = [step.partition(" ")[0] for step in ladder].index(wanted) + 1
    required.check_assurance(ladder[:enough])
    if enough > 1:
        with pytest.raises(VerificationError, match="policy/assurance"):
            required.check_assurance(ladder[: enough - 1])
