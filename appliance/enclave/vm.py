"""Boots the measured virtual machine under QEMU, with UEFI firmware and a software TPM, and takes its evidence.

A `VmPlan` says everything that is started; it prints, hashes and renders to the command line of QEMU. There is no
network card, no monitor, no display and no user configuration; every disk is read-only; the serial line only writes,
and only the kernel writes to it. KVM is used where it works, else the processor is emulated.

Nothing here is trusted by a verifier: a host that boots something else gets other registers quoted.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import structlog

from appliance.enclave.guest import CHANNEL_PORT, EVIDENCE_PORT
from appliance.enclave.leftovers import private_folder
from appliance.frames import ChannelError, Kind, Reader, pack, write_all
from appliance.image import measure, secure_boot, settings
from attest import canonical, tpm
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, VerificationError

TELLING = ("vitrine: ", "Kernel panic", "device-mapper: verity", "BUG: ")
"""What a line of the console has in it that says why a boot failed."""
LOG = structlog.get_logger()
QEMU = "qemu-system-x86_64"
SWTPM = "swtpm"
SWTPM_SETUP = "swtpm_setup"
TETHER = Path(__file__).with_name("tether.py")
FIRMWARE = (
    (Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")),
    (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
    (Path("/usr/share/edk2/x64/OVMF_CODE.4m.fd"), Path("/usr/share/edk2/x64/OVMF_VARS.4m.fd")),
)
"""Where distributions have the firmware and its empty settings; the smaller first, which starts sooner emulated."""
CHECKING_FIRMWARE = (
    (Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
    (Path("/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd"), Path("/usr/share/edk2/x64/OVMF_VARS.4m.fd")),
)
"""The same for firmware that can check signatures (Secure Boot)."""
CONSOLE_BYTES = 1 << 16
BOOT_TIMEOUT_S = 180.0
KVM_BOOT_TIMEOUT_S = 30.0
KVM_WORDS_TIMEOUT_S = 6.0
"""Until firmware that runs on the processor itself has written to the console; emulated, it takes about as long."""
END_TIMEOUT_S = 30.0
MEMORY_MIB = 1024
KVM_TIMEOUT_S = 5.0
QEMU_END_S = 1.0
WORDS_BYTES = 2000
WORK = "vitrine-machine-"
SHORT = Path("/tmp")  # noqa: S108 - the folder in it is private
"""Paths of sockets are short, so a machine's folder lies here whatever TMPDIR says."""
PAUSE_S = 0.005

Accelerator = Literal["kvm", "tcg"]


