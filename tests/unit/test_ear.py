"""The attestation result: what its claims are made from, and every check of a token that somebody else hands over."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attest.appraisal import Line
from attest.appraise import Appraisal, ear
from attest.errors import MalformedInput, Unsupported, VerificationError

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = "sha256:" + "0" * 64


def line(rule: str, holds: bool = True) -> Line:
    return Line(rule=rule, expected="one", found="one" if holds else "other", holds=holds, why="a reason")


def result(*lines: Line, downgrades: tuple[str, ...] = (), unauthentic: tuple[str, ...] = ()) -> dict[str, Any]:
    return ear.claims(Appraisal(NOW, {}, lines, downgrades, unauthentic), policy_digest=POLICY, issued=NOW)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token(header: Any, payload: Any) -> str:
    """Signed as JWS says, whatever it says."""
    signed = ".".join(b64(json.dumps(part).encode()) for part in (header, payload))
    r, s = decode_dss_signature(KEY.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


HEADER = {"alg": "ES256", "typ": "JWT"}


def test_a_token_says_what_was_signed() -> None:
    value = result(line("tpm.kind"))
    for text in (ear.sign(value, KEY), token(HEADER, value)):
        assert ear.verify(text, KEY.public_key()) == value


@pytest.mark.parametrize(
    ("header", "payload", "kind"),
    [
        ([], {}, Unsupported),
        ("alg", {}, Unsupported),
        ({}, {}, Unsupported),
        (HEADER | {"alg": "none"}, {}, Unsupported),
        (HEADER | {"alg": "HS256"}, {}, Unsupported),
        (HEADER | {"crit": ["exp"]}, {}, Unsupported),
        (HEADER, [ear.PROFILE], MalformedInput),
        (HEADER, "eat_profile", MalformedInput),
        (HEADER, {"eat_profile": "another"}, VerificationError),
        (HEADER, {}, VerificationError),
    ],
)
def test_other_tokens_are_refused_though_signed(header: Any, payload: Any, kind: type[Exception]) -> None:
    if isinstance(payload, dict) and kind is Unsupported:
        payload = result(line("tpm.kind"))
    with pytest.raises(kind):
        ear.verify(token(header, payload), KEY.public_key())


def test_a_token_is_bounded_and_in_one_form() -> None:
    good = ear.sign(result(line("tpm.kind")), KEY)
    padded = result(line("tpm.kind")) | {"more": ""}
    room = (ear.MAX_BYTES - len(token(HEADER, padded))) * 3 // 4 // 3 * 3
    longest = token(HEADER, padded | {"more": "x" * room})
    assert ear.MAX_BYTES - 4 <= len(longest) <= ear.MAX_BYTES
    assert ear.verify(longest, KEY.public_key())["more"]
    with pytest.raises(MalformedInput, match="at most"):
        ear.verify(token(HEADER, padded | {"more": "x" * (room + 8)}), KEY.public_key())
    for text in (good + "A", good[:-1], good + "=", good.replace(".", "..", 1), f" {good}", ""):
        with pytest.raises(MalformedInput):
            ear.verify(text, KEY.public_key())


@pytest.mark.parametrize(
    ("lines", "downgrades", "status", "claim"),
    [
        ((line("tpm.kind"),), (), "affirming", ear.APPROVED),
        ((line("tpm.kind"),), ("left out",), "warning", ear.LEFT_OUT),
        ((line("tpm.kind", holds=False),), (), "contraindicated", ear.UNRECOGNISED),
        ((line("tpm.kind", holds=False),), ("left out",), "contraindicated", ear.UNRECOGNISED),
        ((line("tpm.kind", holds=False), line("tpm.bound")), (), "contraindicated", ear.UNRECOGNISED),
        ((line("tpm.bound"), line("tpm.kind", holds=False)), (), "contraindicated", ear.UNRECOGNISED),
    ],
)
def test_a_claim_is_the_worst_of_its_rules(
    lines: tuple[Line, ...], downgrades: tuple[str, ...], status: str, claim: int
) -> None:
    part = result(*lines, downgrades=downgrades)["submods"]["tpm"]
    assert part["ear_status"] == status
    assert part["ear_trustworthiness_vector"] == {"instance-identity": claim}


def test_evidence_that_is_not_authentic_is_told_from_a_rule_that_does_not_hold() -> None:
    lines = (line("tpm.certificate", holds=False), line("tpm.secure-boot", holds=False))
    part = result(*lines, unauthentic=("tpm.certificate",))["submods"]["tpm"]
    assert part["ear_trustworthiness_vector"] == {
        "configuration": ear.CONTRAINDICATED, "hardware": ear.UNAUTHENTIC,
    }  # fmt: skip


def test_platforms_are_told_apart() -> None:
    parts = result(line("tpm.kind"), line("nvgpu.driver-version", holds=False))["submods"]
    assert {name: part["ear_status"] for name, part in parts.items()} == {
        "tpm": "affirming", "nvidia-gpu": "contraindicated",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "claim"),
    [
        ("sev-snp.measurement", "executables"),
        ("tpm.register-4", "executables"),
        ("tpm.explained.sha256:7", "executables"),
        ("azure.pcr11", "executables"),
        ("nitro.pcr0", "executables"),
        ("nvgpu.driver-version", "executables"),
        ("sev-snp.family_id", "executables"),
        ("tpm.secure-boot", "configuration"),
        ("sev-snp.vmpl", "configuration"),
        ("tdx.debug", "runtime-opaque"),
        ("tpm.debug", "configuration"),
        ("tpm.bound", "instance-identity"),
        ("sev-snp.chip-id", "instance-identity"),
        ("hardware.required", "instance-identity"),
        ("sev-snp.tcb.reported", "hardware"),
        ("tdx.vmplus", "hardware"),
        ("tpm.certificate", "hardware"),
    ],
)
def test_each_rule_is_of_one_claim(rule: str, claim: str) -> None:
    (part,) = result(line(rule))["submods"].values()
    assert part["ear_trustworthiness_vector"] == {claim: ear.BOOTED if claim == "executables" else ear.APPROVED}
