"""Runs lm-eval's tasks of a folder on a sealed model: `lm_eval_run.py MODEL ENGINE TASKS SEQUENCES`; prints JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Print the results of each task, and each sample's replies."""
    model, engine, tasks, sequences = sys.argv[1:]
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    import lm_eval
    from lm_eval.tasks import TaskManager

    from appliance.bridges.lm_eval import SealedLM
    from appliance.bridges.session import Settings, open_session
    from attest.job import Numerics

    settings = Settings(numerics=Numerics(sequences=int(sequences)))
    with open_session(Path(model), engine=Path(engine), settings=settings) as session:
        found: Any = lm_eval.simple_evaluate(
            SealedLM(session),
            tasks=sorted(path.stem for path in Path(tasks).glob("*.yaml")),
            task_manager=TaskManager(include_path=tasks, include_defaults=False),
            bootstrap_iters=100,
        )
    samples = {
        task: [
            [sample["doc_id"], sample["resps"], {name: sample[name] for name in sample["metrics"]}] for sample in rows
        ]
        for task, rows in found["samples"].items()
    }
    sys.stdout.write(json.dumps({"results": found["results"], "samples": samples}, default=str) + "\n")


if __name__ == "__main__":
    main()
