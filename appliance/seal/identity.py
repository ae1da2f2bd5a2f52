"""Who a worker is: a root worker becomes the unprivileged user of the plan, and keeps its capabilities until the
namespaces are made (`privileges.drop` takes them then).

A worker that is not root keeps its user; its user namespace shows the user of the plan.
"""

from __future__ import annotations

import os

from appliance.seal import capabilities, kernel
from appliance.seal.outcome import enforced, refused
from appliance.seal.plan import Identity
from attest.seal import Layer


def take(identity: Identity) -> Layer:
    """Become the user of the plan, where this process can."""
    if os.geteuid() != 0:
        return enforced("identity", f"not root at the start, user {os.geteuid()}")
    try:
        kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
        capabilities.raise_permitted()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else /proc/self belongs to root and no user namespace can be mapped
    except OSError as error:
        return refused("identity", f"user {identity.uid}", error)
    return enforced("identity", f"user {identity.uid}, group {identity.gid}, no other groups")
