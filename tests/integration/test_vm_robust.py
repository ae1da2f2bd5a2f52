"""A virtual machine that misbehaves, and a controller that is killed: bounded in time, told, and nothing stays.

The guests here never boot. Some tests run the real QEMU with empty disks, so that its firmware finds nothing to start;
the others put a program of a few lines in the place of QEMU, which speaks to the host as a hostile guest could.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.enclave import vm
from appliance.frames import HEADER, Kind, pack
from appliance.image import measure
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError

NONCE = bytes(range(32))
GONE_S = 20.0

HOSTILE = """#!{python} -I
import os, socket, sys, time
arguments = sys.argv[1:]
accelerator = arguments[arguments.index("-accel") + 1]
paths = dict(part.split("=", 1) for a in arguments if a.startswith("socket,id=evidence") for part in a.split(",")[1:])
open(next(a for a in arguments if a.startswith("file,id=console")).split("path=")[1], "w").close()
{before}
channel = socket.socket(socket.AF_UNIX)
channel.connect(paths["path"])
channel.recv(1000)
try:
    {say}
except OSError:
    pass
time.sleep(60)
"""


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """What a machine is started with."""
    for tool, name in ((vm.QEMU, "qemu-system-x86"), (vm.SWTPM, "swtpm")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt install {name}")
    if not any(code.is_file() for code, _ in vm.FIRMWARE):
        pytest.skip("no UEFI firmware: apt install ovmf")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with nothing on its disks."""
    folder = tmp_path / "image"
    folder.mkdir()
    for name in (measure.BOOT_DISK, measure.ROOT):
        (folder / name).write_bytes(bytes(1 << 20))
    return folder


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, say: str, before: str = "") -> None:
    """Put a program in the place of QEMU that says `say` over the port for evidence."""
    programs = folder / "programs"
    programs.mkdir()
    program = programs / vm.QEMU
    program.write_text(HOSTILE.format(python=sys.executable, say=say, before=before))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def runs(pid: int) -> bool:
    """Whether a process runs, and is not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_machine_ends_with_its_controller(end: signal.Signals, image: Path) -> None:
    script = (
        # A shell that starts tests in the background has SIGINT ignored, and a child inherits that.
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from appliance.enclave import vm\n"
        "with vm.booted(vm.plan(Path(sys.argv[1]), kvm=False)):\n"
        "    print('up', flush=True); time.sleep(300)\n"
    )
    controller = subprocess.Popen(
        [sys.executable, "-P", "-c", script, str(image)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert controller.stdout is not None
    try:
        assert controller.stdout.readline() == b"up\n"
        started = children(controller.pid)
        assert len(started) == 2  # QEMU and its TPM
        controller.send_signal(end)
        controller.wait(GONE_S)
        until = time.monotonic() + GONE_S
        while any(map(runs, started)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(runs, started))
    finally:
        controller.kill()
        controller.wait()
        controller.stdout.close()


def test_a_guest_that_hangs_meets_a_deadline(image: Path) -> None:
    began = time.monotonic()
    with vm.booted(vm.plan(image, kvm=False)) as machine:
        (qemu,) = [pid for pid in children(os.getpid()) if vm.QEMU in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(qemu, signal.SIGSTOP)
        with pytest.raises(EnvironmentProblem, match="expected a frame within 1 s, found none"):
            machine.evidence(NONCE, timeout_s=1)
    assert not runs(qemu)
    assert time.monotonic() - began < 60


def test_a_guest_without_its_tpm_is_no_evidence(image: Path) -> None:
    """The software TPM ends: QEMU goes on or ends, and nothing that could be taken for evidence comes."""
    with vm.booted(vm.plan(image, kvm=False)) as machine:
        (tpm,) = [pid for pid in children(os.getpid()) if b"swtpm" in Path(f"/proc/{pid}/cmdline").read_bytes()[:40]]
        os.kill(tpm, signal.SIGKILL)
        with pytest.raises(EnvironmentProblem, match="the virtual machine"):
            machine.evidence(NONCE, timeout_s=3)


@pytest.mark.parametrize(
    ("say", "error", "match"),
    [
        (f"channel.sendall({HEADER.pack((1 << 32) - 1, Kind.HELLO, 0, 0)!r})", EnvironmentProblem, "frames of at most"),
        ("[channel.sendall(bytes([255]) * 65536) for _ in range(99999)]", EnvironmentProblem, "expected"),
        (f"channel.sendall({pack(Kind.READY, b'')!r})", VerificationError, "machine/frame"),
        (f"channel.sendall({pack(Kind.HELLO, b'{}')!r})", MalformedInput, "machine evidence"),
        (f"channel.sendall({pack(Kind.HELLO, b'[' * 100000)!r})", MalformedInput, "machine evidence"),
        (f"channel.sendall({pack(Kind.FAILURE, bytes([27]) + b'[2Jno' * 400)!r})", EnvironmentProblem, r"\?\[2Jno"),
        ("sys.exit('the disk is full')", EnvironmentProblem, "the disk is full"),
    ],
)
def test_a_hostile_guest_ends_in_one_error(
    say: str, error: type[Exception], match: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, say)
    with vm.booted(vm.plan(image, kvm=False)) as machine, pytest.raises(error, match=match) as raised:
        machine.evidence(NONCE, timeout_s=20)
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 10_000


def test_qemu_that_does_not_start_says_why(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path, "pass", before="sys.exit('no such machine')")
    with pytest.raises(EnvironmentProblem, match="QEMU did not start: no such machine"), vm.booted(vm.plan(image)):
        pass


def test_a_missing_program_is_named(image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(EnvironmentProblem, match=r"qemu-system-x86_64 is not on this host.*apt install qemu-system-x86"),
        vm.booted(vm.plan(image, kvm=False)),
    ):
        pass


def test_a_kvm_that_boots_nothing_costs_seconds(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The processor runs, and its firmware never says a word: the machine is emulated, and the user is told."""
    say = f"channel.sendall({pack(Kind.FAILURE, b'emulated')!r}) if accelerator == 'tcg' else 0"
    pretend(monkeypatch, tmp_path, say)
    monkeypatch.setattr(vm, "KVM_WORDS_TIMEOUT_S", 1.0)
    began = time.monotonic()
    with (
        pytest.raises(EnvironmentProblem, match="emulated"),
        vm.attested(vm.plan(image, kvm=True), NONCE),
    ):
        pass
    assert time.monotonic() - began < vm.KVM_BOOT_TIMEOUT_S
    said = capsys.readouterr()
    assert "KVM does not boot the machine" in said.out + said.err
