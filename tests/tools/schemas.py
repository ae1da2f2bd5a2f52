"""Writes policy/schemas/*.json from the models, or with --check compares: `python -m tests.tools.schemas [--check]`."""

from __future__ import annotations

import json
import pkgutil
import sys
from pathlib import Path
from typing import Any

from attest.canonical import Model

FOLDER = Path(__file__).resolve().parents[2] / "policy" / "schemas"
MODELS = {
    "appraisal-policy": "attest.policy:Policy",
    "azure-evidence": "attest.azure:Evidence",
    "collateral": "attest.capsule:Capsule",
    "collateral-list": "attest.capsule_cli:Listing",
    "container-plan": "appliance.enclave.container:ContainerPlan",
    "doctor": "appliance.enclave.doctor:Report",
    "engine-record": "appliance.engine.recipe:EngineRecord",
    "event": "attest.eventlog:Record",
    "evidence": "attest.evidence:Evidence",
    "gpu-evidence": "attest.appraise.items:Gpus",
    "image-lock": "appliance.image.lock:ImageLock",
    "image-recipe": "appliance.image.recipe:ImageRecipe",
    "intent-receipt": "attest.log:LogReceipt",
    "job": "attest.job:Job",
    "lock": "attest.lockfile:Lockfile",
    "nitro-evidence": "attest.appraise.items:Nitro",
    "notary-answer": "appliance.notary.gap:Answer",
    "notary-invitation": "appliance.notary.gap:Invitation",
    "notary-request": "appliance.notary.gap:Request",
    "reference-values": "attest.reference:ReferenceValues",
    "results": "attest.results:Results",
    "sample": "attest.sample:SampleRecord",
    "seal-plan": "attest.sealplan:SealPlan",
    "seal-report": "attest.seal:SealReport",
    "sev-snp-evidence": "attest.sevsnp:Evidence",
    "statement": "attest.statement:Statement",
    "suite": "appliance.evals.suite:Suite",
    "tdx-evidence": "attest.appraise.items:Tdx",
    "tpm-evidence": "attest.tpm:Evidence",
    "witnessed": "attest.witnessed:Witnessed",
}


def schemas() -> dict[str, str]:
    """File name to text. In a new process, because a model takes its descriptions as its class is made."""
    # The docstrings below fields, which is the slowest part of making a model: so it is done here alone.
    Model.model_config["use_attribute_docstrings"] = True
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        f"{name}.schema.json": json.dumps(dialect | _schema(model), indent=1, sort_keys=True) + "\n"
        for name, model in MODELS.items()
    }


def _schema(model: str) -> dict[str, Any]:
    found: type[Model] = pkgutil.resolve_name(model)
    return found.model_json_schema(by_alias=True)


def main() -> int:
    """Write, or compare and return 1 where a file differs."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = schemas()
    if "--check" not in sys.argv:
        for name, text in wanted.items():
            (FOLDER / name).write_text(text)
        return 0
    found = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    if found == wanted:
        return 0
    names = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
    print(f"expected policy/schemas as the models say, these differ: {', '.join(names)}; run `make schemas`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
