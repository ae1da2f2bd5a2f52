"""A well-formed execution manifest as plain data, for tests that change a part of one."""

from __future__ import annotations

from typing import Any

from attest.determinism import CELLS
from attest.digest import digest_of

D, HEX = digest_of(b"x"), "0" * 64


def self_test(model: str, **differing: int) -> dict[str, Any]:
    """A self-test's report in which the cells named in `differing` have so many rows that differ; `_` is a dash."""
    found = {name.replace("_", "-"): count for name, count in differing.items()}
    cells = [{"cell": cell, "rows": 96, "differing": found.pop(cell, 0)} for cell in CELLS]
    assert not found, f"no such cells: {found}"
    return {"model": model, "fingerprint": D, "cells": cells}


CLAIM = {"suite": "arc", "model": "m", "metric": "exact", "comparator": ">=", "threshold": "0.5"}
MANIFEST: dict[str, Any] = {
    "producer": {"version": "0.1.0"},
    "job": {"name": "demo", "digest": D, "attempt": 1, "intent_index": 4},
    "lock": {"digest": D, "version": 1, "origin": "given"},
    "engine": {"profile": "x86-64-v3", "record": D, "library": D},
    "boot": {"registers": {"0": HEX}},
    "wall": "process",
    "seal": [{"worker": "eval", "plan": D, "policy": D, "level": "full", "probes": 3, "violations": 0}],
    "numerics": {},
    "determinism": [self_test("m")],
    "started": "2024-01-01T00:00:00Z",
    "ended": "2024-01-01T00:01:00Z",
    "complete": True,
    "ended_by": "done",
    "counts": {"planned": 1, "run": 1, "failed": 0},
    "plan": [{"model": "m", "suite": "arc", "samples": 1, "scorers": ["exact"]}],
    "suites": [{"model": "m", "suite": "arc", "planned": 1, "run": 1, "failed": 0, "scores": []}],
    "claims": [{"claim": CLAIM, "value": "1.000000", "holds": True}],
    "results_digest": digest_of(b"results"),
    "transcript": {"root": digest_of(b"root"), "samples": 1, "head": D},
    "files": [{"name": "results.json", "digest": D, "size_bytes": 2}],
}
