"""A job behind the container wall: the same digests, the same errors and the same end as in front of it.

Every test runs with each runtime that is installed, and on the image of build/image/cpu where it was built; else on a
root made of this host's own Python, which is no image but has the same flow.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import run
from appliance.enclave import container, inputs, launch, render, rootfs, seccomp, wall
from appliance.enclave.channel import EnclaveFailure
from appliance.enclave.container import Mount, Runtime
from appliance.notary.lab import Lab
from appliance.seal import kernel
from attest import canonical, transcript, verify
from attest.cli import read_bundle
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported, VerificationError
from attest.policy import Policy
from tests.conftest import ROOT, SMALL_JOB, Made, quiet
from tests.tools import host_root
from tests.tools.host_root import START

RUNTIMES: tuple[Runtime, ...] = ("bubblewrap", "runc", "podman")
NONCE = "00112233445566778899aabbccddeeff"
SAME = ("results.json", "transcript.jsonl", "evidence/job.json")


def installed(runtime: Runtime) -> bool:
    return all(map(shutil.which, launch.TOOLS[runtime]))


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each runtime of this host."""
    name: Runtime = request.param
    if not installed(name):
        pytest.skip(f"no {name} on this host")
    return name


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[rootfs.Image, tuple[Mount, ...]]:
    """The built image, or the host's own root."""
    built = ROOT / rootfs.DEFAULT
    if (built / "index.json").exists():
        return rootfs.open_image(built, tmp_path_factory.mktemp("images")), ()
    return host_root.make(tmp_path_factory.mktemp("root"))


@pytest.fixture
def behind(image: tuple[rootfs.Image, tuple[Mount, ...]], lab: Lab, engine: Path) -> Callable[..., run.Outcome]:
    """Runs a job file behind the wall: `behind(job, out, **fields of the request)`."""

    def start(job: Path, out: Path, **fields: object) -> run.Outcome:
        request = {"job": job, "lab": lab, "engine": engine, "out": out, "image": image[0], "more": image[1]} | fields
        return wall.run(wall.Request(**request), quiet)  # type: ignore[arg-type]

    return start


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small job, in a folder with all that it names: nothing is taken from the image but its code."""
    folder = tmp_path_factory.mktemp("job")
    shutil.copytree(ROOT / "appliance" / "demo", folder / "demo")
    job = folder / "demo" / "small.yaml"
    job.write_text(SMALL_JOB.replace("resource:demo/", ""))
    return job


def left(out: Path) -> list[str]:
    """What lies beside a bundle, without it."""
    return sorted(path.name for path in out.parent.iterdir() if path != out)


def mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


def settled(before: int) -> bool:
    """Whether no more is mounted than before, soon: tests beside this one mount things as well, for a moment."""
    end = time.monotonic() + 30
    while mounts() > before and time.monotonic() < end:
        time.sleep(0.05)
    return mounts() <= before


def test_same_job_has_the_same_digests_behind_the_wall(
    runtime: Runtime, files: Path, tmp_path: Path, behind: Callable[..., run.Outcome],
    execute: Callable[..., run.Outcome], lab: Lab,
) -> None:  # fmt: skip
    before = mounts()
    plain = execute(files, tmp_path / "plain" / "bundle")
    before_the_wall = verify.verify(read_bundle(plain.bundle), lab.trusted_root).manifest
    # No layer of a worker's seal is lost in a container.
    full = all(one.level == "full" for one in before_the_wall.seal)
    require = "full" if full else "any"
    walled = behind(files, tmp_path / "walled" / "bundle", runtime=runtime, require_seal=require)
    assert (walled.ended_by, walled.results) == ("done", plain.results)
    for name in SAME:
        assert (walled.bundle / name).read_bytes() == (plain.bundle / name).read_bytes()
    verified = verify.verify(read_bundle(walled.bundle), lab.trusted_root, nonce=NONCE)
    manifest = verified.manifest
    assert manifest.wall == "container"
    assert manifest.container is not None and manifest.container.runtime == runtime
    assert before_the_wall.container is None
    assert [one.level for one in manifest.seal] == [one.level for one in before_the_wall.seal]
    assert left(walled.bundle) == []
    assert settled(before)
    with pytest.raises(VerificationError, match="policy/wall"):
        verify.verify(read_bundle(walled.bundle), lab.trusted_root, policy=Policy(walls=("vm",)))


@pytest.fixture
def bubblewrap() -> Runtime:
    """The quickest runtime, for what is the same with all of them."""
    if not installed("bubblewrap"):
        pytest.skip("no bubblewrap on this host")
    return "bubblewrap"


def test_lock_made_behind_the_wall_holds_there(
    bubblewrap: Runtime, files: Path, tmp_path: Path, behind: Callable[..., run.Outcome], lab: Lab, engine: Path,
    image: tuple[rootfs.Image, tuple[Mount, ...]],
) -> None:  # fmt: skip
    folder = shutil.copytree(files.parent, tmp_path / "demo")
    job, lock = folder / "small.yaml", tmp_path / "locks" / "small.lock"
    lock.parent.mkdir()
    request = wall.Contained(job=job, out=lock, image=image[0], engine=engine, runtime=bubblewrap, more=image[1])
    lock.write_bytes(wall.lock(request, 3, quiet))
    assert left(lock) == []
    outcome = behind(job, tmp_path / "out" / "bundle", runtime=bubblewrap, lock=lock)
    manifest = verify.verify(read_bundle(outcome.bundle), lab.trusted_root, lock=lock.read_bytes()).manifest
    assert (manifest.lock.origin, manifest.lock.version) == ("given", 3)
    data = folder / "data" / "facts.jsonl"
    data.write_bytes(data.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(EnclaveFailure) as caught:
        behind(job, tmp_path / "out" / "again", runtime=bubblewrap, lock=lock)
    assert (caught.value.exit_code, caught.value.code) == (10, "BootRefused")
    assert "boot/digest-mismatch" in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif("VITRINE_WHOLE" not in os.environ, reason="the whole default job, twice: set VITRINE_WHOLE=1")
def test_default_job_has_the_same_digests(
    runtime: Runtime, tmp_path: Path, behind: Callable[..., run.Outcome], execute: Callable[..., run.Outcome]
) -> None:
    job = ROOT / "appliance" / "demo" / "job.yaml"
    plain, walled = execute(job, tmp_path / "plain"), behind(job, tmp_path / "walled", runtime=runtime)
    for name in SAME:
        assert (walled.bundle / name).read_bytes() == (plain.bundle / name).read_bytes()


def plan_of(
    runtime: Runtime, image: tuple[rootfs.Image, tuple[Mount, ...]], command: tuple[str, ...], folder: Path
) -> container.ContainerPlan:
    """A container of the same plan as a run's, that runs something else."""
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir()
    if runtime != "bubblewrap" and os.geteuid() == 0:
        os.chown(folder / "out", 65532, 65532)
    inside = [
        Mount(role="inputs", source=str(folder / "in"), target="/in"),
        Mount(role="output", source=str(folder / "out"), target="/out", writable=True),
    ]
    return container.ContainerPlan(
        runtime=runtime, image=image[0].digest, root=str(image[0].root), command=command,
        environment=container.environment(image[0].environment), mounts=(*image[1], *inside),
        bounds=container.bounds_for(input_bytes=0, worker_bytes=1 << 30, workers=2, memory=False, tasks=False),
        seccomp=seccomp.digest(seccomp.read()),
    )  # fmt: skip


