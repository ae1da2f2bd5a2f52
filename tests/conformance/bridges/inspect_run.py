"""Prints what Inspect's own reader finds in a log: `inspect_run.py LOG`; JSON."""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Print status, metrics, and each sample's conversation, scores and requests."""
    from inspect_ai.log import read_eval_log

    log = read_eval_log(sys.argv[1], resolve_attachments="full")
    samples: list[dict[str, Any]] = [
        {
            "id": sample.id,
            "epoch": sample.epoch,
            "messages": [[message.role, message.text] for message in sample.messages],
            "scores": {name: score.value for name, score in (sample.scores or {}).items()},
            "calls": [event.call.request for event in sample.events if event.event == "model" and event.call],
        }
        for sample in log.samples or []
    ]
    scores = log.results.scores if log.results else []
    metrics = {f"{score.name}.{name}": metric.value for score in scores for name, metric in score.metrics.items()}
    found = {
        "status": log.status,
        "error": log.error and log.error.message,
        "model": log.eval.model,
        "metrics": metrics,
        "samples": samples,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
