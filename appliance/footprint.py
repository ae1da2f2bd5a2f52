"""What memory a run takes, reckoned before anything is loaded, against what this host has. Too little refuses the run.

The schedule decides which models are there at once, each with its files in sealed memory and a context: all of them, or
those of one stage (`appliance.schedule`; at the boot they are measured one after another, which is never more). A
context's cache follows from the model's header; what a worker takes besides, and what controller and eval worker take,
are allowances above what was measured (docs/benchmarks.md).
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance import gguf
from appliance.gguf import GGUFHeader
from appliance.schedule import needed, stages
from attest.errors import EnvironmentProblem, VitrineError
from attest.job import Job

WORKER_BYTES = 64 << 20
"""A model worker besides model, cache and logits: 45 and 51 MB were measured (docs/operations.md)."""
LOGIT_BYTES = 4
REST_BYTES = 128 << 20
"""The eval worker, and what the controller takes besides what it has already: 76 MB were measured, data sets vary."""
CELLS_STEP = 256
BATCH_TOKENS = 512
ROWS_BYTES = 64 << 20
"""Both as in `appliance.runtime`, whose modules load the engine's bindings."""
TOKENS = "tokenizer.ggml.tokens"
"""The vocabulary."""
LEAST_SLOTS = 2
LEAST_TOKENS = 73
"""What a model worker makes at least, for its self-test."""
KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}
"""Bytes of a value in the cache."""
MIB = 1 << 20


@dataclass(frozen=True)
class ModelFile:
    """A model, as far as it takes memory."""

    size_bytes: int
    """Of all of its files."""
    header: GGUFHeader
    """Of its first file."""


@dataclass(frozen=True)
class Footprint:
    """What a run takes, in bytes."""

    files: dict[str, int]
    """The files of each model."""
    caches: dict[str, int]
    """The cache of each model's context; 0 where the header does not say how large it is."""
    workers: dict[str, int]
    """What each model's worker takes besides."""
    together: frozenset[str]
    """The models of the stage that takes most."""

    @property
    def bytes(self) -> int:
        """At the worst moment."""
        return sum(self.files[name] + self.caches[name] + self.workers[name] for name in self.together) + REST_BYTES


def of(job: Job, models: Mapping[str, ModelFile]) -> Footprint:
    """What `job` takes with these models, by name."""
    names = [model.id for model in job.models]
    needs = [needed(entry, target) for target in names for entry in job.suites if target in entry.targets(names)]
    caches = {name: cache_bytes(job, model.header) for name, model in models.items()}
    loaded = [stage.models for stage in stages(job, needs)]
    loaded += [frozenset({name}) for name in names]  # one without a suite is loaded alone, for its self-test
    files = {name: model.size_bytes for name, model in models.items()}
    besides = {name: worker_bytes(model.header) for name, model in models.items()}
    return max((Footprint(files, caches, besides, together) for together in loaded), key=lambda one: one.bytes)


def cache_bytes(job: Job, header: GGUFHeader) -> int:
    """Keys and values of every layer, for every slot; with all heads where the header lists them by layer."""

    def number(key: str, default: int = 0) -> int:
        value = header.metadata.get(f"{header.architecture}.{key}", default)
        return int(value) if isinstance(value, (int, float)) else default

    layers, heads, width = number("block_count"), number("attention.head_count"), number("embedding_length")
    if not layers or not heads:
        return 0
    pair = number("attention.key_length", width // heads) + number("attention.value_length", width // heads)
    tokens = max(min(job.limits.context_tokens, number("context_length") or job.limits.context_tokens), LEAST_TOKENS)
    cells = max(job.numerics.sequences, LEAST_SLOTS) * -(-tokens // CELLS_STEP) * CELLS_STEP
    return int(cells * layers * number("attention.head_count_kv", heads) * pair * KV_BYTES[job.numerics.kv])


def worker_bytes(header: GGUFHeader) -> int:
    """A model worker besides model and cache.

    The engine has room for the logits of a whole batch where it computes them, and where it hands them out for as many
    as the scheduler asks for in a turn.
    """
    vocabulary = header.arrays.get(TOKENS)
    logits = LOGIT_BYTES * BATCH_TOKENS * (vocabulary.length if vocabulary else 0)
    return WORKER_BYTES + logits + min(logits, ROWS_BYTES)


def check(job: Job, footprint: Footprint, available: int) -> None:
    """Raises `EnvironmentProblem`, with the numbers and with what would help, where `available` bytes are too few."""
    if footprint.bytes <= available:
        return
    caches = ", ".join(f"{name} {footprint.caches[name] / MIB:.0f}" for name in sorted(footprint.together))
    files = ", ".join(f"{name} {footprint.files[name] / MIB:.0f}" for name in sorted(footprint.together))
    advice = [f"a smaller numerics.sequences ({job.numerics.sequences})"]
    advice.append(f"a smaller limits.context_tokens ({job.limits.context_tokens})")
    if job.schedule != "sequential" and len(job.models) > 1:
        advice.insert(0, "schedule: sequential")
    raise EnvironmentProblem(
        f"expected {footprint.bytes / MIB:.0f} MiB of memory, found {available / MIB:.0f} MiB: model files "
        f"{files}, caches {caches}, {len(footprint.together)} model workers "
        f"{sum(footprint.workers[name] for name in footprint.together) / MIB:.0f}, the rest {REST_BYTES / MIB:.0f}. "
        f"What would help: {', '.join(advice)}, fewer models in one job"
    )


def read(paths: Sequence[Path], size_bytes: int) -> ModelFile | None:
    """The model in these files; None where the first cannot be read, of which the boot has more to say."""
    try:
        with paths[0].open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return ModelFile(size_bytes, gguf.read_header(data))
    except (OSError, ValueError, VitrineError):
        return None


def available(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this host, and the control groups that this process is in (version 2), have for it."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", (proc / "meminfo").read_text(), re.MULTILINE)
    least = int(found[1]) * 1024 if found else 0
    own = re.search(r"^0::/(.*)$", (proc / "self" / "cgroup").read_text(), re.MULTILINE)
    folder = cgroups / own[1] if own else cgroups
    for group in (folder, *folder.parents):
        limit = group / "memory.max"
        if not group.is_relative_to(cgroups) or not limit.exists() or (text := limit.read_text().strip()) == "max":
            continue
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
        used = int((group / "memory.current").read_text()) - (int(cached[1]) if cached else 0)
        least = min(least, int(text) - used)
    return max(least, 0)
