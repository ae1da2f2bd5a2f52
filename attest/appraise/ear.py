"""An appraisal as an EAT Attestation Result (EAR), signed: a JWT that other RATS software reads.

Source: draft-ietf-rats-ear-04 (names of claims, profile), draft-ietf-rats-ar4si, 2.3 (the trustworthiness vector). Each
rule of a policy is of one of the vector's claims, and a claim is the worst of its rules. Where something was left out
on request the draft has no value of its own for that: it is a warning of our own, a negative number.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attest import __version__, canonical, validity
from attest.appraisal import Line
from attest.appraise.verdict import Appraisal, Status
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported, VerificationError

PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"
ALGORITHM: Final = "ES256"
LEFT_OUT: Final = -33
"""A warning that is not of the standard's: something was not looked at, because the policy opts out of it."""
APPROVED: Final = 2
BOOTED: Final = 3
"""Executables: only approved ones were loaded during the boot; what came after is not measured."""
CONTRAINDICATED: Final = 96
UNRECOGNISED: Final = 97
"""Identity: not that of the machine or run that it should be."""
UNAUTHENTIC: Final = 99
"""Cryptographic validation of the evidence has failed."""
MAX_BYTES: Final = 1 << 20
COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{85}[AQgw]")
"""A compact JWS with 64 bytes of signature, in the one spelling that base64url has for them."""
DEVELOPER: Final = "https://vitrine.dev"
PLATFORMS: Final = {"nvgpu": "nvidia-gpu"}
"""Layers of rules that are named otherwise than their platform."""

EXECUTABLES: Final = (
    "measurement", "measurements", "register", "registers", "program", "programs", "file", "files", "id-key",
    "author-key", "identity", "rim", "driver", "vbios", "explained", "quoted", "family-id", "image-id",
    "guest-svn", "selection", "event-log", "ima-list", "product",
)  # fmt: skip
CONFIGURATION: Final = (
    "guest-policy", "guest-abi", "vmpl", "smt", "migration-agent", "cxl", "platform", "secure-boot",
    "migratable", "sept-ve-enabled", "attributes", "features", "protected", "host-data", "console",
)  # fmt: skip
PCR: Final = re.compile("pcr[0-9]+$|sha256:[0-9]+$")
"""Rules that are named by a register: those of Nitro, and of a vTPM on Azure."""
OPAQUE: Final = ("debug",)
"""Whether the host may look into memory, where hardware encrypts it; elsewhere a debugger is a setting."""
ENCRYPTED: Final = ("sev-snp", "tdx", "azure", "nvgpu")
IDENTITY: Final = ("bound", "nonce", "chip", "chip-id", "kind", "manufacturer", "provider", "counter", "required")


def claims(appraisal: Appraisal, *, policy_digest: str, issued: datetime) -> dict[str, Any]:
    """The claims set. `policy_digest` names the policy; one submodule a platform, others for what is common."""
    parts: dict[str, list[Line]] = {}
    for line in appraisal.lines:
        name = line.rule.partition(".")[0]
        parts.setdefault(PLATFORMS.get(name, name), []).append(line)
    submodules = {
        name: {
            "ear_status": _status(lines, appraisal),
            "ear_trustworthiness_vector": _vector(lines, appraisal),
            "ear_appraisal_policy_ids": [policy_digest],
            "vitrine_lines": [line.model_dump(mode="json") for line in lines],
        }
        for name, lines in sorted(parts.items())
    }
    return {
        "eat_profile": PROFILE,
        "iat": int(issued.timestamp()),
        "ear_verifier_id": {"developer": DEVELOPER, "build": f"vitrine {__version__}"},
        "ear_status": appraisal.status,
        "vitrine_as_of": validity.write_time(appraisal.as_of),
        "vitrine_downgrades": list(appraisal.downgrades),
        "submods": submodules,
    }


def sign(value: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> str:
    """The JWT (compact JWS, ES256) of a claims set, signed by a P-256 key, which its header names by digest."""
    import jwt  # not in the sealed image, which judges nothing

    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return jwt.encode(value, key, algorithm=ALGORITHM, headers={"kid": digest_of(spki)})


def verify(token: str, key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
    """The claims set in `token`, signed by `key`. Raises `VerificationError` (layer `ear`), `MalformedInput`."""

    if len(token) > MAX_BYTES or not COMPACT.fullmatch(token):
        raise MalformedInput("EAR", f"expected a compact JWS of at most {MAX_BYTES} characters")
    header, payload, signature = (_decode(part) for part in token.split("."))
    fields = canonical.loads(header, "EAR header")
    if not isinstance(fields, dict) or fields.get("alg") != ALGORITHM or "crit" in fields:
        raise Unsupported("EAR", f"expected {ALGORITHM} and no critical extension")
    try:
        half = len(signature) // 2
        r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        signed = token.rpartition(".")[0].encode("ascii")
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise VerificationError(
            "ear", "signature", expected="a signature by the verifier's key", found="another"
        ) from None
    value = canonical.loads(payload, "EAR")
    if not isinstance(value, dict):
        raise MalformedInput("EAR", "expected an object of claims")
    if value.get("eat_profile") != PROFILE:
        raise VerificationError("ear", "profile", expected=PROFILE, found=value.get("eat_profile"))
    return value


def _decode(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise MalformedInput("EAR", "expected base64url without padding") from None


def _status(lines: Iterable[Line], appraisal: Appraisal) -> Status:
    if not all(line.holds for line in lines):
        return "contraindicated"
    return "warning" if appraisal.downgrades else "affirming"


def _vector(lines: Iterable[Line], appraisal: Appraisal) -> dict[str, int]:
    """The claims that `lines` are about, each with its value."""
    parts: dict[str, list[Line]] = {}
    for line in lines:
        parts.setdefault(claim_of(line.rule), []).append(line)
    return {claim: _value(claim, of, appraisal) for claim, of in sorted(parts.items())}


def _value(claim: str, lines: Sequence[Line], appraisal: Appraisal) -> int:
    if any(line.rule in appraisal.unauthentic for line in lines):
        return UNAUTHENTIC
    status = _status(lines, appraisal)
    if status == "contraindicated":
        return UNRECOGNISED if claim == "instance-identity" else CONTRAINDICATED
    if status == "warning":
        return LEFT_OUT
    return BOOTED if claim == "executables" else APPROVED


def claim_of(rule: str) -> str:
    """The claim that a rule is about, by the first words of its name after its platform; hardware if by none."""
    platform, _, name = rule.replace("_", "-").partition(".")
    name = name.partition(".")[0]
    for claim, known in (
        ("executables", EXECUTABLES),
        ("runtime-opaque" if platform in ENCRYPTED else "configuration", OPAQUE),
        ("configuration", CONFIGURATION),
        ("instance-identity", IDENTITY),
    ):
        if any(name == word or name.startswith(f"{word}-") for word in known) or (
            known is EXECUTABLES and PCR.match(name)
        ):
            return claim
    return "hardware"
