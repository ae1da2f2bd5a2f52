"""What a run takes of any host: a processor for the engine, memory, disk, a clock, and memory that keeps secrets."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appliance import resources
from appliance.enclave.finding import Finding, missing, ok, unusable
from appliance.engine import recipe
from appliance.engine.recipe import EngineRecord
from appliance.notary import hold
from attest.errors import EnvironmentProblem, VitrineError

MEMORY_BYTES = 2 << 30
"""What the embedded demo takes, with room. A job takes its models' sizes and `limits.memory_bytes` each beyond that."""
DISK_BYTES = 2 << 30
"""An engine's build and some bundles."""
GIB = 1 << 30


def processor(cpuinfo: str) -> list[Finding]:
    """For each of the engine's profiles, whether this processor runs it."""
    findings = []
    for path in sorted((resources.images() / "engine").glob("*.toml")):
        identifier, name = f"cpu-{path.stem.replace('_', '-')}", f"processor for engine profile {path.stem}"
        try:
            plan = recipe.load_recipe(path)
        except VitrineError as error:
            findings.append(unusable(identifier, name, str(error), ("engine",), "Install the appliance anew"))
            continue
        machine = next((each for each in plan.architectures() if each == platform.machine()), plan.architectures()[0])
        # As much of a record as the check looks at: nothing has to be built for it.
        asked: dict[str, Any] = {
            "profile": plan.profile,
            "architecture": machine,
            "instructions": plan.instructions_of(machine),
        }
        record = EngineRecord.model_construct(**asked)
        try:
            recipe.require_cpu(record, cpuinfo)
        except EnvironmentProblem as error:
            advice = "Give the job a profile that this processor runs (numerics.profile), or take another machine"
            findings.append(missing(identifier, name, str(error), ("engine",), advice))
        else:
            findings.append(ok(identifier, name, " ".join(record.instructions), ("engine",)))
    return findings


def memory(meminfo: str) -> Finding:
    """Memory that is free, or can be freed."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo, re.MULTILINE)
    identifier, name = "memory", "free memory"
    if found is None:
        advice = "Linux 3.14 and later say how much is available in /proc/meminfo"
        return missing(identifier, name, "/proc/meminfo does not say", ("process",), advice)
    free = int(found[1]) << 10
    if free >= MEMORY_BYTES:
        return ok(identifier, name, f"{free / GIB:.1f} GiB", ("process",))
    advice = f"The demo takes {MEMORY_BYTES / GIB:g} GiB, a job its models and limits.memory_bytes for each: free some"
    return unusable(identifier, name, f"{free / GIB:.1f} GiB", ("process",), advice)


def disk(folder: Path) -> Finding:
    """Room for an engine and bundles in `folder`."""
    identifier, name = "disk", "free disk space"
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return unusable(identifier, name, f"{folder}: {error.strerror}", ("process",), "Work in another folder")
    if free >= DISK_BYTES:
        return ok(identifier, name, f"{free / GIB:.1f} GiB", ("process",))
    advice = f"An engine and some bundles take {DISK_BYTES / GIB:g} GiB: free some, or name another place with --out"
    return unusable(identifier, name, f"{free / GIB:.1f} GiB", ("process",), advice)


def clock() -> Finding:
    """A clock that is not behind the appliance's own files: certificates and logs bear its time."""
    identifier, name = "clock", "the clock"
    now, least = time.time(), Path(__file__).stat().st_mtime
    text = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if now >= least:
        return ok(identifier, name, text, ("process",))
    written = datetime.fromtimestamp(least, UTC).strftime("%Y-%m-%d")
    advice = f"It is behind the appliance's files, of {written}: set it (date -u -s ...), bundles bear its time"
    return unusable(identifier, name, text, ("process",), advice)


def swap() -> Finding:
    """Where memory may be written to: of the controller with its keys, of the workers with prompts and completions."""
    identifier, name = "swap", "memory stays in memory"
    areas = hold.plain_swaps()
    if not areas:
        return ok(identifier, name, "no swap, or compressed memory and dm-crypt only", ("secrecy",))
    advice = "Prompts, completions and keys may be written there: swapoff -a, or swap on dm-crypt"
    return unusable(identifier, name, f"swap on {' '.join(areas)}", ("secrecy",), advice)


def lockable() -> Finding:
    """Whether the controller can lock its keys into memory."""
    identifier, name = "memory-lock", "keys are locked into memory"
    allowed, why = hold.may_lock()
    if allowed:
        return ok(identifier, name, why, ("secrecy",))
    advice = (
        "Without swap there is nothing to lock out. Else let this user lock memory: LimitMEMLOCK=infinity in its unit, "
        "or `USER - memlock unlimited` in /etc/security/limits.conf"
    )
    return missing(identifier, name, why, ("secrecy",), advice)


def processors() -> Finding:
    """How many processors this process may use."""
    count = len(os.sched_getaffinity(0))
    return ok("processors", "processors", f"{count} on {platform.machine()}", ("process",))
