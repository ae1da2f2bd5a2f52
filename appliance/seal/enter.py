"""Seals the calling process, once and for good, by the plan.

Refuses to run twice or with more than one thread, and fails closed: when a mandatory layer (descriptors, limits,
capabilities, no_new_privs, Landlock's file rules, seccomp) is not in force, it raises `EnvironmentProblem`, and the
caller must end the process, which may be half sealed then. Namespaces and the newer parts of Landlock are optional and
recorded. Assumes that all code is loaded (nothing can be mapped executable later) and all files are open.
"""

from __future__ import annotations

import os
import sys

from appliance.seal import descriptors, identity, landlock, limits, namespaces, privileges, seccomp
from appliance.seal.outcome import SealOutcome, enforced
from appliance.seal.preload import preload
from attest.seal import Layer
from attest.sealplan import SealPlan, layer_names

_entered: list[str] = []


def enter(plan: SealPlan) -> SealOutcome:
    """Carry out `plan` in this process, and say what became of each layer.

    Raises `RuntimeError` when called twice or with threads, `EnvironmentProblem` when a mandatory layer fails.
    """
    # 1. Once, and with one thread: rights and filters are the property of a thread, and inherited by its children.
    if _entered:
        raise RuntimeError("this process is sealed already")
    if (tasks := len(os.listdir("/proc/self/task"))) != 1:  # noqa: PTH208 - counted only
        raise RuntimeError(f"expected one thread when sealing, found {tasks}: start threads afterwards")
    _entered.append(plan.kind)

    # 2. Whatever needs files, while there are files.
    digests = plan.digest(), plan.policy_digest()
    preload()
    program = seccomp.prepare(plan.seccomp)
    held_bytes = limits.address_space_bytes()

    # 3. What came in with the process: descriptors and environment.
    layers = [descriptors.check(), _environment(plan)]

    # 4. Another user, in a world of its own.
    layers.append(identity.take(plan.identity))
    layers += namespaces.separate(plan)

    # 5. Limits, and the end of all privileges.
    alone = any(layer.name == "namespace-user" and layer.state == "enforced" for layer in layers)
    layers.append(limits.apply(plan.limits, held_bytes=held_bytes, own_user_namespace=alone))
    layers += privileges.drop()

    # 6. No files but the named ones; then no system calls but the named ones.
    layers += landlock.restrict(plan.landlock)
    layers.append(seccomp.install(plan.seccomp, program))

    # 7. The report, in the published order: the user namespace comes earlier or later, as the worker's rights want it.
    order = layer_names(plan)
    layers.sort(key=lambda layer: order.index(layer.name))
    return SealOutcome(kind=plan.kind, plan_digest=digests[0], policy_digest=digests[1], layers=tuple(layers))


def _environment(plan: SealPlan) -> Layer:
    """Leave the variables of the plan, with its values, and no others."""
    wanted = {variable.name: variable.value for variable in plan.environment}
    foreign = [name for name in os.environ if name not in wanted]
    for name in foreign:
        del os.environ[name]
    os.environ.update(wanted)
    sys.dont_write_bytecode = True
    return enforced("environment", f"{len(wanted)} variables of the plan, {len(foreign)} others were removed")
