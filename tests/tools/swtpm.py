"""A software TPM that a test can start, reset and tell of a recorded boot: `swtpm`, a real TPM 2.0 in a process."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from appliance.enclave import tpm_device
from appliance.enclave.tpm_device import Tpm
from attest import tpm
from attest.errors import EnvironmentProblem
from attest.reference import ReferenceValues
from attest.tpm import eventlog

RECORDED = Path(__file__).resolve().parents[1] / "unit" / "recorded_boot"
EVENT_LOG = RECORDED / "event_log.bin"
"""The firmware's event log of a real boot (QEMU, OVMF, the measured virtual machine)."""


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
    # Paths of sockets are short; the folder of a test may not be.
    path = Path("/tmp") / f"vitrine-swtpm-{state.stat().st_ino:x}"
    path.unlink(missing_ok=True)
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"]
    process = subprocess.Popen([*command, "--server", f"type=unixio,path={path}"])
    try:
        with opened(path):
            pass  # it is there
        yield path
    finally:
        process.terminate()
        process.wait()
        path.unlink(missing_ok=True)


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
    for _ in range(500):
        try:
            device = tpm_device.open_socket(path)
        except EnvironmentProblem:
            time.sleep(0.01)
            continue
        with device:
            yield device
        return
    pytest.fail("swtpm did not start")