@dataclass(frozen=True)
class VmPlan:
    """What is started. Paths are those of the host."""

    boot_disk: str
    """The disk with the boot file."""
    root_disk: str
    """The verified root disk."""
    inputs_disk: str | None
    """The verified disk of what the run needs; None for a boot without a job."""
    firmware: str
    """The firmware's code."""
    settings: str
    """The firmware's settings, of which each machine gets a copy."""
    accelerator: Accelerator
    """What runs the processor: the host's own, or emulation."""
    memory_mib: int = MEMORY_MIB
    """Memory of the machine."""
    processors: int = 2
    """Processors of the machine."""
    channel: bool = False
    """Whether it gets the channel that a job is run over."""
    enrolled: str | None = None
    """The folder of the Secure Boot keys that the firmware has; None for firmware that checks no signature."""
    tpm_state: str | None = None
    """The folder of the TPM's memory, which stays, and is made where there is none; None for a new TPM each time."""

    def digest(self) -> str:
        """SHA-256 over the plan's canonical JSON."""
        return digest_of(canonical.dumps(asdict(self)))

    def arguments(self, work: Path) -> list[str]:
        """QEMU's arguments; sockets, console and the copy of the settings lie in the folder `work`."""
        cpu = "host" if self.accelerator == "kvm" else "max"
        smm = "on" if self.enrolled else "off"
        arguments = ["-machine", f"q35,smm={smm},hpet=off", "-accel", self.accelerator, "-cpu", cpu]
        if self.enrolled:  # settings that only the firmware's own mode of the processor can write
            arguments += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        arguments += ["-smp", str(self.processors), "-m", str(self.memory_mib)]
        arguments += ["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot"]
        arguments += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
        arguments += ["-chardev", f"file,id=console,path={_comma(work / 'console')}", "-serial", "chardev:console"]
        arguments += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_comma(self.firmware)}"]
        arguments += ["-drive", f"if=pflash,format=raw,unit=1,file={_comma(work / 'settings')}"]
        disks = [("boot", self.boot_disk), ("root", self.root_disk), ("inputs", self.inputs_disk)]
        for name, path in disks:
            if path is not None:
                arguments += ["-drive", f"if=none,id={name},format=raw,readonly=on,file={_comma(path)}"]
                first = ",bootindex=1" if name == "boot" else ""
                arguments += ["-device", f"virtio-blk-pci,drive={name},serial={name}{first}"]
        arguments += ["-chardev", f"socket,id=tpm,path={_comma(work / 'tpm')}"]
        arguments += ["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]
        arguments += ["-device", "virtio-serial-pci"]
        ports = [("evidence", EVIDENCE_PORT), *([("channel", CHANNEL_PORT)] if self.channel else [])]
        for name, port in ports:
            arguments += ["-chardev", f"socket,id={name},path={_comma(work / name)}"]
            arguments += ["-device", f"virtserialport,chardev={name},name={port}"]
        return arguments


def plan(
    image: Path,
    *,
    inputs: Path | None = None,
    channel: bool = False,
    kvm: bool | None = None,
    memory_mib: int = MEMORY_MIB,
    tpm_state: Path | None = None,
) -> VmPlan:
    """The plan for the image in the folder `image`. `kvm`: None takes it where it runs something.

    Raises `EnvironmentProblem` where the image or the firmware is missing.
    """
    files = [image / measure.BOOT_DISK, image / measure.ROOT, *([inputs] if inputs else [])]
    if missing := [str(path) for path in files if not path.is_file()]:
        expected = "build the image with `appliance image build --format uki`"
        raise EnvironmentProblem(f"the virtual machine needs {', '.join(missing)}, not there: {expected}")
    checking = secure_boot.present(image)
    found = [pair for pair in (CHECKING_FIRMWARE if checking else FIRMWARE) if all(path.is_file() for path in pair)]
    if not found:
        raise EnvironmentProblem("no UEFI firmware on this host: install OVMF (Debian: `apt install ovmf`)")
    if kvm is None:
        kvm = _kvm_works()
    return VmPlan(
        boot_disk=str(files[0].resolve()),
        root_disk=str(files[1].resolve()),
        inputs_disk=str(inputs.resolve()) if inputs else None,
        firmware=str(found[0][0]),
        settings=str(found[0][1]),
        accelerator="kvm" if kvm else "tcg",
        channel=channel,
        memory_mib=memory_mib,
        enrolled=str(image.resolve()) if checking else None,
        tpm_state=str(tpm_state.resolve()) if tpm_state else None,
    )


class Machine:
    """A running machine: `evidence` once with a nonce, then, where the plan has one, the channel's descriptor."""

    def __init__(self, qemu: Program, work: Path, sockets: dict[str, socket.socket]) -> None:
        self._qemu = qemu
        self._work = work
        self._sockets = sockets
        self._reader = Reader(sockets["evidence"].fileno())

    @property
    def channel(self) -> int:
        """The descriptor of the channel, to read from and to write to."""
        return self._sockets["channel"].fileno()

    def evidence(self, nonce: bytes, timeout_s: float = BOOT_TIMEOUT_S) -> tpm.Evidence:
        """What the guest says of its boot. Raises `EnvironmentProblem` with the end of the console where it does not.

        The evidence is parsed, and not verified: `attest.machine.verify` does that.
        """
        try:
            write_all(self._reader.fd, pack(Kind.CONFIG, nonce), timeout_s)
        except (ChannelError, OSError) as error:
            raise EnvironmentProblem(self.why(str(error))) from None
        return self._receive(timeout_s)

    def await_words(self, timeout_s: float) -> None:
        """Wait until something is on the console. Raises `EnvironmentProblem` where nothing comes."""
        end = time.monotonic() + timeout_s
        while not (self._work / "console").stat().st_size:
            if self._qemu.process.poll() is not None or time.monotonic() > end:
                raise EnvironmentProblem(self.why(f"its firmware has not said a word within {timeout_s:g} s"))
            time.sleep(PAUSE_S)

    def wait(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """Wait until the machine is off; QEMU's exit status. Raises `EnvironmentProblem` when it stays on."""
        try:
            return self._qemu.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise EnvironmentProblem(self.why(f"expected it off within {timeout_s:g} s, it is on")) from None

    def console(self) -> str:
        """The end of what the kernel wrote, printable."""
        with contextlib.suppress(OSError):
            text = (self._work / "console").read_bytes()[-CONSOLE_BYTES:].decode("ascii", "replace")
            return "\n".join("".join(c for c in line if c.isprintable()) for line in text.splitlines())
        return ""

    def why(self, problem: str) -> str:
        """`problem`, with QEMU's last words where it has ended, and the kernel's."""
        lines = [line for line in self.console().splitlines() if line.strip()]
        telling = [line for line in lines if any(word in line for word in TELLING)]
        said = (telling or lines)[-8:]
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._qemu.process.wait(QEMU_END_S)
            said.append(self._qemu.last_words() or f"QEMU ended with {status}")
        return f"the virtual machine: {problem}; its console says:\n" + "\n".join(said)

    def _receive(self, timeout_s: float) -> tpm.Evidence:
        try:
            frame = self._reader.receive(timeout_s)
        except (ChannelError, OSError) as error:
            raise EnvironmentProblem(self.why(str(error))) from None
        if frame.kind == Kind.FAILURE:
            said = frame.payload[:500].decode("utf-8", "replace")
            raise EnvironmentProblem(self.why("".join(c if c.isprintable() else "?" for c in said)))
        if frame.kind != Kind.HELLO:
            raise VerificationError("machine", "frame", expected=Kind.HELLO.name, found=frame.kind.name)
        return canonical.parse(tpm.Evidence, frame.payload, "machine evidence")


class Program:
    """A program that was started, and the end of what it wrote to standard error, which is read as it comes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._words = b""
        self._thread = threading.Thread(target=self._read, name="last-words", daemon=True)
        self._thread.start()

    def last_words(self) -> str:
        """What it said last; for one that has ended."""
        self._thread.join(QEMU_END_S)
        return self._words.decode("utf-8", "replace").strip()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            while data := os.read(stream.fileno(), WORDS_BYTES):
                self._words = (self._words + data)[-WORDS_BYTES:]


@contextlib.contextmanager
def booted(vm: VmPlan) -> Iterator[Machine]:
    """Start the machine and its TPM; both are gone afterwards. Raises `EnvironmentProblem` where one cannot start."""
    qemu, swtpm = _program(QEMU, "qemu-system-x86"), _program(SWTPM, "swtpm")
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(private_folder(WORK, SHORT))
        empty = Path(vm.settings).read_bytes()
        keys = secure_boot.read(Path(vm.enrolled)) if vm.enrolled else None
        (work / "settings").write_bytes(settings.enrol(empty, keys) if keys else empty)
        state = Path(vm.tpm_state) if vm.tpm_state else work / "state"
        if not state.exists():
            _manufacture(state)
        listeners = {name: stack.enter_context(_listen(work / name)) for name in _sockets(vm)}
        tpm = [swtpm, "socket", "--tpm2", "--tpmstate", f"dir={state},mode=0600"]
        tpm += ["--ctrl", f"type=unixio,path={work / 'tpm'}", "--terminate"]
        stack.enter_context(_started(tpm))
        _wait_for(work / "tpm")
        process = stack.enter_context(_started([qemu, *vm.arguments(work)]))
        sockets = {name: stack.enter_context(_accept(listener, process)) for name, listener in listeners.items()}
        yield Machine(process, work, sockets)


def _kvm_works() -> bool:
    """Whether KVM runs a guest, tried in a process of its own: it may be there, and broken, and never return."""
    trial = [sys.executable, "-P", "-m", "appliance.enclave.kvm"]
    try:
        return subprocess.run(trial, capture_output=True, timeout=KVM_TIMEOUT_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@contextlib.contextmanager
def attested(vm: VmPlan, nonce: bytes) -> Iterator[tuple[Machine, tpm.Evidence]]:
    """Start the machine and take the evidence of its start, still unverified. Emulate it where KVM does not boot it.

    A nested KVM may run some instructions, and then neither boot a machine nor say why. Raises `EnvironmentProblem`.
    """
    if vm.accelerator == "kvm":
        with contextlib.ExitStack() as stack:
            try:
                machine = stack.enter_context(booted(vm))
                machine.await_words(KVM_WORDS_TIMEOUT_S)
                evidence = machine.evidence(nonce, KVM_BOOT_TIMEOUT_S)
            except EnvironmentProblem as problem:
                LOG.warning("KVM does not boot the machine, emulating it", reason=str(problem)[-500:])
            else:
                yield machine, evidence
                return
        vm = replace(vm, accelerator="tcg")
    with booted(vm) as machine:
        yield machine, machine.evidence(nonce)


def _sockets(vm: VmPlan) -> tuple[str, ...]:
    return ("evidence", "channel") if vm.channel else ("evidence",)


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[Program]:
    """A process in a session of its own, killed at the end, and by the kernel where this process ends before it."""
    tether = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid())]
    process = subprocess.Popen(
        [*tether, *command], env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield Program(process)
    finally:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _manufacture(state: Path) -> None:
    """The folder of a new TPM's state, with the bank of SHA-256 alone where there is a program to make it so.

    The firmware hashes all that it starts into every bank of a TPM. A new one has four, and one of them is quoted.
    """
    state.mkdir()
    if (program := shutil.which(SWTPM_SETUP)) is None:
        return
    command = [program, "--tpm2", "--tpm-state", f"dir://{state}", "--pcr-banks", "sha256"]
    try:
        subprocess.run(command, env=_environment(), capture_output=True, timeout=END_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        LOG.info("the TPM keeps all of its banks, so the boot takes longer", reason=str(error)[:300])
        shutil.rmtree(state)
        state.mkdir()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def _accept(listener: socket.socket, program: Program) -> socket.socket:
    """The connection that QEMU makes as it starts."""
    end = time.monotonic() + END_TIMEOUT_S
    while time.monotonic() < end and program.process.poll() is None:
        if select.select([listener], [], [], 0.1)[0]:
            return listener.accept()[0]
    said = program.last_words() if program.process.poll() is not None else ""
    raise EnvironmentProblem(f"QEMU did not start: {said or 'it did not connect'}")


def _wait_for(path: Path) -> None:
    end = time.monotonic() + END_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > end:
            raise EnvironmentProblem("the software TPM did not start: run `swtpm socket --tpm2` by hand to see why")
        time.sleep(PAUSE_S)


def _program(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise EnvironmentProblem(f"{name} is not on this host: install it (Debian: `apt install {package}`)")
    return path


def _comma(path: str | Path) -> str:
    """A path within an option of QEMU: a comma is written twice."""
    return str(path).replace(",", ",,")
