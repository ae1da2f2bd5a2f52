"""A software TPM that a test can start, reset and tell of a recorded boot: `swtpm`, a real TPM 2.0 in a process."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.enclave import tpm_device
from appliance.enclave.tpm_device import Tpm
from attest.errors import EnvironmentProblem
from attest.tpm import eventlog

RECORDED = Path(__file__).resolve().parents[1] / "unit" / "recorded_boot"
EVENT_LOG = RECORDED / "event_log.bin"
"""The firmware's event log of a real boot (QEMU, OVMF, the measured virtual machine)."""


@contextlib.contextmanager
def started(state: Path) -> Iterator[Tpm]:
    """The TPM whose state lies in the folder `state`, as after power on."""
    if shutil.which("swtpm") is None:
        pytest.skip("no swtpm: apt install swtpm")
    state.mkdir(exist_ok=True)
    # Paths of sockets are short; the folder of a test may not be.
    path = Path("/tmp") / f"vitrine-swtpm-{state.stat().st_ino:x}"
    path.unlink(missing_ok=True)
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"]
    process = subprocess.Popen([*command, "--server", f"type=unixio,path={path}"])
    try:
        yield from _opened(path)
    finally:
        process.terminate()
        process.wait()
        path.unlink(missing_ok=True)


def measured_boot(tpm: Tpm) -> None:
    """Extend what firmware and kernel measured in the recorded boot."""
    for event in eventlog.parse(EVENT_LOG.read_bytes()).events:
        if event.kind != eventlog.NO_ACTION:
            tpm.extend(event.register, event.digests["sha256"])


def _opened(path: Path) -> Iterator[Tpm]:
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
