"""Which layers of the seal this host offers: a worker seals itself, probes its seal, reports and ends."""

from __future__ import annotations

import os
import platform
from typing import NamedTuple

from appliance.enclave.finding import Finding, Need, missing, ok, unusable
from appliance.seal import landlock, plan_for, seal_level, sealed_file, violations
from appliance.seal.outcome import SealLevel
from appliance.seal.requirement import given_by
from appliance.seal.trial import Trial, attempt
from attest.errors import VitrineError

NEEDED: tuple[Need, ...] = ("process",)
LEAST_KERNEL = (5, 13)
"""The first with Landlock, without which no worker is sealed."""
TRIAL_BYTES = 1 << 30
"""The address space of the worker that seals itself."""

PARTIAL = "Without it the seal is partial"


class Examined(NamedTuple):
    """What sealing a worker came to."""

    findings: tuple[Finding, ...]
    """The kernel's offers, then one finding for each layer."""
    level: SealLevel | None
    """The level of the seal; None where no worker can be sealed."""


def examine() -> Examined:
    """Seal a worker, and look at the kernel."""
    offers = (_kernel(), _landlock(), _memory_files())
    try:
        trial = attempt(plan_for("eval", memory_bytes=TRIAL_BYTES, threads=1), _ignore)
    except (VitrineError, OSError) as error:
        advice = "No worker can be sealed, so nothing runs: see to what it says, then to the findings on the kernel"
        return Examined((*offers, unusable("seal", "a sealed worker", str(error), NEEDED, advice)), None)
    if allowed := violations(trial.probes):
        names = ", ".join(probe.name for probe in allowed)
        advice = "The seal does not hold on this host, so nothing runs: report it with the kernel's version"
        return Examined((*offers, unusable("seal", "a sealed worker", f"not denied: {names}", NEEDED, advice)), None)
    level = seal_level(trial.outcome)
    sealed = ok("seal", "a sealed worker", f"{level}, {len(trial.probes)} probes denied", NEEDED)
    return Examined((*offers, sealed, *_layers(trial)), level)


def _layers(trial: Trial) -> list[Finding]:
    findings = []
    for layer in trial.outcome.layers:
        identifier, name = f"seal-{layer.name}", f"layer {layer.name}"
        if layer.state == "enforced":
            findings.append(ok(identifier, name, layer.detail, NEEDED))
            continue
        gives = given_by(layer.name)
        advice = f"{PARTIAL}. What gives it: {gives}" if gives else PARTIAL
        make = missing if layer.state == "unavailable" else unusable
        findings.append(make(identifier, name, layer.detail, NEEDED, advice))
    return findings


def _kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(part) if part.isdigit() else 0 for part in release.partition("-")[0].split(".")[:2])
    if platform.system() == "Linux" and numbers >= LEAST_KERNEL:
        return ok("kernel", "Linux", f"{release} on {platform.machine()}", NEEDED)
    advice = "Landlock needs Linux 5.13, all of its rules Linux 6.12: install a newer kernel"
    return unusable("kernel", "Linux", f"{platform.system()} {release}", NEEDED, advice)


def _landlock() -> Finding:
    try:
        version = landlock.abi()
    except VitrineError as error:
        return missing("landlock", "Landlock", str(error), NEEDED, "Run on 64-bit x86 or Arm")
    if version:
        return ok("landlock", "Landlock", f"ABI {version}", NEEDED)
    advice = (
        "No worker can be sealed without it: it needs Linux 5.13 and `landlock` in the kernel's list of security "
        "modules (lsm=landlock,... on its command line; cat /sys/kernel/security/lsm shows the list)"
    )
    return missing("landlock", "Landlock", "none", NEEDED, advice)


def _memory_files() -> Finding:
    name = "sealed memory files"
    try:
        fd = sealed_file("vitrine-doctor", b"doctor")
    except OSError as error:
        advice = "What is booted is held in them: memfd_create and its seals need Linux 3.17; a container may refuse it"
        return missing("memory-files", name, str(error), NEEDED, advice)
    try:
        os.pwrite(fd, b"x", 0)
    except OSError:
        return ok("memory-files", name, "cannot be written once they are sealed", NEEDED)
    finally:
        os.close(fd)
    return unusable("memory-files", name, "written in spite of the seal", NEEDED, "This kernel cannot be relied on")


def _ignore(_line: bytes) -> None:
    """What the trial prints; its last words are in the error."""