LOOK = r"""
import ctypes, errno, json, os, socket
found = {}
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
found["caps"] = [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
found["privileges"] = [status["NoNewPrivs"], status["Seccomp"]]
found["user"] = [os.getuid(), os.getgid(), sorted(set(os.getgroups()) - {65532, 65534})]
found["net"] = sorted(line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:])
found["pids"] = len([name for name in os.listdir("/proc") if name.isdigit()])
found["env"] = sorted(os.environ)
found["host"] = os.uname().nodename
def attempt(name, work):
    try:
        work()
        found[name] = "allowed"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
attempt("inet", lambda: socket.socket(socket.AF_INET))
attempt("unix", lambda: socket.socket(socket.AF_UNIX))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
attempt("write-root", lambda: open("/usr/x", "w"))
attempt("write-in", lambda: open("/in/x", "w"))
attempt("write-dev", lambda: open("/dev/x", "w"))
attempt("write-out", lambda: open("/out/x", "w"))
attempt("write-tmp", lambda: open("/tmp/x", "w"))
NUMBERS = {"ptrace": 101, "bpf": 321, "keyctl": 250, "io_uring": 425, "perf": 298, "userfaultfd": 323, "kexec": 246,
           "reboot": 169, "settime": 227, "setns": 308, "init_module": 175, "process_vm_readv": 310}
for name, number in NUMBERS.items():
    attempt(name, lambda number=number: call(number, 0, 0, 0, 0, 0))
attempt("chroot", lambda: os.chroot("/tmp"))
attempt("mount", lambda: call(165, b"none", b"/tmp", b"tmpfs", 6, None))
json.dump(found, open("/out/found.json", "w"))
"""


