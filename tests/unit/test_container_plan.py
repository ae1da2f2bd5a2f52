"""The plan of a container as data, in the words of each runtime, and what is missing to carry it out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.enclave import container, launch, render, rootfs, seccomp, wall
from appliance.enclave.container import Mount, Runtime
from appliance.seal import kernel
from attest import canonical
from attest.errors import EnvironmentProblem, Unsupported
from tests.conftest import Made, quiet
from tests.integration.test_container import RUNTIMES


def example_plan(runtime: Runtime = "runc", **fields: object) -> container.ContainerPlan:
    """A plan, with other fields."""
    value = {
        "runtime": runtime, "image": "sha256:" + "1" * 64, "root": "/srv/root", "command": ("/usr/bin/python3", "x"),
        "environment": container.environment(["B=2", "A=1=1"]),
        "mounts": (
            Mount(role="inputs", source="/srv/in", target="/in"),
            Mount(role="model", source="/srv/m.gguf", target="/in/m.gguf"),
            Mount(role="output", source="/srv/out", target="/out", writable=True),
        ),
        "bounds": container.bounds_for(input_bytes=5, worker_bytes=1 << 30, workers=2, memory=True, tasks=True),
        "seccomp": "sha256:" + "2" * 64,
    } | fields  # fmt: skip
    return container.ContainerPlan(**value)  # type: ignore[arg-type]


def test_plan_is_data() -> None:
    plan = example_plan()
    assert canonical.parse(container.ContainerPlan, canonical.dump_model(plan), "plan") == plan
    assert plan.policy_digest() == example_plan(root="/elsewhere").policy_digest() != plan.digest()
    assert plan.policy_digest() != example_plan(command=("/bin/sh",)).policy_digest()
    writable = example_plan(mounts=(Mount(role="inputs", source="/", target="/in", writable=True),))
    assert plan.policy_digest() != writable.policy_digest()
    assert container.needed(plan) == ("/dev", "/in", "/out", "/proc", "/tmp")
    for line in ("read-write   output: /srv/out as /out", "A=1=1 B=2", "network      none"):
        assert line in plan.describe()


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_rendering_asks_for_everything(runtime_name: Runtime, tmp_path: Path) -> None:
    tools = {name: f"/usr/bin/{name}" for names in launch.TOOLS.values() for name in names}
    policy = seccomp.parse(seccomp.read())
    place = render.Place(tools, tmp_path, "vitrine-x", True, kernel.architecture())
    command = render.render(example_plan(runtime_name), policy, place)
    text = " ".join(command.argv)
    wanted = {
        "bubblewrap": ["--unshare-net", "--unshare-pid", "--cap-drop ALL", "--clearenv", "--die-with-parent",
                       "--ro-bind /srv/root /", "--ro-bind /srv/m.gguf /in/m.gguf", "--bind /srv/out /out",
                       "--uid 65532", "--seccomp @seccomp", "--new-session", "--core=0"],
        "podman": ["--network none", "--read-only", "--cap-drop all", "no-new-privileges", "seccomp=", "--pids-limit",
                   "--user 65532:65532", "src=/srv/m.gguf,dst=/in/m.gguf,ro=true", "ro=false", "--rootfs /srv/root:O",
                   "--http-proxy=false", "--memory", "--pull never"],
        "runc": ["run --bundle"],
    }[runtime_name]  # fmt: skip
    for words in wanted:
        assert words in text, words
    if runtime_name == "runc":
        config = json.loads(command.files["config.json"])
        assert config["root"] == {"path": "/srv/root", "readonly": True}
        assert config["process"]["noNewPrivileges"] is True
        assert config["process"]["user"] == {"uid": 65532, "gid": 65532}
        assert not any(config["process"]["capabilities"].values())
        assert {entry["type"] for entry in config["linux"]["namespaces"]} == {
            "mount", "pid", "network", "ipc", "uts", "cgroup",
        }  # fmt: skip
        writable = [m["destination"] for m in config["mounts"] if m["type"] == "bind" and "rw" in m["options"]]
        assert writable == ["/out"]
        assert config["linux"]["resources"]["pids"] == {"limit": container.TASKS}


@pytest.mark.parametrize("mark", list(',"\r\n'))
def test_podman_is_not_told_a_path_that_it_would_read_otherwise(mark: str, tmp_path: Path) -> None:
    place = render.Place({"podman": "/usr/bin/podman"}, tmp_path, "vitrine-x", True, kernel.architecture())
    mount = Mount(role="model", source=f"/srv/m{mark}x.gguf", target="/in/m.gguf")
    with pytest.raises(Unsupported, match="rename it, or use another runtime"):
        render.render(example_plan("podman", mounts=(mount,)), seccomp.parse(seccomp.read()), place)


@pytest.mark.parametrize("mark", list(':,"\\'))
def test_podman_is_not_told_an_image_that_its_overlay_could_not_name(mark: str, tmp_path: Path) -> None:
    place = render.Place({"podman": "/usr/bin/podman"}, tmp_path, "vitrine-x", True, kernel.architecture())
    with pytest.raises(Unsupported, match="rename it, or use another runtime"):
        render.render(example_plan("podman", root=f"/srv/r{mark}t"), seccomp.parse(seccomp.read()), place)


def test_policy_says_the_same_in_both_forms(tmp_path: Path) -> None:
    """The compiled program, run by the kernel, against the rules of the JSON, for calls that do no harm."""
    program = seccomp.to_bpf(seccomp.parse(seccomp.read()), kernel.architecture())
    rules = seccomp.to_oci(seccomp.parse(seccomp.read()), kernel.architecture())["syscalls"]
    allowed = {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    code = f"""
import ctypes, os, struct
program = {program!r}
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(program)
class F(ctypes.Structure):
    _fields_ = [("n", ctypes.c_ushort), ("p", ctypes.c_void_p)]
assert libc.prctl(38, 1, 0, 0, 0) == 0
f = F(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
assert libc.prctl(22, 2, ctypes.byref(f), 0, 0) == 0
for name, number in dict(setsid=112, getpgrp=111, statfs=137, personality=135, socket=41, sched_yield=24, sync=162,
                         iopl=172, swapoff=168, umask=95, getcpu=309, syslog=103).items():
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(number), 0, 0, 0, 0)
    print(name, ctypes.get_errno())
"""
    if kernel.architecture() != "x86_64":
        pytest.skip("the numbers are those of x86-64")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        name, number = line.split()
        assert (number == "1") == (name not in allowed), line


def test_host_without_a_runtime_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EnvironmentProblem, match="apt install bubblewrap"):
        launch.choices(None)
    with pytest.raises(EnvironmentProblem, match="expected podman"):
        launch.choices("podman")


def test_image_that_is_not_there_and_one_that_was_changed(tmp_path: Path, made: Made) -> None:
    with pytest.raises(EnvironmentProblem, match="appliance image build"):
        rootfs.open_image(tmp_path / "none")
    with pytest.raises(EnvironmentProblem, match="exists already"):
        nothing = rootfs.Image(tmp_path, "sha256:" + "0" * 64, ("/x",), ())
        wall.run(wall.Request(job=made.job, lab=made.lab, out=made.bundle, image=nothing), quiet)
    first = rootfs.listing_digest(tmp_path)
    (tmp_path / "more").write_text("x")
    assert rootfs.listing_digest(tmp_path) != first
