"""What a worker gives up for good: capabilities, new privileges, readable memory, outliving the controller."""

from __future__ import annotations

import signal

from appliance.seal import capabilities, kernel
from appliance.seal.outcome import enforced
from attest.errors import EnvironmentProblem
from attest.seal import Layer


def drop() -> list[Layer]:
    """Give it all up. Raises `EnvironmentProblem` when any of it stays."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        bounding = capabilities.drop_all()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        in_force = kernel.prctl(kernel.PR_GET_NO_NEW_PRIVS) == 1 and kernel.prctl(kernel.PR_GET_DUMPABLE) == 0
    except OSError as error:
        raise EnvironmentProblem(f"privileges: {error}") from None
    if not in_force:
        raise EnvironmentProblem("privileges: expected no_new_privs and not dumpable, found otherwise")
    return [
        enforced("capabilities", f"none; {bounding}"),
        enforced("no-new-privileges", "set; not dumpable; killed when the controller dies"),
    ]
