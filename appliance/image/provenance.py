"""How an image came to be: an in-toto statement with SLSA provenance v1, and its signature by a lab.

The statement is a function of the build's inputs, with no clock in it. The lab certifies a key for one signature, logs
and time-stamps it, as it does for results; the certificate's identity names the image: an OCI image by its manifest's
digest, a measured VM by its boot file's.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec

import attest
from appliance.image import measure
from appliance.image.build import Built, Plan
from appliance.image.lock import Locked
from appliance.image.sbom import purl
from appliance.image.vm import BuiltMachine
from appliance.notary.lab import Lab
from attest import canonical, trust
from attest.canonical import JSON, dump_model
from attest.digest import digest_of
from attest.errors import VerificationError
from attest.statement import PAYLOAD_TYPE, STATEMENT_TYPE

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://vitrine.dev/image-build/v1"
BUILDER = "https://vitrine.dev/appliance/image"


def statement(built: Built) -> bytes:
    """The statement on an OCI image that was built here, canonical JSON."""
    plan = built.plan
    parameters = {"architecture": plan.architecture, "lock": plan.lock_digest}
    return _statement(plan, f"{plan.recipe.name}-{plan.architecture}", built.digest, parameters, _materials(plan))


def machine_statement(built: BuiltMachine) -> bytes:
    """The statement on a measured VM that was built here, canonical JSON. The subject is its boot file.

    The boot file names the root disk by its root hash, so that the two are one. The reference values are a byproduct,
    so that whoever signs the statement signs them too.
    """
    plan = built.plan
    parameters: dict[str, JSON] = {
        "architecture": plan.architecture,
        "lock": plan.lock_digest,
        "machine": {"recipe": built.recipe.digest(), "lock": digest_of(dump_model(built.lock))},
        "secure_boot": built.values.secure_boot,
    }
    materials = _materials(plan) + [_material(item, plan) for item in built.lock.files]
    materials.append({"name": str(built.recipe.init), "digest": {"sha256": _hex(built.lock.init.source)}})
    reference = {"name": measure.REFERENCE, "digest": {"sha256": _hex(digest_of(measure.dump(built.values)))}}
    return _statement(plan, built.recipe.name, built.digest, parameters, materials, [reference])


def _materials(plan: Plan) -> list[dict[str, JSON]]:
    """The packages, the engine's libraries, and the layers of this project's own files."""
    engine = plan.engine
    materials = [_material(item, plan) for item in plan.part.files]
    materials += [
        {
            "uri": f"pkg:github/ggml-org/llama.cpp@{engine.upstream_commit}",
            "name": f"{engine.name}-{engine.profile}/{library.name}",
            "digest": {"sha256": _hex(library.digest)},
        }
        for library in engine.libraries
    ]
    own = [(name, one) for name, one in plan.trees if name not in plan.recipe.pinned]
    return materials + [{"name": f"layer {name}", "digest": {"sha256": _hex(one.digest())}} for name, one in own]


def _material(item: Locked, plan: Plan) -> dict[str, JSON]:
    return {"uri": purl(item, plan.recipe), "name": item.filename, "digest": {"sha256": _hex(item.digest)}}


def _statement(
    plan: Plan,
    name: str,
    digest: str,
    parameters: dict[str, JSON],
    materials: list[dict[str, JSON]],
    byproducts: Sequence[dict[str, JSON]] = (),
) -> bytes:
    engine = plan.engine
    recipe: dict[str, JSON] = {"name": plan.recipe.name, "digest": plan.recipe.digest()}
    layers: list[JSON] = [layer for layer, _ in plan.trees]
    return canonical.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": _hex(digest)}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {"recipe": recipe, "layers": layers, **parameters},
                    "internalParameters": {"engine": {"profile": engine.profile, "recipe": engine.recipe_digest}},
                    "resolvedDependencies": materials,
                },
                "runDetails": {
                    "builder": {"id": BUILDER, "version": {"vitrine": attest.__version__}},
                    "byproducts": list(byproducts),
                },
            },
        }
    )


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


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
