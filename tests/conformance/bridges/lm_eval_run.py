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
    said = {"results": found["results"], "samples": samples, "windows": same_windows()}
    sys.stdout.write(json.dumps(said, default=str) + "\n")


def same_windows() -> int:
    """For how many lengths of text and context our windows are lm-eval's; -1 where one is not."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    from appliance.runtime.request import windows

    same = 0
    for most in (1, 2, 3, 7, 16):
        for length in range(1, 60):
            tokens = list(range(100, 100 + length))
            theirs = map(make_disjoint_window, get_rolling_token_windows(tokens, 1, most, 1))
            if [tuple(pair) for pair in theirs] != list(windows(tokens, 1, most)):
                return -1
            same += 1
    return same


if __name__ == "__main__":
    main()
