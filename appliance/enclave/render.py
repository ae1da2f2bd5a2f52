"""A container plan in the words of each runtime: a command line, and the files that it names. Nothing is done here.

Each rendering asks for the same things: the image as a read-only root, no network, no capabilities, no new privileges,
our system call policy, user 65532, an empty environment but for the plan's, a sized /tmp, inputs read-only, one
writable folder. Where they differ is said beside the flag.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.enclave import seccomp
from appliance.enclave.container import ContainerPlan, Runtime
from appliance.seal.policy import SeccompPolicy
from appliance.seal.syscalls import Architecture
from attest.errors import Unsupported

HIDDEN = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
)  # fmt: skip
"""What of /proc a container does not see, as the OCI runtimes have it by default."""
UNCHANGED = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""What of /proc nobody writes."""
SECCOMP_FD = "@seccomp"
"""Stands in a command line for the number of the descriptor with the compiled policy."""


@dataclass(frozen=True)
class Command:
    """What to execute."""

    argv: tuple[str, ...]
    """Program and arguments."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Files that must be in the folder of this container first, by name."""
    program: bytes = b""
    """The compiled policy, to be inherited as the descriptor that `SECCOMP_FD` stands for; empty: none is."""
    cleanup: tuple[tuple[str, ...], ...] = ()
    """What to execute afterwards, whatever happened; each may fail, because nothing is left."""


@dataclass(frozen=True)
class Place:
    """What a rendering needs to know of the host."""

    tools: dict[str, str]
    """Paths of the programs, by name."""
    folder: Path
    """A private folder for this container alone."""
    name: str
    """The container's name, unique on this host."""
    root: bool
    """Whether the caller is root."""
    architecture: Architecture
    """The processor's."""


def render(plan: ContainerPlan, policy: SeccompPolicy, place: Place) -> Command:
    """How `plan` is carried out by its runtime. Raises `Unsupported` for paths that this runtime cannot be told."""
    return _RENDERERS[plan.runtime](plan, policy, place)


def _bubblewrap(plan: ContainerPlan, policy: SeccompPolicy, place: Place) -> Command:
    bounds = plan.bounds
    argv = [
        # The limits that a runtime sets from its plan; bubblewrap leaves them to its caller.
        place.tools["prlimit"], f"--core={bounds.core_bytes}", f"--fsize={bounds.file_bytes}",
        f"--nofile={bounds.open_files}", place.tools["bwrap"],
        # User 65532 inside is the caller outside: there is no other user that it may become.
        "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
        "--uid", str(plan.uid), "--gid", str(plan.gid), "--hostname", plan.hostname,
        "--ro-bind", plan.root, "/", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev",
    ]  # fmt: skip
    for scratch in plan.scratch:
        argv += ["--perms", "1777", "--size", str(scratch.size_bytes), "--tmpfs", scratch.target]
    for mount in plan.mounts:
        argv += ["--bind" if mount.writable else "--ro-bind", mount.source, mount.target]
    argv += ["--cap-drop", "ALL", "--new-session", "--die-with-parent", "--as-pid-1", "--chdir", "/", "--clearenv"]
    for variable in plan.environment:
        argv += ["--setenv", variable.name, variable.value]
    argv += ["--seccomp", SECCOMP_FD, "--", *plan.command]
    return Command(tuple(argv), program=seccomp.to_bpf(policy, place.architecture))


def _runc(plan: ContainerPlan, policy: SeccompPolicy, place: Place) -> Command:
    config = json.dumps(runc_config(plan, policy, place.architecture), indent=1).encode()
    base = (place.tools["runc"], "--root", str(place.folder / "state"))
    return Command(
        (*base, "run", "--bundle", str(place.folder), place.name),
        files={"config.json": config},
        cleanup=((*base, "delete", "--force", place.name),),
    )


