"""Landlock: no file is opened but for reading, below the paths of the plan; no TCP; no way to other processes.

The rights, the network rules and the scopes that the running kernel knows depend on its Landlock ABI version. The
rights of ABI 1 are mandatory: without them the seal fails. What a newer ABI adds is recorded as a layer for each.
Landlock does not restrict looking at names and sizes (stat): the empty root of the mount namespace does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

from appliance.seal import kernel
from appliance.seal.outcome import enforced, unavailable
from appliance.seal.plan import FS_RIGHTS, FsRight, LandlockPlan
from attest.errors import EnvironmentProblem
from attest.seal import Layer
from attest.sealplan import RIGHTS_SINCE

# linux/landlock.h
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
LANDLOCK_ACCESS_NET_BIND_TCP = 1
LANDLOCK_ACCESS_NET_CONNECT_TCP = 2
SCOPES = {"abstract-unix-socket": 1, "signal": 2}

BITS: dict[FsRight, int] = {name: 1 << position for position, name in enumerate(FS_RIGHTS)}
"""LANDLOCK_ACCESS_FS_*: the names of a plan stand in the order of the bits."""

RIGHT_DETAILS: dict[FsRight, tuple[str, str]] = {
    "refer": ("no file changes its folder", "Landlock itself refuses it where it does not know the right"),
    "truncate": ("no file is cut short", "the system call policy refuses truncate, ftruncate and O_TRUNC"),
    "ioctl-dev": ("no device is controlled", "the system call policy refuses all but three requests"),
}
"""What each of the later rights means in force, and what stands in its place where it is not."""

NETWORK_ABI, SCOPE_ABI = 4, 6
NO_SOCKETS = "the system call policy refuses all sockets"
NO_CALLS = "the system call policy refuses sockets and signals"


def abi() -> int:
    """The Landlock ABI version of this kernel, 0 when it has none."""
    try:
        return kernel.call("landlock_create_ruleset", None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def restrict(plan: LandlockPlan) -> list[Layer]:
    """Restrict this process, which must have no_new_privs and one thread. Raises `EnvironmentProblem`."""
    version = abi()
    if version < 1:
        raise EnvironmentProblem("landlock: expected ABI 1 or later, found none: it needs Linux 5.13 with lsm=landlock")
    handled = sum(BITS[right] for right in plan.handled if RIGHTS_SINCE.get(right, 1) <= version)
    network = LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP if version >= NETWORK_ABI else 0
    scopes = sum(SCOPES[scope] for scope in plan.scopes) if version >= SCOPE_ABI else 0
    try:
        _restrict(plan, handled, network, scopes)
    except OSError as error:
        raise EnvironmentProblem(f"landlock: {error}") from None
    return layers(plan, version)


def layers(plan: LandlockPlan, version: int) -> list[Layer]:
    """What a kernel of ABI `version`, 1 or later, enforces of `plan`."""
    return [
        enforced("landlock", f"ABI {version}: reading below {len(plan.read_only)} paths, nothing else"),
        *(_since(f"landlock-{right}", version, since, *RIGHT_DETAILS[right]) for right, since in RIGHTS_SINCE.items()),
        _since("landlock-tcp", version, NETWORK_ABI, "no TCP socket is bound or connected", NO_SOCKETS),
        _since(
            "landlock-scopes", version, SCOPE_ABI, f"nothing beyond this process: {' '.join(plan.scopes)}", NO_CALLS
        ),
    ]


def _restrict(plan: LandlockPlan, handled: int, network: int, scopes: int) -> None:
    # struct landlock_ruleset_attr; a kernel of an older ABI takes a longer one when what it does not know is zero
    attributes = struct.pack("=QQQ", handled, network, scopes)
    ruleset = kernel.call("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        for entry in plan.read_only:
            _grant(ruleset, entry.path, handled)
        kernel.call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _grant(ruleset: int, path: str, handled: int) -> None:
    if not os.access(path, os.R_OK):
        raise OSError(errno.EACCES, f"user {os.geteuid()} cannot read it: install where every user can read", path)
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = BITS["read-file"]
        if stat.S_ISDIR(os.fstat(parent).st_mode):
            rights |= BITS["read-dir"]
        # struct landlock_path_beneath_attr, packed
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights & handled, parent))
        kernel.call("landlock_add_rule", ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(parent)


def _since(name: str, version: int, needed: int, detail: str, instead: str) -> Layer:
    if version >= needed:
        return enforced(name, detail)
    return unavailable(name, f"needs ABI {needed}, found {version}; {instead}")
