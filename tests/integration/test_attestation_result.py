"""Attestation results (EAR), read by others: PyJWT for the signature, a JSON schema and enumerations for the claims.

Schema and enumerations are written down here from the drafts (draft-ietf-rats-ear-04, 3 and 4; draft-ietf-rats-ar4si,
2.3), and not taken from the code that writes the results.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attest.appraise import ear
from attest.digest import digest_of
from attest.errors import Exit, MalformedInput, Unsupported, VerificationError, VitrineError
from tests.integration.test_appraise_vectors import TABLE
from tests.tools.appraisals import KEY, Judge, intel
from tests.tools.synthetic_hardware import synthetic_gpus

PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
ENUMERATED = {
    "instance-identity": {2, 96, 97, 99},
    "configuration": {2, 3, 32, 36, 96, 99},
    "executables": {2, 3, 32, 33, 96, 99},
    "file-system": {2, 32, 96, 99},
    "hardware": {2, 32, 96, 97, 99},
    "runtime-opaque": {2, 32, 96, 99},
    "storage-opaque": {2, 32, 96, 99},
    "sourced-data": {2, 32, 96, 99},
}
TIERS = ["none", "affirming", "warning", "contraindicated"]
SCHEMA = {
    "type": "object",
    "required": ["eat_profile", "iat", "ear_verifier_id", "submods"],
    "properties": {
        "eat_profile": {"const": "tag:ietf.org,2026:rats/ear#04"},
        "iat": {"type": "integer", "minimum": 1},
        "ear_status": {"enum": TIERS},
        "ear_verifier_id": {
            "type": "object",
            "required": ["developer", "build"],
            "properties": {"developer": {"type": "string"}, "build": {"type": "string"}},
            "additionalProperties": False,
        },
        "submods": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": ["ear_status"],
                "properties": {
                    "ear_status": {"enum": TIERS},
                    "ear_trustworthiness_vector": {
                        "type": "object",
                        "minProperties": 1,
                        "propertyNames": {"enum": sorted(ENUMERATED)},
                        "additionalProperties": {"type": "integer", "minimum": -128, "maximum": 127},
                    },
                    "ear_appraisal_policy_ids": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                },
                "patternProperties": {"^ear_": {}, "^vitrine_": {}},
                "additionalProperties": False,
            },
        },
    },
    "patternProperties": {"^vitrine_": {}},
    "additionalProperties": False,
}
EXPECTED: dict[str, tuple[str, dict[str, dict[str, int]]]] = {
    "tdx": ("affirming", {
        "tdx": {"configuration": 2, "executables": 3, "hardware": 2, "instance-identity": 2, "runtime-opaque": 2},
    }),
    "tdx-other-firmware": ("contraindicated", {
        "tdx": {"configuration": 2, "executables": 96, "hardware": 2, "instance-identity": 2, "runtime-opaque": 2},
    }),
    "tdx-v4-debug": ("contraindicated", {
        "tdx": {"configuration": -33, "executables": -33, "hardware": -33, "instance-identity": -33,
                "runtime-opaque": 96},
    }),
    "sgx-with-flaws": ("contraindicated", {
        "tdx": {"configuration": 2, "executables": 3, "hardware": 96, "instance-identity": 2, "runtime-opaque": 2},
    }),
    "snp-whole": ("affirming", {
        "sev-snp": {"configuration": 2, "executables": 3, "hardware": 2, "instance-identity": 2, "runtime-opaque": 2},
    }),
    "milan-vcek-of-another-milan": ("contraindicated", {"sev-snp": {"hardware": 99}}),
    "nitro-whole": ("affirming", {
        "nitro": {"configuration": 2, "executables": 3, "hardware": 2, "instance-identity": 2},
    }),
    "nitro-debug": ("contraindicated", {
        "nitro": {"configuration": 96, "executables": -33, "hardware": -33, "instance-identity": -33},
    }),
    "gpus-whole": ("affirming", {
        "nvidia-gpu": {
            "configuration": 2, "executables": 3, "hardware": 2, "instance-identity": 2, "runtime-opaque": 2,
        },
    }),
    "gpus-asked-by-others": ("contraindicated", {
        "nvidia-gpu": {"configuration": -33, "executables": -33, "hardware": -33, "instance-identity": 97,
                       "runtime-opaque": -33},
    }),
    "tpm-for-hardware": ("contraindicated", {
        "tpm": {"configuration": -33, "executables": -33, "hardware": -33, "instance-identity": 97},
    }),
}  # fmt: skip


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Appraises in a folder of its own."""
    return Judge(tmp_path)


