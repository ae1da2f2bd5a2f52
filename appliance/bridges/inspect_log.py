"""From a log of Inspect to a job that asks the same again: sample by sample, request by request.

The log has to be of the provider `vitrine` alone (`appliance.bridges.inspect_provider`): its requests stand there as
the worker got them. What the samples scored is taken over from Inspect, by Inspect's own reading of a score. Refused: a
log that Inspect cannot read or did not finish, requests of other models, replies from Inspect's cache.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import yaml

from appliance.bridges.imports import name_of
from appliance.evals.replay import COLUMN, Recorded, Recording
from appliance.evals.scorers.scorer import share
from attest import canonical
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported

WHAT: Final = "log of inspect"
PROVIDER: Final = "vitrine/"
LETTERS: Final = {"C": Decimal(1), "I": Decimal(0), "P": Decimal("0.5"), "N": Decimal(0)}
"""Inspect's correct, incorrect, partly correct and no answer, and what its `value_to_float` makes of them."""
WORDS: Final = {"yes": Decimal(1), "true": Decimal(1), "no": Decimal(0), "false": Decimal(0)}
ROWS, SUITE, JOB = "rows.jsonl", "suite.yaml", "job.yaml"


@dataclass(frozen=True)
class Remade:
    """A job made of a log: files by name."""

    files: dict[str, bytes]
    """Rows, suite and job."""
    samples: int
    """How many samples are asked again."""


def remake(log: Path, model: str) -> Remade:
    """The job that asks again what `log` says was asked, of the GGUF file at `model`, a path as the job shall have it.

    Raises `MalformedInput` for what is no such log, `Unsupported` for what cannot be asked again, `EnvironmentProblem`
    where Inspect is not installed.
    """
    found = read(log)
    if found.status != "success" or not found.samples:
        raise MalformedInput(WHAT, f"expected a finished run with samples, found status {found.status!r}")
    if not found.eval.model.startswith(PROVIDER):
        raise Unsupported(WHAT, f"expected a model of the provider vitrine, found {found.eval.model!r:.200}")
    seeds: set[int] = set()
    rows = [row(sample, seeds) for sample in found.samples]
    if len(seeds) != 1:
        raise Unsupported(WHAT, f"expected requests of one seed, found {sorted(seeds)}")
    lines = b"".join(canonical.dumps(one) + b"\n" for one in rows)
    scorers = sorted({name for one in rows for part in ("scores", "unscored") for name in one[COLUMN][part]})
    if not scorers:
        raise Unsupported(WHAT, "expected scores, found none: score the log first, with `inspect score`")
    names = unique([name_of(scorer) for scorer in scorers])
    task = name_of(f"inspect-{found.eval.task}")
    suite = {
        "format": "vitrine/suite/v1",
        "name": task,
        "description": f"What Inspect asked in its task {found.eval.task[:200]}, asked again; scored by Inspect.",
        "dataset": {"path": ROWS, "digest": digest_of(lines), "format": "jsonl"},
        "columns": {"id": "{{ id }}"},
        "prompt": {"user": "{{ input }}"},
        "solver": "replay",
        "scorers": [
            {"scorer": "recorded", "name": name, "of": scorer} for name, scorer in zip(names, scorers, strict=True)
        ],
    }
    job = {
        "format": "vitrine/job/v1",
        "name": task,
        "seed": seeds.pop(),
        "models": [{"id": "target", "path": model}],
        "suites": [{"path": SUITE}],
        **limits(found.eval.model_args),
    }
    files = {ROWS: lines} | {
        name: yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()
        for name, value in ((SUITE, suite), (JOB, job))
    }
    return Remade(files, len(rows))


def read(log: Path) -> Any:
    """The log as Inspect's own reader finds it, with everything that it keeps apart put back in place."""
    try:
        from inspect_ai.log import read_eval_log
    except ImportError:
        raise EnvironmentProblem("inspect-ai is not installed: pip install 'vitrine[inspect]'") from None
    try:
        return read_eval_log(str(log), resolve_attachments="full", format="eval")
    except Exception as error:  # a hostile file has Inspect's reader raise whatever it raises
        raise MalformedInput(WHAT, f"Inspect cannot read it: {type(error).__name__}: {error}"[:400]) from None


def row(sample: Any, seeds: set[int]) -> dict[str, Any]:
    """One sample of the log as a row; the seeds of its requests are added to `seeds`."""
    what = f"{WHAT}, sample {sample.id!r:.80}"
    if sample.error is not None:
        raise Unsupported(what, "expected samples that ran, found one that failed")
    events = [event for event in sample.events if event.event == "model" and event.error is None]
    turns = []
    for event in events:
        if event.cache == "read" or event.call is None or not event.model.startswith(PROVIDER):
            raise Unsupported(
                what, f"expected requests of {PROVIDER}, found one of {event.model!r:.80}, or a cached one"
            )
        request, response = event.call.request, event.call.response or {}
        if type(request.get("seed")) is not int:
            raise MalformedInput(what, f"expected requests with a seed, found {request.get('seed')!r:.80}")
        seeds.add(request["seed"])
        turns.append(
            canonical.validate(
                Recorded,
                {
                    **{name: request.get(name) for name in ("messages", "sampling", "stream", "grammar")},
                    **{name: request.get(name) or [] for name in ("stop", "tools")},
                    "generation": response.get("generation"),
                },
                what,
            )
        )
    values = {name: score_of(score.value) for name, score in (sample.scores or {}).items()}
    said = [place for place, event in enumerate(events) if event.output.completion == sample.output.completion]
    unscored = [name for name, value in values.items() if value is None]
    recording = canonical.validate(
        Recording,
        {
            "turns": [turn.model_dump(mode="json", exclude_none=True) for turn in turns],
            "decisive": said[-1] if said else max(len(turns) - 1, 0),
            "scores": {name: value for name, value in values.items() if value is not None},
            "unscored": dict.fromkeys(unscored, "expected a score in [0, 1], found another"),
        },
        what,
    )
    asked = sample.input if isinstance(sample.input, str) else "\n".join(one.text for one in sample.input)
    return {
        "id": f"{sample.id}/{sample.epoch}",
        "input": asked,
        COLUMN: recording.model_dump(mode="json", exclude_none=True),
    }


def score_of(value: Any) -> str | None:
    """Inspect's value as a decimal string in [0, 1], as its `value_to_float` reads it; None where that is none."""
    number: Decimal | None = None
    if isinstance(value, str):
        number = LETTERS.get(value, WORDS.get(value.lower()))
        if number is None and re.fullmatch(r"[01](\.[0-9]{1,12})?", value):
            number = Decimal(value)
    elif isinstance(value, bool | int | float) and math.isfinite(value):
        number = Decimal(repr(float(value)))
    if number is None or not 0 <= number <= 1:
        return None
    return share(number).value


def limits(args: dict[str, Any]) -> dict[str, Any]:
    """The job's bounds, as the provider was told them."""
    known = {name: args[name] for name in ("context_tokens", "memory_bytes") if name in args}
    return {"limits": known} if known else {}


def unique(names: list[str]) -> list[str]:
    """`names`, with numbers where two are the same."""
    return [f"{name[:60]}-{place}" if names.count(name) > 1 else name for place, name in enumerate(names)]
