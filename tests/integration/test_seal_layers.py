"""Each layer of the seal by itself, what `enter` refuses, and what it costs."""

from __future__ import annotations

import os
import sys

import pytest

from appliance.seal import landlock, plan_for
from appliance.seal.attempts import ATTEMPTS
from attest.seal import MANDATORY
from attest.sealplan import SealPlan, layer_names
from tests.tools.hostile import MIB, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the seal is made of Linux system calls")

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="a single layer without a user namespace needs root")

FILE_PROBES = {"write-cwd", "write-tmp", "write-shm", "read-passwd", "read-shadow", "read-environ", "read-home"}
SYSCALL_PROBES = {one.name for one in ATTEMPTS} - {
    "ptrace", "set-user", "mount", "stop-group", "death-signal", "user-namespace",
    "read-passwd", "read-shadow", "read-environ", "read-root", "read-home", "inherited-memory-file",
}  # fmt: skip

# In a PID namespace of its own a worker has no parent to reach for.
_PLAN = plan_for("eval", memory_bytes=256 * MIB, threads=4)
WITH_A_PARENT = _PLAN.model_copy(update={"namespaces": tuple(name for name in _PLAN.namespaces if name != "pid")})

ALONE = {
    "landlock": FILE_PROBES | {"read-root", "write-memory", "inet-connect", "signal-parent"},
    "seccomp": SYSCALL_PROBES,
    "root": FILE_PROBES - {"read-home"} | {"write-memory"},
    "net": {"inet-connect"},
    "privileges": {"set-user", "mount", "packet-socket", "read-shadow", "read-environ", "read-home", "read-parent"},
}
"""What a layer denies even when all others are missing."""


@pytest.mark.parametrize("name", ALONE)
@root_only
def test_a_layer_holds_alone(name):
    if name == "landlock" and landlock.abi() < 6:
        pytest.skip(f"Landlock ABI {landlock.abi()} has no network rules or scopes")
    status, report, lines = run("layer", name, plan=WITH_A_PARENT)
    if name in ("root", "net") and any(b"Operation not permitted" in line for line in lines):
        pytest.skip("this host offers no namespaces")
    assert status == 0, lines
    assert {probe for probe in ALONE[name] if report[probe] != "denied"} == set()


@root_only
def test_nothing_is_denied_without_layers():
    """The probes themselves work: outside a seal they succeed, or find no object."""
    status, report, lines = run("layer", "none", plan=WITH_A_PARENT)
    assert status == 0, lines
    allowed = {name for name, outcome in report.items() if outcome == "allowed"}
    assert allowed >= FILE_PROBES - {"read-environ", "read-home"} | {"inet-socket", "unix-socket", "fork", "execute"}
    assert allowed >= {
        "inet-connect",
        "memory-file",
        "executable-memory",
        "signal-parent",
        "raise-limit",
        "personality",
    }


@pytest.mark.parametrize("kind", ["model", "eval"])
def test_all_layers_are_named_and_entering_is_fast(kind, record_property):
    times = []
    for _ in range(3):
        status, report, lines = run("outcome", plan=plan_for(kind, memory_bytes=256 * MIB, threads=4))
        assert status == 0, lines
        times.append(report["ms"])
    layers = report["layers"]
    for mandatory in ("descriptors", "environment", "limits", "capabilities", "no-new-privileges", "seccomp"):
        assert layers[mandatory][0] == "enforced", layers[mandatory]
    assert set(layers) >= {"identity", "root", "landlock", "landlock-tcp", "landlock-scopes", "namespace-net"}
    assert tuple(layers) == layer_names(plan_for(kind, memory_bytes=256 * MIB, threads=4))
    assert all(layers[name][0] == "enforced" for name in MANDATORY)
    record_property("enter_ms", min(times))
    assert min(times) < 100


def test_a_second_seal_is_refused():
    assert run("twice")[1] == "this process is sealed already"


def test_a_seal_with_threads_is_refused():
    assert run("with_thread")[1].startswith("RuntimeError: expected one thread when sealing, found 2")


def test_an_inherited_socket_is_refused():
    assert run("with_socket")[1].startswith(
        "EnvironmentProblem: descriptors: expected pipes and sealed memory files, found a socket"
    )


def test_an_unsealed_memory_file_is_refused():
    assert "a memory file that is not sealed" in run("with_file")[1]


def test_an_inherited_directory_is_refused():
    fd = os.open("/", os.O_RDONLY)
    try:
        assert "found a directory" in run("refusal", fds={"root": fd})[1]
    finally:
        os.close(fd)


def _changed(plan: SealPlan, **parts: object) -> SealPlan:
    return plan.model_copy(update=parts)


def test_another_policy_than_planned_is_refused():
    plan = plan_for("eval", memory_bytes=256 * MIB, threads=1)
    other = plan.seccomp.model_copy(update={"policy_digest": "sha256:" + "0" * 64})
    assert run("refusal", plan=_changed(plan, seccomp=other))[1].startswith("EnvironmentProblem: seccomp policy eval")


def test_a_missing_read_only_path_is_refused():
    plan = plan_for("eval", memory_bytes=256 * MIB, threads=1)
    entry = plan.landlock.read_only[0].model_copy(update={"path": "/no/such/directory"})
    landlock_plan = plan.landlock.model_copy(update={"read_only": (*plan.landlock.read_only, entry)})
    assert run("refusal", plan=_changed(plan, landlock=landlock_plan))[1].startswith("EnvironmentProblem: landlock")