def test_container_is_what_the_plan_says(
    runtime: Runtime, image: tuple[rootfs.Image, tuple[Mount, ...]], tmp_path: Path
) -> None:
    """Seen from inside. Without the policy the sockets below are allowed: see the next test."""
    plan = plan_of(runtime, image, (image[0].command[0], "-I", "-c", LOOK), tmp_path)
    with pytest.raises(launch.StartRefused), launch.start(plan, (tmp_path / "c").resolve()) as _:
        pass
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert found["caps"] == ["0000000000000000"] * 5
    assert found["privileges"] == ["1", "2"]
    assert found["user"] == [65532, 65532, []]
    assert found["net"] == ["lo"]
    assert found["pids"] <= 2
    assert set(found["env"]) <= {"LANG", "OPENBLAS_NUM_THREADS", "PATH", "LC_CTYPE", "container", "HOME", "HOSTNAME",
                                 "TERM", "PWD"} | {pair.partition("=")[0] for pair in image[0].environment}  # fmt: skip
    assert found["host"] == "vitrine"
    for name in ("inet", "unix", "netlink", "vsock", "chroot", "mount"):
        assert found[name] == "EPERM", name
    for name in ("write-root", "write-in", "write-dev"):
        assert found[name] in ("EROFS", "EACCES", "EPERM", "ENOENT"), name
    assert (found["write-out"], found["write-tmp"]) == ("allowed", "allowed")
    for name in ("ptrace", "bpf", "keyctl", "io_uring", "perf", "userfaultfd", "kexec", "reboot", "settime", "setns",
                 "init_module", "process_vm_readv"):  # fmt: skip
        assert found[name] == "EPERM", name


