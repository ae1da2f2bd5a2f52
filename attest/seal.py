"""What a worker reports of its seal: the plan it carried out, what became of each layer, and what its probes met.

`read` refuses a report that is not in canonical JSON. `check` refuses one that could not come from a sealed worker of
this format: a plan that leaves something out, layers or probes other than the published ones, a mandatory layer that
is not in force, a probe that met no resistance. It assumes nothing about the host, and cannot know whether the worker
did what it reports.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from attest import canonical
from attest.canonical import Model
from attest.digest import Digest
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.job import Name
from attest.manifest import SealSection
from attest.sealplan import FS_RIGHTS, NAMESPACES, SCOPES, Kind, SealPlan, layer_names

FORMAT: Final = "vitrine/seal-report/v1"
WHAT: Final = "seal report"

LayerState = Literal["enforced", "unavailable", "failed"]
"""`enforced`: in force. `unavailable`: this host does not offer it. `failed`: offered, attempted, and not in force."""

MANDATORY: Final = frozenset(
    {"descriptors", "environment", "limits", "capabilities", "no-new-privileges", "landlock", "seccomp"}
)
"""Layers without which a worker ends, so that a report without them is false. `landlock` is its first ABI: each right
that came later, the rules for TCP and the scopes are layers of their own, which an older kernel does not offer."""

PROBES: Final = (
    "inet-socket", "inet-datagram", "inet6-socket", "unix-socket", "netlink-socket", "packet-socket", "inet-connect",
    "abstract-connect", "write-cwd", "write-tmp", "write-shm", "read-passwd", "read-shadow", "read-environ",
    "read-root", "read-home", "write-memory", "execute", "fork", "memory-file", "inherited-memory-file",
    "executable-memory", "signal-parent", "pidfd-parent", "read-parent", "io-uring", "bpf", "perf-event",
    "userfaultfd", "keyring", "mount", "user-namespace", "set-user", "raise-limit", "death-signal", "personality",
    "stop-group", "ptrace",
)  # fmt: skip
"""Every probe that a worker makes, in order."""

MAY_BE_ABSENT: Final = frozenset({"inherited-memory-file"})
"""Probes that may find nothing to try: every other object is there on any host."""


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


Layers = Annotated[tuple[Layer, ...], Field(min_length=1, max_length=100)]
Probes = Annotated[tuple[Probe, ...], Field(min_length=1, max_length=200)]


class WorkerSeal(Model):
    """One worker's seal."""

    worker: Name
    """`eval`, `model.<id>`, or `program`."""
    plan: SealPlan
    """The seal plan, as the worker carried it out."""
    policy: Digest
    """Digest of the plan with host paths replaced by their roles: equal on every host with the same policy."""
    layers: Layers
    """Every layer of the plan, in the order of `layer_names`."""
    probes: Probes
    """Every probe, in the order of `PROBES`."""

    @property
    def kind(self) -> Kind | None:
        """What the worker's name says that it holds; None for a name that no worker has."""
        if self.worker in ("eval", "program"):
            return "eval" if self.worker == "eval" else "program"
        return "model" if self.worker.startswith("model.") else None

    @property
    def violations(self) -> list[str]:
        """The names of the probes that met no resistance."""
        return [probe.name for probe in self.probes if probe.outcome == "allowed"]

    def section(self) -> SealSection:
        """The manifest's line about this seal."""
        return SealSection(
            worker=self.worker,
            plan=self.plan.digest(),
            policy=self.policy,
            level="full" if all(layer.state == "enforced" for layer in self.layers) else "partial",
            probes=len(self.probes),
            violations=len(self.violations),
        )


class SealReport(Model):
    """What `evidence/seal.json` says."""

    format: Literal["vitrine/seal-report/v1"] = FORMAT
    """The format's name and version."""
    workers: tuple[WorkerSeal, ...] = Field(min_length=1, max_length=64)
    """Every worker: the eval worker first, then the models in the job's order."""


def read(data: bytes) -> SealReport:
    """The report in the canonical JSON text `data`. Raises `MalformedInput`, `Unsupported` for another version."""
    value = canonical.loads(data, WHAT)
    name = value.get("format") if isinstance(value, dict) else None
    if isinstance(name, str) and name.startswith("vitrine/seal-report/") and name != FORMAT:
        raise Unsupported(WHAT, f"expected format {FORMAT!r}, found {name[:80]!r}")
    report = canonical.validate(SealReport, value, WHAT)
    if canonical.dump_model(report) != data:
        raise MalformedInput(WHAT, "expected canonical JSON (RFC 8785) with every field, found another spelling of it")
    return report


def check(report: SealReport) -> None:
    """Raises `VerificationError` (layer `seal`) for the first seal that `check_worker` refuses."""
    for worker in report.workers:
        check_worker(worker)


def check_worker(seal: WorkerSeal) -> None:
    """Raises `VerificationError` (layer `seal`) unless `seal` is what a worker reports that is sealed as published.

    Layers that are not mandatory may be unavailable: the seal is `partial` then, and the policy decides.
    """
    plan, worker = seal.plan, seal.worker
    # 1. The plan: of the worker's kind, with everything in it that a seal can do, and named by its true digest.
    _equal("kind", worker, seal.kind, plan.kind)
    _equal("seccomp", worker, seal.kind, plan.seccomp.policy)
    _equal("namespaces", worker, NAMESPACES, plan.namespaces)
    _equal("landlock", worker, (FS_RIGHTS, SCOPES), (plan.landlock.handled, plan.landlock.scopes))
    _equal("policy", worker, plan.policy_digest(), seal.policy)
    # 2. The layers: those that the plan implies, none failed, the mandatory ones in force.
    _equal("layers", worker, layer_names(plan), tuple(layer.name for layer in seal.layers))
    if failed := [layer.name for layer in seal.layers if layer.state == "failed"]:
        raise VerificationError("seal", "layer", expected=f"no failed layer of {worker}", found=failed)
    if missing := [layer.name for layer in seal.layers if layer.name in MANDATORY and layer.state != "enforced"]:
        raise VerificationError("seal", "mandatory", expected=f"mandatory layers of {worker} in force", found=missing)
    # 3. The probes: all of them, denied, or with nothing to try where that can be.
    _equal("probes", worker, PROBES, tuple(probe.name for probe in seal.probes))
    if seal.violations:
        raise VerificationError("seal", "probe", expected=f"every probe of {worker} denied", found=seal.violations)
    absent = [probe.name for probe in seal.probes if probe.outcome == "absent" and probe.name not in MAY_BE_ABSENT]
    if absent:
        raise VerificationError("seal", "absent", expected=f"every probe of {worker} tried", found=absent)


def _equal(code: str, worker: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError("seal", code, expected=f"{expected} for {worker}", found=found)
