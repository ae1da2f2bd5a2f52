"""A software TPM that a test can start, reset and tell of a recorded boot: `swtpm`, a real TPM 2.0 in a process."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.enclave import tpm_device
from appliance.enclave.tpm_device import Tpm
from attest import tpm
from attest.errors import EnvironmentProblem
from attest.reference import ReferenceValues
from attest.tpm import eventlog

RECORDED = Path(__file__).resolve().parents[1] / "unit" / "recorded_boot"
EVENT_LOG = RECORDED / "event_log.bin"
"""The firmware's event log of a real boot (QEMU, OVMF, the measured virtual machine)."""


TOOLS = ("swtpm", "swtpm_setup", "swtpm_localca")


def certified(folder: Path) -> Path:
    """Make a TPM's state in `folder`/state, whose endorsement keys a local authority certified (`folder`/ca)."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"no {', '.join(missing)}: apt install swtpm swtpm-tools")
    (folder / "state").mkdir(parents=True)
    (folder / "localca.conf").write_text(
        f"statedir = {folder}/ca\nsigningkey = {folder}/ca/key.pem\nissuercert = {folder}/ca/issuer.pem\n"
        f"certserial = {folder}/ca/serial\n"
    )
    (folder / "options").write_text("--platform-manufacturer Vitrine\n--platform-version 1\n--platform-model Test\n")
    (folder / "setup.conf").write_text(
        f"create_certs_tool = {shutil.which('swtpm_localca')}\ncreate_certs_tool_config = {folder}/localca.conf\n"
        f"create_certs_tool_options = {folder}/options\n"
    )
    subprocess.run(
        ["swtpm_setup", "--tpm2", "--tpmstate", folder / "state", "--createek", "--create-ek-cert", "--overwrite",
         "--config", folder / "setup.conf", "--pcr-banks", "sha1,sha256,sha384"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def endorsements(folder: Path) -> tpm.Endorsements:
    """The local authority of a TPM that was `certified` there, as one of programs."""
    return tpm.Endorsements(
        roots=(tpm.Root(_der(folder / "ca" / "swtpm-localca-rootca-cert.pem"), "software"),),
        intermediates=(_der(folder / "ca" / "issuer.pem"),),
    )


def _der(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


@contextlib.contextmanager
def started(state: Path) -> Iterator[Tpm]:
    """The TPM whose state lies in the folder `state`, as after power on."""
    with served(state) as path, opened(path) as device:
        yield device


@contextlib.contextmanager
def served(state: Path) -> Iterator[Path]:
    """The socket of the TPM whose state lies in the folder `state`, as after power on; one client at a time."""
    if shutil.which("swtpm") is None:
        pytest.skip("no swtpm: apt install swtpm")
    state.mkdir(exist_ok=True)
    path = socket_of(state)
    path.unlink(missing_ok=True)
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"]
    channels = ["--server", f"type=unixio,path={path}", "--ctrl", f"type=unixio,path={path}.ctrl"]
    process = subprocess.Popen([*command, *channels])
    try:
        with opened(path):
            pass  # it is there
        yield path
    finally:
        process.terminate()
        process.wait()
        for left in (path, path.with_name(f"{path.name}.ctrl")):
            left.unlink(missing_ok=True)


def socket_of(state: Path) -> Path:
    """Where the TPM of `state` is served. Paths of sockets are short; the folder of a test may not be."""
    return Path("/tmp") / f"vitrine-swtpm-{state.stat().st_ino:x}"


def measured_boot(device: Tpm) -> None:
    """Extend what firmware and kernel measured in the recorded boot."""
    for event in eventlog.parse(EVENT_LOG.read_bytes()).events:
        if event.kind != eventlog.NO_ACTION:
            device.extend(event.register, event.digests["sha256"])


def logged(evidence: tpm.Evidence, registers: Collection[int]) -> list[tuple[int, str]]:
    """What the log of real evidence names for some registers: register and digest, by register, in order."""
    assert evidence.event_log is not None
    events = [event for event in eventlog.parse(evidence.event_log).events if event.kind != eventlog.NO_ACTION]
    found = [(event.register, f"sha256:{event.digests['sha256'].hex()}") for event in events]
    return sorted((item for item in found if item[0] in registers), key=lambda item: item[0])


def predicted(values: ReferenceValues, registers: Collection[int]) -> list[tuple[int, str]]:
    """What reference values name for them."""
    found = [(event.register_, event.digest) for event in values.events if event.register_ in registers]
    return sorted(found, key=lambda item: item[0])


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Tpm]:
    """The TPM that is served at `path`, or soon will be."""
    with connected(path) as device:
        yield device


def connected(path: Path) -> Tpm:
    """A connection to it, once there is somebody to connect to."""
    for _ in range(500):
        try:
            return tpm_device.open_socket(path)
        except EnvironmentProblem:
            time.sleep(0.01)
    pytest.fail("swtpm did not start")
