"""What a user asks of a seal, what is missing from it, and what would give that.

`any`: the mandatory layers, which every sealed worker has. `full`: every layer of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attest.errors import EnvironmentProblem
from attest.seal import Layer

Requirement = Literal["full", "any"]

_NAMESPACES = (
    "run as root, or let users make user namespaces (sysctl -w user.max_user_namespaces=15000, and "
    "user.max_pid_namespaces likewise; on Debian also kernel.unprivileged_userns_clone=1, on Ubuntu 24.04 and later "
    "kernel.apparmor_restrict_unprivileged_userns=0), "
    "and in a container use a runtime profile that allows unshare, mount and pivot_root"
)

GIVEN_BY: tuple[tuple[str, str], ...] = (
    ("namespace-", _NAMESPACES),
    ("root", _NAMESPACES),
    ("landlock-refer", "Linux 5.19 or later (Landlock ABI 2)"),
    ("landlock-truncate", "Linux 6.2 or later (Landlock ABI 3)"),
    ("landlock-tcp", "Linux 6.7 or later (Landlock ABI 4)"),
    ("landlock-ioctl-dev", "Linux 6.10 or later (Landlock ABI 5)"),
    ("landlock-scopes", "Linux 6.12 or later (Landlock ABI 6)"),
    ("identity", "start the appliance as a user of its own, or as root with CAP_SETUID and CAP_SETGID"),
)
"""What gives a layer that may be missing, by the beginning of its name; the first that fits counts."""


def given_by(layer: str) -> str:
    """What would give `layer` on this host, for people; empty for a layer that is never missing."""
    return next((text for start, text in GIVEN_BY if layer.startswith(start)), "")


def require(requirement: Requirement, worker: str, layers: Sequence[Layer]) -> None:
    """Raises `EnvironmentProblem` when `layers` of `worker` fall short of `requirement`: which, why, what to do."""
    missing = [layer for layer in layers if layer.state != "enforced"]
    if requirement == "any" or not missing:
        return
    found = "; ".join(f"{layer.name} ({layer.detail})" for layer in missing)
    advice = "; or: ".join(dict.fromkeys(filter(None, (given_by(layer.name) for layer in missing))))
    raise EnvironmentProblem(
        f"seal: expected every layer of worker {worker} in force, as --require-seal full asks; missing: {found}. "
        f"What gives them: {advice}. With --require-seal any the run goes on, and the bundle says what was missing"
    )
