"""How an image came to be: an in-toto statement with SLSA provenance v1, and its signature by a lab.

The statement is a function of the build's inputs, with no clock in it. The lab certifies a key for one signature, logs
and time-stamps it, as it does for results; the certificate's identity names the image's manifest digest.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

import attest
from appliance.image.build import Built
from appliance.image.sbom import purl
from appliance.notary.lab import Lab
from attest import canonical, trust
from attest.canonical import JSON
from attest.errors import VerificationError
from attest.statement import PAYLOAD_TYPE, STATEMENT_TYPE

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://vitrine.dev/image-build/v1"
BUILDER = "https://vitrine.dev/appliance/image"


def statement(built: Built) -> bytes:
    """The statement on an image that was built here, canonical JSON."""
    plan = built.plan
    materials: list[dict[str, JSON]] = [
        {
            "uri": purl(item, plan.recipe),
            "name": item.filename,
            "digest": {"sha256": item.digest.removeprefix("sha256:")},
        }
        for item in plan.part.files
    ]
    engine = plan.engine
    materials += [
        {
            "uri": f"pkg:github/ggml-org/llama.cpp@{engine.upstream_commit}",
            "name": f"{engine.name}-{engine.profile}/{library.name}",
            "digest": {"sha256": library.digest.removeprefix("sha256:")},
        }
        for library in engine.libraries
    ]
    own = [(name, one) for name, one in plan.trees if name not in plan.recipe.pinned]
    materials += [
        {"name": f"layer {name}", "digest": {"sha256": one.digest().removeprefix("sha256:")}} for name, one in own
    ]
    return canonical.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {
                    "name": f"{plan.recipe.name}-{plan.architecture}",
                    "digest": {"sha256": built.digest.removeprefix("sha256:")},
                }
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {
                        "recipe": {"name": plan.recipe.name, "digest": plan.recipe.digest()},
                        "lock": plan.lock_digest,
                        "architecture": plan.architecture,
                        "layers": [name for name, _ in plan.trees],
                    },
                    "internalParameters": {"engine": {"profile": engine.profile, "recipe": engine.recipe_digest}},
                    "resolvedDependencies": materials,
                },
                "runDetails": {"builder": {"id": BUILDER, "version": {"vitrine": attest.__version__}}},
            },
        }
    )


def sign(payload: bytes, image_digest: str, lab: Lab) -> bytes:
    """A Sigstore bundle over a provenance statement, by a key that `lab` certifies for the image. JSON."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = lab.certify(key.public_key(), lab.identity(image_digest.removeprefix("sha256:")))
    return lab.seal_envelope(payload, PAYLOAD_TYPE, key, certificate)


def verify(signed: bytes, trusted_root: bytes, image_digest: str) -> bytes:
    """The statement in a signed provenance, once it is a lab's and on the image with `image_digest`.

    Raises `VerificationError` (layers `signature`, `log`, `image`), `MalformedInput`.
    """
    verified = trust.verify_signature(signed, trusted_root, identity=None)
    digest = image_digest.removeprefix("sha256:")
    value = canonical.loads(verified.payload, "provenance")
    found = (value.get("predicateType"), value.get("subject")) if isinstance(value, dict) else (None, None)
    subjects = found[1] if isinstance(found[1], list) else []
    digests = [subject.get("digest") for subject in subjects if isinstance(subject, dict)]
    if found[0] != PREDICATE_TYPE or digests != [{"sha256": digest}] or not verified.identity.endswith(f"/{digest}"):
        advice = "this is provenance of another image, or no provenance: ask for the one that was made with it"
        shown = f"{found[0]} on {digests}, signed as {verified.identity}"
        raise VerificationError(
            "image", "provenance", expected=f"{PREDICATE_TYPE} on {digest}", found=shown, advice=advice
        )
    return verified.payload
