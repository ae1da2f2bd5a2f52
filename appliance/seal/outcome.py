"""What became of each layer of a seal, as data for the seal report (`attest.seal`)."""

from __future__ import annotations

import errno
from typing import Literal

from attest.canonical import Model
from attest.digest import Digest
from attest.seal import Layer, LayerState
from attest.sealplan import Kind

SealLevel = Literal["full", "partial"]


class SealOutcome(Model):
    """What `enter` did in this process."""

    kind: Kind
    """The kind of worker that was sealed."""
    plan_digest: Digest
    """The plan that was carried out, with the paths of this machine."""
    policy_digest: Digest
    """The same plan with roles in place of paths: equal on every machine with the same policy."""
    layers: tuple[Layer, ...]
    """Every layer of the plan, in the order of `attest.sealplan.layer_names`."""


def enforced(name: str, detail: str) -> Layer:
    """The layer `name`, in force."""
    return Layer(name=name, state="enforced", detail=detail)


def unavailable(name: str, detail: str) -> Layer:
    """The layer `name`, which this host does not offer."""
    return Layer(name=name, state="unavailable", detail=detail)


def refused(name: str, what: str, error: OSError) -> Layer:
    """The layer `name`, whose step `what` the kernel refused with `error`."""
    known = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.ENOSPC, errno.EOPNOTSUPP)
    state: LayerState = "unavailable" if error.errno in known else "failed"
    return Layer(name=name, state=state, detail=f"{what}: {errno_name(error.errno)}")


def errno_name(number: int | None) -> str:
    """`EPERM` for 1; the number itself where it has no name."""
    return errno.errorcode.get(number or 0, str(number))


def seal_level(outcome: SealOutcome) -> SealLevel:
    """`full` when every layer of the plan is in force, else `partial`: the mandatory ones always are."""
    return "full" if all(layer.state == "enforced" for layer in outcome.layers) else "partial"
