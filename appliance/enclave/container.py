"""The plan of a container: everything that a runtime is told, as data that can be read, hashed and compared.

`plan_for` writes it, `appliance.enclave.render` says it in the words of podman, runc and bubblewrap, and
`appliance.enclave.launch` carries it out. Nothing in it differs between two hosts but paths and which limits the host
can enforce; `policy_digest` leaves the paths out, and is what a manifest names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from attest import canonical
from attest.canonical import Model
from attest.digest import Digest, digest_of
from attest.sealplan import SEALED_ID, Variable

Runtime = Literal["podman", "runc", "bubblewrap"]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=4096)]

ENGINE = "/opt/vitrine/engine"
"""Where the engine is in the image."""
OUT = "/out"
TMP_BYTES = 64 << 20
OUTPUT_BYTES = 4 << 30
"""The largest file of a bundle; larger inputs raise the limit, because sealed memory counts as a file."""
CONTROLLER_BYTES = 1 << 30
TASKS = 4096
OPEN_FILES = 4096


class Mount(Model):
    """A file or folder of the host that is in the container."""

    role: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    """What it is, `inputs`: the same on every host."""
    source: AbsolutePath
    """Where it lies on the host."""
    target: AbsolutePath
    """Where it is in the container."""
    writable: bool = False
    """Whether the container may change it: the output alone."""


class Scratch(Model):
    """A file system in memory, empty at the start."""

    target: AbsolutePath
    """Where it is in the container."""
    size_bytes: Annotated[int, Field(ge=4096)]
    """How much it holds at most."""


class Bounds(Model):
    """Resource limits."""

    memory_bytes: Annotated[int, Field(ge=256 << 20)] | None = None
    """Of all processes together; None where this host has no memory controller for it."""
    tasks: Annotated[int, Field(ge=16)] | None = None
    """Processes and threads together; None as above."""
    file_bytes: Annotated[int, Field(ge=1)]
    """Size of one file, those in memory included (RLIMIT_FSIZE)."""
    core_bytes: Literal[0] = 0
    """Size of core dumps (RLIMIT_CORE)."""
    open_files: Annotated[int, Field(ge=64)] = OPEN_FILES
    """Open files of one process (RLIMIT_NOFILE)."""


class ContainerPlan(Model):
    """The whole container."""

    format: Literal["vitrine/container-plan/v1"] = "vitrine/container-plan/v1"
    """The format's name and version."""
    runtime: Runtime
    """Which program carries it out."""
    image: Digest
    """Digest of the image's manifest."""
    root: AbsolutePath
    """Where the image is unpacked on the host; read-only in the container."""
    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """What runs."""
    environment: tuple[Variable, ...]
    """All of its environment variables."""
    uid: Annotated[int, Field(ge=1)] = SEALED_ID
    """User in the container."""
    gid: Annotated[int, Field(ge=1)] = SEALED_ID
    """Group in the container; there are no others."""
    hostname: Literal["vitrine"] = "vitrine"
    """Host name in the container."""
    network: Literal["none"] = "none"
    """No interface but a loopback of its own."""
    namespaces: tuple[Literal["mount", "pid", "net", "ipc", "uts", "cgroup"], ...] = (
        "mount", "pid", "net", "ipc", "uts", "cgroup",
    )  # fmt: skip
    """Namespaces of its own; bubblewrap and rootless podman add one of users."""
    capabilities: Literal["none"] = "none"
    """All sets are empty."""
    no_new_privileges: Literal[True] = True
    """No exec can add rights."""
    read_only: Literal[True] = True
    """The root file system."""
    mounts: tuple[Mount, ...]
    """Inputs, models, engine: read-only. The output: the one that is writable."""
    scratch: tuple[Scratch, ...] = (Scratch(target="/tmp", size_bytes=TMP_BYTES),)  # noqa: S108 - inside
    """Writable memory."""
    bounds: Bounds
    """Resource limits."""
    seccomp: Digest
    """Digest of the system call policy."""

    def digest(self) -> str:
        """The identity of this plan on this host."""
        return digest_of(canonical.dump_model(self))

    def policy_digest(self) -> str:
        """The identity of this plan without what differs between hosts and jobs: paths, and what is mounted where."""
        value = self.model_dump(mode="json", exclude_none=True)
        del value["root"]
        value["mounts"] = sorted({f"{mount.role}:{'rw' if mount.writable else 'ro'}" for mount in self.mounts})
        value["bounds"] = {"core_bytes": self.bounds.core_bytes, "open_files": self.bounds.open_files}
        return digest_of(canonical.dumps(value))

    def describe(self) -> str:
        """The plan for people, one line for each rule."""
        bounds = self.bounds
        rows = [
            ("runtime", self.runtime),
            ("image", f"{self.image}, unpacked in {self.root}, read-only"),
            ("command", " ".join(self.command)),
            ("environment", " ".join(f"{one.name}={one.value}" for one in self.environment)),
            ("identity", f"user {self.uid}, group {self.gid}, host name {self.hostname}"),
            ("namespaces", " ".join(self.namespaces)),
            ("network", self.network),
            ("privileges", "no capabilities, no new privileges, no core dumps"),
            *[
                ("read-write" if one.writable else "read-only", f"{one.role}: {one.source} as {one.target}")
                for one in self.mounts
            ],
            *[("in memory", f"{one.target}, {one.size_bytes} bytes") for one in self.scratch],
            ("memory", f"{bounds.memory_bytes} bytes" if bounds.memory_bytes else "this host cannot limit it"),
            ("tasks", f"{bounds.tasks}" if bounds.tasks else "this host cannot limit them"),
            ("limits", f"{bounds.open_files} open files, files of {bounds.file_bytes} bytes"),
            ("seccomp", self.seccomp),
            ("plan", self.digest()),
            ("policy", self.policy_digest()),
        ]
        return "\n".join(f"{name:<12} {value}" for name, value in rows)


def bounds_for(*, input_bytes: int, worker_bytes: int, workers: int, memory: bool, tasks: bool) -> Bounds:
    """The limits of a run whose inputs are `input_bytes` in all, with `workers` workers of `worker_bytes` each.

    `memory`, `tasks`: whether this host has a controller for them. Inputs lie in sealed memory, merged models twice.
    """
    return Bounds(
        memory_bytes=CONTROLLER_BYTES + workers * worker_bytes + 2 * input_bytes if memory else None,
        tasks=TASKS if tasks else None,
        file_bytes=OUTPUT_BYTES + input_bytes,
    )


def needed(plan: ContainerPlan) -> tuple[str, ...]:
    """The folders and files that the image must have, for something to be mounted there. A read-only root gets none."""
    under = [mount.target for mount in plan.mounts]
    outer = [path for path in under if not any(path != other and path.startswith(other + "/") for other in under)]
    return tuple(sorted({"/proc", "/dev", *(one.target for one in plan.scratch), *outer}))


def environment(pairs: Iterable[str]) -> tuple[Variable, ...]:
    """`NAME=VALUE` texts of an image as variables, sorted."""
    split = sorted(pair.partition("=")[::2] for pair in pairs)
    return tuple(Variable(name=name, value=value) for name, value in split)
