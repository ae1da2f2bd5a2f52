"""An appraisal as an EAT Attestation Result (EAR, draft-ietf-rats-ear), signed: a JWT that other RATS software reads.

The trustworthiness vector is that of AR4SI (draft-ietf-rats-ar4si). Each rule of a policy is of one of its claims; a
claim is the worst of its rules: 2 affirming, 32 warning where something was left out on request, 96 contraindicated.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attest import __version__, canonical
from attest.appraisal import Line
from attest.appraise.verdict import Appraisal
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported, VerificationError

PROFILE: Final = "tag:github.com,2023:veraison/ear"
ALGORITHM: Final = "ES256"
AFFIRMING, WARNING, CONTRAINDICATED = 2, 32, 96
RANK: Final = {"affirming": AFFIRMING, "warning": WARNING, "contraindicated": CONTRAINDICATED}
MAX_BYTES: Final = 1 << 20
COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{85}[AQgw]")
"""A compact JWS with 64 bytes of signature, in the one spelling that base64url has for them."""
PLATFORMS: Final = {"nvgpu": "nvidia-gpu"}
"""Layers of rules that are named otherwise than their platform."""

EXECUTABLES: Final = (
    "measurement", "measurements", "register", "registers", "program", "programs", "file", "files", "id-key",
    "author-key", "identity", "pcr", "rim", "driver", "vbios", "explained", "quoted", "family-id", "image-id",
    "guest-svn", "selection", "event-log", "ima-list", "product",
)  # fmt: skip
CONFIGURATION: Final = (
    "debug", "guest-policy", "guest-abi", "vmpl", "smt", "migration-agent", "cxl", "platform", "secure-boot",
    "migratable", "sept-ve-enabled", "attributes", "features", "protected", "host-data", "console",
)  # fmt: skip
IDENTITY: Final = ("bound", "nonce", "chip", "chip-id", "kind", "manufacturer", "provider", "counter", "required")
CLAIMS: Final = {"executables": EXECUTABLES, "configuration": CONFIGURATION, "instance-identity": IDENTITY}
"""By the first word or words of a rule's name after its platform: what it is about. All others are about hardware."""


def claims(appraisal: Appraisal, *, policy_digest: str, issued: datetime) -> dict[str, Any]:
    """The claims set. `policy_digest` names the policy; one submodule a platform, others for what is common."""
    parts: dict[str, list[Line]] = {}
    for line in appraisal.lines:
        name = line.rule.partition(".")[0]
        parts.setdefault(PLATFORMS.get(name, name), []).append(line)
    submodules = {}
    for name, lines in sorted(parts.items()):
        submodules[name] = {
            "ear.status": _status(lines, appraisal),
            "ear.trustworthiness-vector": _vector(lines, appraisal),
            "ear.appraisal-policy-id": policy_digest,
            "vitrine.lines": [line.model_dump(mode="json") for line in lines],
        }
    return {
        "eat_profile": PROFILE,
        "iat": int(issued.timestamp()),
        "ear.verifier-id": {"developer": "https://github.com/vitrine", "build": f"vitrine {__version__}"},
        "vitrine.as-of": appraisal.as_of.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "vitrine.downgrades": list(appraisal.downgrades),
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


def _status(lines: Iterable[Line], appraisal: Appraisal) -> str:
    if not all(line.holds for line in lines):
        return "contraindicated"
    return "warning" if appraisal.downgrades else "affirming"


def _vector(lines: Iterable[Line], appraisal: Appraisal) -> dict[str, int]:
    vector: dict[str, int] = {}
    for line in lines:
        claim = _claim(line.rule)
        value = CONTRAINDICATED if not line.holds else WARNING if appraisal.downgrades else AFFIRMING
        vector[claim] = max(vector.get(claim, 0), value)
    return vector


def _claim(rule: str) -> str:
    words = re.sub(r"^pcr[0-9]+$", "pcr", rule.partition(".")[2].replace("_", "-").partition(".")[0])
    for claim, known in (
        ("executables", EXECUTABLES),
        ("configuration", CONFIGURATION),
        ("instance-identity", IDENTITY),
    ):
        if any(words == name or words.startswith(f"{name}-") for name in known) or words.startswith("pcr"):
            return claim
    return "hardware"
