"""A job behind the container wall: the same digests, the same errors and the same end as in front of it.

Every test runs with each runtime that is installed, and on the image of build/image/cpu where it was built; else on a
root made of this host's own Python, which is no image but has the same flow.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import job as jobs
from appliance import run
from appliance.enclave import container, launch, rootfs, seccomp, wall
from appliance.enclave.channel import EnclaveFailure
from appliance.enclave.container import Mount, Runtime
from appliance.job import Rows
from appliance.notary.lab import Lab
from appliance.resume import SAMPLE_LINE
from attest import transcript, verify
from attest.cli import read_bundle
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
from attest.job import digest
from attest.policy import Policy
from tests.conftest import ROOT, quiet
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


def test_part_of_a_job_has_the_same_digests_behind_the_wall(
    bubblewrap: Runtime, files: Path, tmp_path: Path, behind: Callable[..., run.Outcome],
    execute: Callable[..., run.Outcome], lab: Lab,
) -> None:  # fmt: skip
    rows = Rows(limit=2, shuffle=7)
    plain = execute(files, tmp_path / "plain" / "bundle", rows=rows)
    walled = behind(files, tmp_path / "walled" / "bundle", runtime=bubblewrap, rows=rows)
    for name in SAME:
        assert (walled.bundle / name).read_bytes() == (plain.bundle / name).read_bytes()
    found = verify.verify(read_bundle(walled.bundle), lab.trusted_root).manifest
    assert found.job.digest == digest(jobs.load(files, rows).job) != digest(jobs.load(files).job)
    assert {suite.planned for suite in found.suites} == {2}


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


def written(place: Path) -> int:
    """How many samples the transcript of the run in `place` has so far, wherever it lies."""
    scripts = [*place.glob(".bundle.wall-*/out/bundle.incomplete/*.jsonl"), *place.glob("bundle.incomplete/*.jsonl")]
    with contextlib.suppress(OSError):
        return max((path.read_bytes().count(SAMPLE_LINE) for path in scripts), default=0)
    return 0


def killed_after(samples: int, start: Callable[[], object], place: Path) -> None:
    """SIGKILL for a controller of this host, a process of its own, when the run in `place` has so many samples."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            start()
        os._exit(0)
    while written(place) < samples:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "expected it to be killed before it ends"
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_run_that_was_killed_is_gone_on_with(
    runtime: Runtime, files: Path, tmp_path: Path, behind: Callable[..., run.Outcome],
    execute: Callable[..., run.Outcome], lab: Lab,
) -> None:  # fmt: skip
    """First the controller on the host, then the container: the third attempt ends as one that nobody cut off."""
    long = files.with_name("long.yaml")
    long.write_text(files.read_text().replace("limit: 4", "limit: 30").replace("limit: 3", "limit: 20"))
    place, out, cut = tmp_path / "run", tmp_path / "run" / "bundle", tmp_path / "run" / "bundle.incomplete"
    place.mkdir()
    killed_after(8, lambda: behind(long, out, runtime=runtime), place)
    assert not cut.exists()
    # Not forgotten: the first that asks takes it out of the folder of the run that was killed.
    with pytest.raises(EnvironmentProblem, match=r"finished samples.*--resume"):
        behind(long, out, runtime=runtime)
    assert {path.name for path in cut.iterdir()} == {"transcript.jsonl", "resume.json"}
    assert not list(place.glob(".bundle.wall-*/out"))
    first = written(place)
    assert first >= 8

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "samples" and done >= first + 8:
            for pid in inside_processes(place):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(EnclaveFailure, match=r"behind the wall: .*ended"):
        with_progress(behind, progress)(long, out, runtime=runtime, resume=True)
    second = written(place)
    assert second >= first + 8
    # A sample that somebody changed in between is told inside.
    script = (cut / "transcript.jsonl").read_bytes()
    (cut / "transcript.jsonl").write_bytes(script.replace(b'"index":3,', b'"index":4,', 1))
    with pytest.raises(EnclaveFailure) as caught:
        behind(long, out, runtime=runtime, resume=True)
    assert caught.value.exit_code in (10, 30)
    (cut / "transcript.jsonl").write_bytes(script)
    # As they are, they are the first samples of a whole run.
    outcome = behind(long, out, runtime=runtime, resume=True)
    whole = execute(long, tmp_path / "whole")
    for name in SAME:
        assert (outcome.bundle / name).read_bytes() == (whole.bundle / name).read_bytes()
    assert not cut.exists()
    manifest = verify.verify(read_bundle(outcome.bundle), lab.trusted_root).manifest
    assert manifest.wall == "container"
    attempts = [each.attempt for each in manifest.resumed or ()]
    assert len(attempts) == 2
    assert sum(each.samples for each in manifest.resumed or ()) in (second, second - 1)  # written, and not marked yet


def test_samples_of_another_wall_are_refused(
    bubblewrap: Runtime, files: Path, tmp_path: Path, behind: Callable[..., run.Outcome],
    image: tuple[rootfs.Image, tuple[Mount, ...]],
) -> None:  # fmt: skip
    """A plan that differs in one variable is another wall: the mark does not vouch for it."""
    long = files.with_name("long.yaml")
    long.write_text(files.read_text().replace("limit: 4", "limit: 30").replace("limit: 3", "limit: 20"))
    killed_after(2, lambda: behind(long, tmp_path / "bundle", runtime=bubblewrap), tmp_path)
    with pytest.raises(EnvironmentProblem, match="finished samples"):
        behind(long, tmp_path / "bundle", runtime=bubblewrap)
    other = replace(image[0], environment=(*image[0].environment, "LC_TIME=C"))
    with pytest.raises(EnclaveFailure, match="resume/mark"):
        behind(long, tmp_path / "bundle", runtime=bubblewrap, image=other, resume=True)
    assert behind(long, tmp_path / "bundle", runtime=bubblewrap, resume=True).ended_by == "done"


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
