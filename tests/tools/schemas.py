"""Writes policy/schemas/*.json from the models, or with --check compares: `python -m tests.tools.schemas [--check]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from appliance.enclave.container import ContainerPlan
from appliance.enclave.doctor import Report
from appliance.engine.recipe import EngineRecord
from appliance.evals.suite import Suite
from appliance.image.lock import ImageLock
from appliance.image.recipe import ImageRecipe
from attest.eventlog import Record
from attest.evidence import Evidence
from attest.job import Job
from attest.lockfile import Lockfile
from attest.log import LogReceipt
from attest.policy import Policy
from attest.reference import ReferenceValues
from attest.results import Results
from attest.sample import SampleRecord
from attest.seal import SealReport
from attest.sealplan import SealPlan
from attest.statement import Statement

FOLDER = Path(__file__).resolve().parents[2] / "policy" / "schemas"
MODELS = {
    "appraisal-policy": Policy,
    "container-plan": ContainerPlan,
    "doctor": Report,
    "engine-record": EngineRecord,
    "event": Record,
    "evidence": Evidence,
    "image-lock": ImageLock,
    "image-recipe": ImageRecipe,
    "intent-receipt": LogReceipt,
    "job": Job,
    "lock": Lockfile,
    "reference-values": ReferenceValues,
    "results": Results,
    "sample": SampleRecord,
    "seal-plan": SealPlan,
    "seal-report": SealReport,
    "statement": Statement,
    "suite": Suite,
}


def schemas() -> dict[str, str]:
    """File name to text."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        f"{name}.schema.json": json.dumps(dialect | model.model_json_schema(by_alias=True), indent=1, sort_keys=True)
        + "\n"
        for name, model in MODELS.items()
    }


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
