"""What a worker reports of its seal: the plan it carried out, what became of each layer, and what its probes met."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attest import canonical
from attest.canonical import JSON, Model
from attest.digest import Digest, digest_of
from attest.errors import VerificationError
from attest.job import Name
from attest.manifest import SealSection

LayerState = Literal["enforced", "unavailable", "failed"]
"""`enforced`: in force. `unavailable`: this host does not offer it. `failed`: offered, attempted, and not in force."""


class Layer(Model):
    """One layer of the seal."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    """What the layer is called, `landlock` or `namespace-net`."""
    state: LayerState
    """Whether it is in force."""
    detail: str = Field(max_length=1000)
    """What exactly is in force, or why it is not."""


class Probe(Model):
    """One forbidden thing that a worker tried once it was sealed."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    """What was tried, `inet-socket` or `write-file`."""
    attempted: str = Field(max_length=1000)
    """What was tried, for people."""
    outcome: Literal["denied", "allowed", "absent"]
    """What came of it; `allowed` is a violation. `absent`: there was nothing to try it on."""
    errno: str = Field(default="", max_length=40)
    """The error that the kernel gave, `EPERM`; empty where it gave none."""


class WorkerSeal(Model):
    """One worker's seal."""

    worker: Name
    """`eval`, or `model.<id>`."""
    plan: dict[str, JSON]
    """The seal plan, as the worker carried it out."""
    policy: Digest
    """Digest of the plan with host paths replaced by their roles: equal on every host with the same policy."""
    layers: tuple[Layer, ...] = Field(min_length=1, max_length=100)
    """Every layer of the plan, in the order in which they were applied."""
    probes: tuple[Probe, ...] = Field(min_length=1, max_length=200)
    """Every probe."""

    @property
    def violations(self) -> list[str]:
        """The names of the probes that met no resistance."""
        return [probe.name for probe in self.probes if probe.outcome == "allowed"]

    def section(self) -> SealSection:
        """The manifest's line about this seal."""
        return SealSection(
            worker=self.worker,
            plan=digest_of(canonical.dumps(self.plan)),
            policy=self.policy,
            level="full" if all(layer.state == "enforced" for layer in self.layers) else "partial",
            probes=len(self.probes),
            violations=len(self.violations),
        )


class SealReport(Model):
    """What `evidence/seal.json` says."""

    format: Literal["vitrine/seal-report/v1"] = "vitrine/seal-report/v1"
    """The format's name and version."""
    workers: tuple[WorkerSeal, ...] = Field(min_length=1, max_length=64)
    """Every worker: the eval worker first, then the models in the job's order."""


def read(data: bytes) -> SealReport:
    """The report in the JSON text `data`. Raises `MalformedInput`."""
    return canonical.parse(SealReport, data, "seal report")


def check(report: SealReport) -> None:
    """Raises `VerificationError` (layer `seal`) for a probe that was not denied, or a layer that failed."""
    for worker in report.workers:
        if worker.violations:
            raise VerificationError(
                "seal", "probe", expected=f"every probe of {worker.worker} denied", found=worker.violations
            )
        if failed := [layer.name for layer in worker.layers if layer.state == "failed"]:
            raise VerificationError("seal", "layer", expected=f"no failed layer of {worker.worker}", found=failed)