def tier(value: int) -> str:
    """The tier of a claim's value (draft-ietf-rats-ar4si, 2.3.2)."""
    for name, ranges in {
        "none": [(-1, 1)], "affirming": [(2, 31), (-32, -2)], "warning": [(32, 95), (-96, -33)],
        "contraindicated": [(96, 127), (-128, -97)],
    }.items():  # fmt: skip
        if any(low <= value <= high for low, high in ranges):
            return name
    raise ValueError(value)


def result(judge: Judge, case: Any) -> str:
    """The result of a case."""
    out = judge.folder / "result.jwt"
    out.unlink(missing_ok=True)
    judge(case, "--ear", str(out), "--ear-key", str(judge.folder / "key"))
    return out.read_text().strip()


@pytest.mark.parametrize("name", EXPECTED)
def test_others_read_what_was_found(name: str, data: Path, judge: Judge) -> None:
    make = next(row[1] for row in TABLE if row[0] == name)
    value = jwt.decode(result(judge, make(data / "attestation")), PUBLIC, algorithms=["ES256"])
    jsonschema.validate(value, SCHEMA)
    status, vectors = EXPECTED[name]
    assert (value["ear_status"], {of: part["ear_trustworthiness_vector"] for of, part in value["submods"].items()}) == (
        status,
        vectors,
    )
    for part in value["submods"].values():
        tiers = [tier(found) for found in part["ear_trustworthiness_vector"].values()]
        assert part["ear_status"] == max(tiers, key=TIERS.index)
        for claim, found in part["ear_trustworthiness_vector"].items():
            assert found in ENUMERATED[claim] or found < -1
        assert part["ear_appraisal_policy_ids"] == [digest_of((judge.folder / "policy").read_bytes())]
    assert value["ear_status"] == max((part["ear_status"] for part in value["submods"].values()), key=TIERS.index)


def test_every_rule_is_of_a_claim_that_others_know(data: Path, judge: Judge) -> None:
    """A rule that no list names falls to hardware: these may, and no others."""
    rules = set()
    for name in EXPECTED:
        make = next(row[1] for row in TABLE if row[0] == name)
        rules |= {line["rule"] for line in judge(make(data / "attestation"))[1]["lines"]}
    fallen = {re.sub(r"\.gpu-[0-9]$", "", rule) for rule in rules if ear.claim_of(rule) == "hardware"}
    assert fallen == {
        "nitro.revocation", "nvgpu.revocation", "sev-snp.committed-tcb", "sev-snp.current-tcb", "sev-snp.firmware",
        "sev-snp.launch-tcb", "sev-snp.provisional-firmware", "sev-snp.reported-tcb", "sev-snp.revocation",
        "sev-snp.signature", "sev-snp.signing-key", "tdx.advisories", "tdx.evaluation-data-number", "tdx.root",
        "tdx.skipped", "tdx.tcb-status", "tpm.skipped",
    }  # fmt: skip


def test_any_other_token_is_refused(data: Path, judge: Judge) -> None:
    token = result(judge, intel(data / "attestation", "tdx"))
    assert ear.verify(token, KEY.public_key())["ear_status"] == "affirming"
    for at in range(0, len(token), 3):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(VitrineError):
            ear.verify(changed, KEY.public_key())
    with pytest.raises(VerificationError, match="ear/signature"):
        ear.verify(token, ec.generate_private_key(ec.SECP256R1()).public_key())
    signed = ear.verify(token, KEY.public_key())
    for algorithm, headers, error in (
        ("ES256", {"crit": ["exp"], "exp": 1}, Unsupported),
        ("none", {}, MalformedInput),
    ):
        other = jwt.encode(signed, KEY if algorithm == "ES256" else None, algorithm=algorithm, headers=headers)
        with pytest.raises(error):
            ear.verify(other, KEY.public_key())
    old = jwt.encode(signed | {"eat_profile": "tag:github.com,2023:veraison/ear"}, KEY, algorithm="ES256")
    with pytest.raises(VerificationError, match="ear/profile"):
        ear.verify(old, KEY.public_key())


def test_a_result_is_never_written_over(data: Path, judge: Judge) -> None:
    case = synthetic_gpus()(data)
    token = result(judge, case)
    out = judge.folder / "result.jwt"
    code, found = judge(case, "--ear", str(out), "--ear-key", str(judge.folder / "key"))
    assert (code, "exists already" in found["error"]) == (Exit.FAULT, True)
    assert out.read_text().strip() == token
