"""Namespaces of a worker's own: network, IPC, host name, cgroup view, users, processes, and a root of what it may read.

All are optional layers, recorded as they come: a container may refuse them and be the wall itself. A root worker makes
them with the capabilities that it kept and enters its user namespace last, a worker that is not root needs the user
namespace first. A PID namespace takes effect only for children, so it is made before the worker is forked
(`appliance.seal.keeper`), and only looked at here.
"""

from __future__ import annotations

import errno
import os
import socket

from appliance.seal import capabilities, kernel, root
from appliance.seal.outcome import enforced, refused, unavailable
from appliance.seal.plan import Identity, Namespace, SealPlan
from attest.seal import Layer

FLAGS: dict[Namespace, int] = {
    "mount": kernel.CLONE_NEWNS,
    "net": kernel.CLONE_NEWNET,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "cgroup": kernel.CLONE_NEWCGROUP,
}

DETAILS: dict[Namespace, str] = {
    "user": "its own users and its own count of tasks",
    "mount": "its own mounts",
    "net": "no interface but a loopback that is down",
    "ipc": "its own System V objects and message queues",
    "uts": "its own host name",
    "cgroup": "its own view of the hierarchy",
    "pid": "no process but this one",
}

HOST_NAME = "vitrine"
FIRST_PROCESS = 1
"""The process id of the first process of a PID namespace."""
CAP_SYS_ADMIN = 1 << 21  # linux/capability.h


def separate(plan: SealPlan) -> list[Layer]:
    """Make the namespaces of `plan`, as far as this host offers them; one layer for each, and one for the root."""
    wanted = plan.namespaces
    outer = (os.geteuid(), os.getegid())
    user_last = capabilities.effective() & CAP_SYS_ADMIN != 0
    # Held open, because /proc is out of sight when a root worker writes its user maps.
    process = os.open("/proc/self", os.O_PATH | os.O_CLOEXEC)
    try:
        layers: list[Layer] = []
        if "user" in wanted and not user_last:
            layers.append(_users(process, plan.identity, outer))
        made = [name for name in wanted if name in FLAGS and _unshare(name, layers)]
        if "uts" in made:
            socket.sethostname(HOST_NAME)
        if "mount" in wanted:
            layers.append(_only_named_files(plan) if "mount" in made else unavailable("root", "no mount namespace"))
        if "pid" in wanted:
            layers.append(_processes())
        if "user" in wanted and user_last:
            layers.append(_users(process, plan.identity, outer))
        return layers
    finally:
        os.close(process)


def _unshare(name: Namespace, layers: list[Layer]) -> bool:
    try:
        kernel.call("unshare", FLAGS[name])
    except OSError as error:
        layers.append(refused(f"namespace-{name}", "unshare", error))
        return False
    layers.append(enforced(f"namespace-{name}", DETAILS[name]))
    return True


def _only_named_files(plan: SealPlan) -> Layer:
    try:
        root.replace(tuple(entry.path for entry in plan.landlock.read_only))
    except OSError as error:
        return refused("root", str(error.filename or "the new root"), error)
    return enforced("root", "holds the read-only paths and nothing else; read-only, no devices, no set-user-id")


def _users(process: int, identity: Identity, outer: tuple[int, int]) -> Layer:
    """Enter a user namespace in which this process alone exists, as the user of the plan (user_namespaces(7))."""
    try:
        kernel.call("unshare", kernel.CLONE_NEWUSER)
        _write(process, "setgroups", "deny")
        _write(process, "uid_map", f"{identity.uid} {outer[0]} 1")
        _write(process, "gid_map", f"{identity.gid} {outer[1]} 1")
    except OSError as error:
        return refused("namespace-user", str(error.filename or "unshare"), error)
    return enforced("namespace-user", DETAILS["user"])


def _processes() -> Layer:
    """Whether this process is the first of a PID namespace, and if not, why not."""
    if os.getpid() == FIRST_PROCESS:
        return enforced("namespace-pid", DETAILS["pid"])
    # A child tries, because who makes one can start no more threads.
    child = os.fork()
    if child == 0:
        try:
            kernel.call("unshare", kernel.CLONE_NEWPID)
        except OSError as error:
            os._exit(error.errno or errno.EIO)
        os._exit(0)
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if number > 0:
        return refused("namespace-pid", "unshare", OSError(number, os.strerror(number)))
    return unavailable("namespace-pid", "the worker was started without one")


def _write(process: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=process)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)
