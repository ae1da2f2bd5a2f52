"""Resource limits of a sealed worker, soft and hard alike, so that they cannot be raised again.

Address space bounds all memory that a worker can get: it can create no memory files and no System V segments. Threads
are counted by user within the worker's own user namespace; where it has none, the count is shared with every process
of that user, and the bound is widened to `SHARED_TASKS` so that workers do not starve each other.
"""

from __future__ import annotations

import resource
from pathlib import Path

from appliance.seal.outcome import enforced
from appliance.seal.plan import Limits
from attest.errors import EnvironmentProblem
from attest.seal import Layer

SHARED_TASKS = 4096


def address_space_bytes() -> int:
    """What this process has mapped now (the first field of /proc/self/statm, proc(5))."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()


def apply(limits: Limits, *, held_bytes: int, own_user_namespace: bool) -> Layer:
    """Set every limit; `held_bytes` is what the process has mapped already.

    A lower hard limit that is in force already stays. Raises `EnvironmentProblem` when the kernel refuses one.
    """
    tasks = limits.tasks if own_user_namespace else max(limits.tasks, SHARED_TASKS)
    wanted = [
        (resource.RLIMIT_AS, "address space", held_bytes + limits.memory_bytes),
        (resource.RLIMIT_FSIZE, "file size", limits.file_bytes),
        (resource.RLIMIT_CORE, "core size", limits.core_bytes),
        (resource.RLIMIT_NPROC, "tasks", tasks),
        (resource.RLIMIT_NOFILE, "open files", limits.open_files),
    ]
    if limits.cpu_s is not None:
        wanted.append((resource.RLIMIT_CPU, "CPU seconds", limits.cpu_s))
    for number, name, value in wanted:
        _lower(number, name, value)
    shared = "" if own_user_namespace else " (shared with all processes of this user)"
    return enforced("limits", f"{limits.memory_bytes} bytes more than it held, {tasks} tasks{shared}, files of 0 bytes")


def _lower(number: int, name: str, value: int) -> None:
    hard = resource.getrlimit(number)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(number, (bound, bound))
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"limits: the kernel refused {value} for {name}: {error}") from None
