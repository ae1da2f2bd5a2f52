"""Tries, from inside a sealed worker, what the seal must prevent, and says how each attempt ended.

Every attempt is made so that it does no harm where it succeeds: the program to execute does not exist, the child ends
at once, the file is removed again. The controller refuses a worker with any violation before it sees untrusted bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from typing import Literal

from appliance.seal import attempts
from appliance.seal.outcome import errno_name
from attest.canonical import Model


class ProbeResult(Model):
    """How one attempt ended."""

    name: str
    """What the probe is called, `inet-socket`."""
    attempted: str
    """What was tried."""
    expected: Literal["denied"] = "denied"
    """How it must end."""
    outcome: Literal["denied", "allowed", "absent"]
    """How it ended; `absent`: there was nothing to try it on."""
    errno: str = ""
    """The error that the kernel gave, `EPERM`; empty where it gave none."""


def probe(names: Collection[str] | None = None) -> list[ProbeResult]:
    """Make every attempt, in the process that calls this: one that is sealed. `names`: only these."""
    return [_make(attempt) for attempt in attempts.ATTEMPTS if names is None or attempt.name in names]


def violations(results: Iterable[ProbeResult]) -> list[ProbeResult]:
    """The attempts that were not denied."""
    return [result for result in results if result.outcome == "allowed"]


def _make(attempt: attempts.Attempt) -> ProbeResult:
    try:
        attempt.make()
    except OSError as error:
        # An error that the seal does not give means that the kernel came as far as looking for its object.
        outcome: Literal["denied", "allowed"] = "denied" if error.errno in attempt.denials else "allowed"
        return ProbeResult(
            name=attempt.name, attempted=attempt.what, outcome=outcome, errno=errno_name(error.errno or errno.EIO)
        )
    except attempts.NothingToTry:
        return ProbeResult(name=attempt.name, attempted=attempt.what, outcome="absent")
    return ProbeResult(name=attempt.name, attempted=attempt.what, outcome="allowed")