def runc_config(plan: ContainerPlan, policy: SeccompPolicy, architecture: Architecture) -> dict[str, Any]:
    """The `config.json` of the OCI runtime specification."""
    bounds = plan.bounds
    empty: list[str] = []
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if bounds.memory_bytes is not None:
        resources["memory"] = {"limit": bounds.memory_bytes, "swap": bounds.memory_bytes}
    if bounds.tasks is not None:
        resources["pids"] = {"limit": bounds.tasks}
    quiet = ["nosuid", "nodev", "noexec"]
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": quiet},
        {
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=65536", "ro"],
        },
    ]  # fmt: skip
    mounts += [
        {
            "destination": one.target, "type": "tmpfs", "source": "tmpfs",
            "options": [*quiet, "mode=1777", f"size={one.size_bytes}"],
        }
        for one in plan.scratch
    ]  # fmt: skip
    mounts += [
        {
            "destination": one.target, "type": "bind", "source": one.source,
            "options": ["rbind", "rprivate", "rw" if one.writable else "ro", "nosuid", "nodev"],
        }
        for one in plan.mounts
    ]  # fmt: skip
    return {
        "ociVersion": "1.0.2",
        "root": {"path": plan.root, "readonly": True},
        "hostname": plan.hostname,
        "process": {
            "terminal": False,
            "user": {"uid": plan.uid, "gid": plan.gid},
            "args": list(plan.command),
            "env": [f"{one.name}={one.value}" for one in plan.environment],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), empty),
            "rlimits": [
                {"type": name, "hard": value, "soft": value}
                for name, value in (
                    ("RLIMIT_CORE", bounds.core_bytes),
                    ("RLIMIT_FSIZE", bounds.file_bytes),
                    ("RLIMIT_NOFILE", bounds.open_files),
                )
            ],
        },
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": {"net": "network"}.get(name, name)} for name in plan.namespaces],
            "resources": resources,
            "maskedPaths": list(HIDDEN),
            "readonlyPaths": list(UNCHANGED),
            "seccomp": seccomp.to_oci(policy, architecture),
        },
    }


def _podman(plan: ContainerPlan, policy: SeccompPolicy, place: Place) -> Command:
    bounds, profile = plan.bounds, place.folder / "seccomp.json"
    _podman_can_say(plan.root, ':,"\\')  # it is mounted as an overlay, whose options have separators of their own
    podman = place.tools["podman"]
    argv = [
        podman, "run", "--rm", "--interactive", "--name", place.name, "--log-driver", "none", "--pull", "never",
        "--network", "none", "--no-hosts", "--http-proxy=false", "--read-only", "--read-only-tmpfs=false",
        "--cap-drop", "all", "--security-opt", "no-new-privileges", "--security-opt", f"seccomp={profile}",
        "--user", f"{plan.uid}:{plan.gid}", "--hostname", plan.hostname, "--workdir", "/", "--unsetenv-all",
        "--ipc", "none", "--sig-proxy=false", "--image-volume", "ignore",
        "--ulimit", f"core={bounds.core_bytes}:{bounds.core_bytes}",
        "--ulimit", f"fsize={bounds.file_bytes}:{bounds.file_bytes}",
        "--ulimit", f"nofile={bounds.open_files}:{bounds.open_files}", "--ulimit", "nproc=4096:4096",
    ]  # fmt: skip
    if "runc" in place.tools:
        argv[1:1] = ["--runtime", place.tools["runc"]]
    if not place.root:
        # The caller's own user appears as the plan's, so that it can read the inputs and write the output.
        argv += ["--userns", f"keep-id:uid={plan.uid},gid={plan.gid}"]
    if bounds.memory_bytes is not None:
        argv += ["--memory", str(bounds.memory_bytes), "--memory-swap", str(bounds.memory_bytes)]
    if bounds.tasks is not None:
        argv += ["--pids-limit", str(bounds.tasks)]
    for scratch in plan.scratch:
        argv += ["--tmpfs", f"{scratch.target}:rw,nosuid,nodev,noexec,mode=1777,size={scratch.size_bytes}"]
    for mount in plan.mounts:
        for path in (mount.source, mount.target):
            _podman_can_say(path, ',"\r\n')
        argv += ["--mount", f"type=bind,src={mount.source},dst={mount.target},ro={str(not mount.writable).lower()}"]
    for variable in plan.environment:
        argv += ["--env", f"{variable.name}={variable.value}"]
    entry, *arguments = plan.command
    # podman writes files of its own into /etc and /run: into an overlay (:O) that goes with the container.
    argv += ["--entrypoint", json.dumps([entry]), "--rootfs", f"{plan.root}:O", *arguments]
    policy_json = json.dumps(seccomp.to_oci(policy, place.architecture), indent=1).encode()
    return Command(
        tuple(argv),
        files={"seccomp.json": policy_json},
        cleanup=((podman, "rm", "--force", "--ignore", "--time", "0", place.name),),
    )


def _podman_can_say(path: str, separators: str) -> None:
    """Its options are lists with separators, which cannot be quoted."""
    if found := sorted(set(path) & set(separators)):
        raise Unsupported(
            "podman",
            f"expected a path without {' '.join(map(repr, found))}, found {path!r}: rename it, or use another runtime",
        )


_RENDERERS: dict[Runtime, Callable[[ContainerPlan, SeccompPolicy, Place], Command]] = {
    "bubblewrap": _bubblewrap,
    "podman": _podman,
    "runc": _runc,
}
