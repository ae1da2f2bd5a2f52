"""Writes the plan of a seal (`attest.sealplan`) for this machine, before anything of it has any effect.

`plan_for` writes it, `appliance.seal.enter.enter` carries it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from appliance.seal import policy
from appliance.seal.paths import interpreter_paths, library_paths
from attest.sealplan import (
    FS_RIGHTS,
    FsRight,
    Identity,
    Kind,
    LandlockPlan,
    Limits,
    Namespace,
    ReadOnlyPath,
    SealPlan,
    SeccompPlan,
    Variable,
)

__all__ = [
    "ENVIRONMENT",
    "FS_RIGHTS",
    "FsRight",
    "Identity",
    "Kind",
    "LandlockPlan",
    "Limits",
    "Namespace",
    "SealPlan",
    "SeccompPlan",
    "plan_for",
]

ENDING_THREADS = 256
"""Room for threads that have been joined but that the kernel still counts: an engine starts and joins its threads for
every batch, and aborts when it may not."""

_COMMON_VARIABLES = (
    Variable(name="LANG", value="C.UTF-8"),
    Variable(name="OPENBLAS_NUM_THREADS", value="1"),  # numpy would start threads before the seal
    Variable(name="PYTHONHASHSEED", value="0"),
)

ENVIRONMENT: dict[Kind, tuple[Variable, ...]] = {
    "eval": _COMMON_VARIABLES,
    "model": _COMMON_VARIABLES,
    "program": _COMMON_VARIABLES,
}
"""What workers of a kind get, beside what the engine asks for."""


def plan_for(
    kind: Kind,
    *,
    memory_bytes: int,
    threads: int,
    read_only: Iterable[ReadOnlyPath] = (),
    cpu_s: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> SealPlan:
    """The plan for a worker of `kind` that may add `memory_bytes` of address space and run `threads` threads at a time.

    `read_only`: what it may read beside the Python installation; `environment`: what its engine wants set.
    Raises `EnvironmentProblem` when the seccomp policy
    cannot be read, pydantic's `ValidationError` for numbers out of range.
    """
    asked = sorted((environment or {}).items())
    # A program may import the standard library, and reads nothing else: no package, and nothing of this project.
    installed = library_paths() if kind == "program" else interpreter_paths()
    return SealPlan(
        kind=kind,
        environment=(*ENVIRONMENT[kind], *(Variable(name=key, value=text) for key, text in asked)),
        limits=Limits(memory_bytes=memory_bytes, tasks=1 + threads + ENDING_THREADS, cpu_s=cpu_s),
        landlock=LandlockPlan(read_only=(*installed, *read_only)),
        seccomp=SeccompPlan(policy=kind, policy_digest=policy.policy_digest(kind)),
    )