def test_policy_is_what_refuses(
    runtime: Runtime, image: tuple[rootfs.Image, tuple[Mount, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter-example: with sockets added to the policy, a socket can be had."""
    data = seccomp.read() + b'\n[[allow]]\nwhy = "a hole"\ncalls = ["socket"]\n'
    monkeypatch.setattr(seccomp, "read", lambda: data)
    plan = plan_of(runtime, image, (image[0].command[0], "-I", "-c", LOOK), tmp_path)
    with pytest.raises(launch.StartRefused), launch.start(plan, (tmp_path / "c").resolve()) as _:
        pass
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert (found["inet"], found["unix"], found["ptrace"]) == ("allowed", "allowed", "EPERM")


@pytest.mark.parametrize("artifact", ["model", "dataset"])
def test_one_flipped_byte_stops_the_run_as_in_front_of_the_wall(
    artifact: str, files: Path, tmp_path: Path, behind: Callable[..., run.Outcome], bubblewrap: Runtime
) -> None:
    folder = shutil.copytree(files.parent, tmp_path / "demo")
    target = {
        "model": folder / "organism-q8_0.gguf",
        "dataset": folder / "data" / "facts.jsonl",
    }[artifact]
    content = bytearray(target.read_bytes())
    content[0 if artifact == "model" else len(content) // 2] ^= 1
    target.write_bytes(content)
    with pytest.raises((EnclaveFailure, MalformedInput, VerificationError)) as caught:
        behind(folder / "small.yaml", tmp_path / "out" / "bundle", runtime=bubblewrap)
    assert caught.value.exit_code in (10, 30)
    assert not (tmp_path / "out" / "bundle").exists()


def test_interrupt_is_passed_on_and_leaves_the_same(
    runtime: Runtime, files: Path, tmp_path: Path, behind: Callable[..., run.Outcome]
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    count, job = mounts(), files.with_name("long.yaml")
    job.write_text(files.read_text().replace("limit: 4", "limit: 200").replace("limit: 3", "limit: 200"))
    started = threading.Event()

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "samples" and done >= 2 and not started.is_set():
            started.set()
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            with_progress(behind, progress)(job, tmp_path / "a" / "bundle", runtime=runtime)
        assert started.is_set()
        assert not (tmp_path / "a" / "bundle").exists()
        assert left(tmp_path / "a" / "bundle") == ["bundle.incomplete"]
        script = transcript.read((tmp_path / "a" / "bundle.incomplete" / "transcript.jsonl").read_bytes())
        assert script.closing == {"ended_by": "interrupted"}
        assert len(script.samples) >= 2
        started.clear()
        outcome = with_progress(behind, progress)(job, tmp_path / "b" / "bundle", runtime=runtime, sign_incomplete=True)
        assert (outcome.ended_by, outcome.results.complete) == ("interrupted", False)
        assert left(outcome.bundle) == []
    finally:
        signal.signal(signal.SIGINT, before)
    assert settled(count)


def with_progress(
    behind: Callable[..., run.Outcome], progress: Callable[[str, int, int], None]
) -> Callable[..., run.Outcome]:
    """`behind`, with a progress callback of our own."""

    def start(job: Path, out: Path, **fields: object) -> run.Outcome:
        original = wall.run
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wall, "run", lambda request, _progress: original(request, progress))
            return behind(job, out, **fields)

    return start


def test_container_that_dies_is_one_clear_error(
    runtime: Runtime, files: Path, tmp_path: Path, behind: Callable[..., run.Outcome]
) -> None:
    job = files.with_name("long.yaml")
    job.write_text(files.read_text().replace("limit: 4", "limit: 200"))
    killed = threading.Event()

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "samples" and done >= 1 and not killed.is_set():
            killed.set()
            for pid in inside_processes(tmp_path):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(EnclaveFailure, match=r"behind the wall: .*ended"):
        with_progress(behind, progress)(job, tmp_path / "bundle", runtime=runtime)
    assert killed.is_set()
    assert not (tmp_path / "bundle").exists()
    assert left(tmp_path / "bundle") == ["bundle.incomplete"]
    time.sleep(0.2)
    assert inside_processes(tmp_path) == []


def inside_processes(place: Path) -> list[int]:
    """Every process that runs the inside of a wall with something of `place` mounted in it, seen from the host."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            ours = bool(words) and f"{place.parent.name}/{place.name}" in (entry / "mountinfo").read_text()
        except OSError:
            continue
        if ours and b"python" in words[0] and (START.encode() in words or words[-2:] == [b"inside", b""]):
            found.append(int(entry.name))
    return found


def test_container_starts_within_a_second(
    runtime: Runtime, image: tuple[rootfs.Image, tuple[Mount, ...]], tmp_path: Path
) -> None:
    plan = plan_of(runtime, image, image[0].command, tmp_path)
    times = []
    for number in range(3):
        began = time.perf_counter()
        with launch.start(plan, (tmp_path / f"c{number}").resolve()):
            times.append(time.perf_counter() - began)
    assert min(times) < (3 if runtime == "podman" else 2)  # the bar of one second is for a quiet machine: make bench


# --- without a container ---------------------------------------------------------------------------------------------


def test_relative_paths_are_kept(tmp_path: Path) -> None:
    demo = ROOT / "appliance" / "demo"
    (tmp_path / "jobs" / "deep").mkdir(parents=True)
    (tmp_path / "sets" / "data").mkdir(parents=True)
    shutil.copytree(demo / "suites", tmp_path / "suites")
    for path in (demo / "data").iterdir():
        shutil.copy(path, tmp_path / "sets" / "data")
    suite = (tmp_path / "suites" / "facts.yaml").read_text()
    assert "../data/" in suite
    (tmp_path / "suites" / "facts.yaml").write_text(suite.replace("../data/", "data/"))
    shutil.copy(demo / "organism-q8_0.gguf", tmp_path / "model.gguf")
    job = tmp_path / "jobs" / "deep" / "job.yaml"
    job.write_text(
        "format: vitrine/job/v1\nname: paths\nmodels: [{id: organism, path: ../../model.gguf}]\n"
        "suites: [{path: ../../suites/facts.yaml}]\n"
    )
    found = inputs.find(job, None, (tmp_path / "sets",))
    assert found.job == "/in/jobs/deep/job.yaml"
    assert found.data == ("/in/sets",)
    assert [(item.target, item.shown) for item in found.files] == [
        ("/in/jobs/deep/job.yaml", False),
        ("/in/model.gguf", True),
        ("/in/sets/data/facts.jsonl", False),
        ("/in/suites/facts.yaml", False),
    ]
    inputs.stage(found, tmp_path / "staged")
    staged = tmp_path / "staged"
    assert (staged / "suites" / "facts.yaml").read_bytes() == (tmp_path / "suites" / "facts.yaml").read_bytes()
    assert (staged / "model.gguf").stat().st_size == 0
    modes = {path.stat().st_mode & 0o777 for path in staged.rglob("*")}
    assert modes == {0o755, 0o444}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("organism-q8_0.gguf", "/models/x.gguf"), Unsupported),
        (("organism-q8_0.gguf", "missing.gguf"), VerificationError),
        (("suites/facts.yaml", "/suites/facts.yaml"), MalformedInput),
    ],
)
def test_what_cannot_be_handed_in_is_refused(
    files: Path, change: tuple[str, str], error: type[Exception], tmp_path: Path
) -> None:
    folder = shutil.copytree(files.parent, tmp_path / "demo")
    text = (folder / "small.yaml").read_text()
    assert change[0] in text
    (folder / "small.yaml").write_text(text.replace(*change))
    with pytest.raises(error):
        inputs.find(folder / "small.yaml")


def test_link_in_place_of_a_model_is_refused_as_at_boot(files: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files.parent, tmp_path / "demo")
    model = folder / "organism-q8_0.gguf"
    model.rename(folder / "real.gguf")
    model.symlink_to("real.gguf")
    with pytest.raises(VerificationError, match="file/not-regular"):
        inputs.find(folder / "small.yaml")


def example_plan(runtime: Runtime = "runc", **fields: object) -> container.ContainerPlan:
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
    assert plan.policy_digest() != example_plan(mounts=(Mount(role="inputs", source="/", target="/in", writable=True),))
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
