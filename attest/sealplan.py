"""The plan of a seal: everything that is done to a worker process, as data that can be read, hashed and compared.

`appliance.seal.plan` writes plans, `appliance.seal.enter` carries them out. A plan names no secrets and no times; the
only things in it that differ between two machines with the same policy are the paths of the Python installation, and
`policy_digest` puts their roles in place of them. `layer_names` says which layers carrying it out must report.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from attest import canonical
from attest.canonical import Model
from attest.digest import Digest, digest_of

Kind = Literal["model", "eval", "program"]
"""What a worker holds: an engine and one model; the suites, templates and scorers; or a program that a model wrote."""

Namespace = Literal["user", "mount", "net", "ipc", "uts", "cgroup", "pid"]

FsRight = Literal[
    "execute", "write-file", "read-file", "read-dir", "remove-dir", "remove-file", "make-char", "make-dir", "make-reg",
    "make-sock", "make-fifo", "make-block", "make-sym", "refer", "truncate", "ioctl-dev",
]  # fmt: skip

Scope = Literal["abstract-unix-socket", "signal"]

FS_RIGHTS: tuple[FsRight, ...] = get_args(FsRight)
NAMESPACES: tuple[Namespace, ...] = get_args(Namespace)
SCOPES: tuple[Scope, ...] = get_args(Scope)

RIGHTS_SINCE: dict[FsRight, int] = {"refer": 2, "truncate": 3, "ioctl-dev": 5}
"""Rights that came after the first ABI of Landlock, each with the one that brought it; a layer of its own each."""

SEALED_ID = 65532
"""The user and group of a sealed worker, `nonroot` in many container images."""

OPEN_FILES = 64


class Variable(Model):
    """An environment variable of a worker."""

    name: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
    """Its name."""
    value: str
    """Its value."""


class Identity(Model):
    """Who the worker is."""

    uid: Annotated[int, Field(ge=1, le=2**31)] = SEALED_ID
    """User id: taken when the worker starts as root, and shown inside its user namespace."""
    gid: Annotated[int, Field(ge=1, le=2**31)] = SEALED_ID
    """Group id, likewise; there are no other groups."""


class Privileges(Model):
    """What the worker gives up for good."""

    no_new_privileges: Literal[True] = True
    """No exec can add rights (PR_SET_NO_NEW_PRIVS)."""
    capabilities: Literal["none"] = "none"
    """Permitted, effective, inheritable, ambient and bounding sets are empty."""
    dumpable: Literal[False] = False
    """No other process of the same user reads its memory (PR_SET_DUMPABLE)."""
    death_signal: Literal["SIGKILL"] = "SIGKILL"
    """What the worker gets when the controller dies (PR_SET_PDEATHSIG)."""


class ReadOnlyPath(Model):
    """A file, or a directory with all below, that a sealed worker may read."""

    role: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    """What it is, `python-stdlib`: the same on every machine."""
    path: Annotated[str, Field(pattern=r"^/.")]
    """Where it lies on this machine: absolute, and as the worker uses it, symbolic links included."""


class LandlockPlan(Model):
    """Which files may be opened, and that nothing else may be done to files."""

    read_only: tuple[ReadOnlyPath, ...]
    """Files, and directories with all below, that may be read and listed."""
    handled: tuple[FsRight, ...] = FS_RIGHTS
    """Rights that nobody has unless granted: reading and listing below `read_only`, nothing anywhere else."""
    tcp: Literal["denied"] = "denied"
    """Binding and connecting TCP sockets."""
    scopes: tuple[Scope, ...] = SCOPES
    """What cannot reach beyond this process."""


class SeccompPlan(Model):
    """Which system calls may be made."""

    policy: Kind
    """The name of the policy file: there is one for each kind of worker."""
    policy_digest: Digest
    """Its content."""


class Limits(Model):
    """Resource limits, soft and hard alike."""

    memory_bytes: Annotated[int, Field(ge=1 << 20, le=canonical.MAX_INTEGER)]
    """Address space that the worker may add after sealing: model, context, everything (RLIMIT_AS)."""
    file_bytes: Literal[0] = 0
    """The size of files it may write (RLIMIT_FSIZE)."""
    core_bytes: Literal[0] = 0
    """The size of core dumps (RLIMIT_CORE)."""
    tasks: Annotated[int, Field(ge=1)]
    """Threads of the user in its user namespace (RLIMIT_NPROC)."""
    open_files: Annotated[int, Field(ge=8)] = OPEN_FILES
    """One more than the highest file descriptor it can open (RLIMIT_NOFILE)."""
    cpu_s: Annotated[int, Field(ge=1)] | None = None
    """CPU seconds until the kernel kills the worker (RLIMIT_CPU); absent: no limit."""


class SealPlan(Model):
    """The whole seal of one worker."""

    format: Literal["vitrine/seal-plan/v1"] = "vitrine/seal-plan/v1"
    """The format's name and version."""
    kind: Kind
    """What the worker holds."""
    environment: tuple[Variable, ...]
    """All of its environment variables."""
    identity: Identity = Identity()
    """Who it is."""
    namespaces: tuple[Namespace, ...] = NAMESPACES
    """Namespaces it gets of its own, as far as the host offers them. In its own mount namespace it sees the read-only
    paths and nothing else; in its own PID namespace it is the only process."""
    limits: Limits
    """Resource limits."""
    privileges: Privileges = Privileges()
    """What it gives up."""
    landlock: LandlockPlan
    """Which files it may open."""
    seccomp: SeccompPlan
    """Which system calls it may make."""

    def digest(self) -> str:
        """The identity of this plan on this machine."""
        return digest_of(canonical.dump_model(self))

    def policy_digest(self) -> str:
        """The identity of this plan with the roles of the read-only paths in place of the paths."""
        value = self.model_dump(mode="json", exclude_none=True)
        value["landlock"]["read_only"] = sorted({entry.role for entry in self.landlock.read_only})
        return digest_of(canonical.dumps(value))

    def describe(self) -> str:
        """The plan for people, one line for each rule."""
        variables = [f"{one.name}={one.value}" for one in self.environment]
        limits = self.limits
        rows = [
            ("kind", self.kind),
            ("environment", " ".join(variables)),
            ("identity", f"user {self.identity.uid}, group {self.identity.gid}, no other groups"),
            ("namespaces", " ".join(self.namespaces)),
            *[("sees, reads", f"{entry.role}: {entry.path}") for entry in self.landlock.read_only],
            ("memory", f"{limits.memory_bytes} bytes of address space beyond what it holds when sealed"),
            ("limits", f"{limits.tasks} tasks, {limits.open_files} open files, files of 0 bytes, no core dumps"),
            ("cpu", "no limit" if limits.cpu_s is None else f"{limits.cpu_s} s"),
            ("privileges", "no new privileges, no capabilities, not dumpable, SIGKILL when the controller dies"),
            ("landlock", f"denied but for the above: {' '.join(self.landlock.handled)}"),
            ("landlock", f"tcp denied; scoped: {' '.join(self.landlock.scopes)}"),
            ("seccomp", f"{self.seccomp.policy}, {self.seccomp.policy_digest}"),
            ("plan", self.digest()),
            ("policy", self.policy_digest()),
        ]
        return "\n".join(f"{name:<12} {value}" for name, value in rows)


def layer_names(plan: SealPlan) -> tuple[str, ...]:
    """The layers that a seal by `plan` consists of, in the order in which they are reported.

    That is the order in which they are applied, but for the user namespace: a worker that starts with CAP_SYS_ADMIN
    enters it after the others.
    """
    return (
        "descriptors",
        "environment",
        "identity",
        *(f"namespace-{name}" for name in plan.namespaces),
        *(("root",) if "mount" in plan.namespaces else ()),
        "limits",
        "capabilities",
        "no-new-privileges",
        "landlock",
        *(f"landlock-{right}" for right in RIGHTS_SINCE),
        "landlock-tcp",
        "landlock-scopes",
        "seccomp",
    )
