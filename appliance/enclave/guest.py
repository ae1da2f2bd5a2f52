"""The program that the measured virtual machine runs: it tells the host what was measured, then runs the one job.

There is a port for evidence and, where a job is to be run, one for the channel (`appliance.enclave.channel`). Over the
evidence port, in frames:

    host -> guest   CONFIG    a nonce, 16 to 64 bytes
    guest -> host   HELLO     `attest.tpm.Evidence` of the boot: registers, the firmware's event log, a quote
    guest -> host   FAILURE   in its place: the class of an error, and its message where it is one of ours

That is how a host sees early that the machine is the one that it wanted to boot. The evidence of the run itself is part
of the bundle (`appliance.attester`). The standard library is all that is imported before the first quote.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from appliance.attester.machine import MachineAttester
from appliance.enclave import tpm_device
from appliance.frames import ChannelError, Kind, Reader, pack, write_all
from attest import rollback
from attest.errors import EnvironmentProblem, MalformedInput, VitrineError

COMMAND_LINE = Path("/proc/cmdline")
PORTS = Path("/sys/class/virtio-ports")
EVIDENCE_PORT = "vitrine.evidence"
CHANNEL_PORT = "vitrine.channel"
NONCE_BYTES = range(16, 65)
NONCE_TIMEOUT_S = 60.0


def main() -> int:
    """Answer the host's nonce with evidence, and run the job if there is a channel; the exit status."""
    evidence = _port(EVIDENCE_PORT)
    if evidence is None:
        raise EnvironmentProblem(f"expected a port {EVIDENCE_PORT}, found none: start the machine with `appliance run`")
    fd = os.open(evidence, os.O_RDWR | os.O_CLOEXEC)
    try:
        return _serve(fd)
    except BaseException as error:  # whatever it is, the host is told its class; only our messages quote nothing
        message = f": {error}" if isinstance(error, (VitrineError, ChannelError)) else ""
        write_all(fd, pack(Kind.FAILURE, f"{type(error).__name__}{message}".encode()))
        return 1


def _serve(fd: int) -> int:
    frame = Reader(fd).receive(NONCE_TIMEOUT_S)
    if frame.kind != Kind.CONFIG or len(frame.payload) not in NONCE_BYTES:
        raise MalformedInput("evidence port", f"expected a nonce, found {frame.kind.name}")
    with tpm_device.open_device() as tpm:
        attester = MachineAttester(tpm, image=rollback.image(COMMAND_LINE.read_text()))
        write_all(fd, pack(Kind.HELLO, attester.report(frame.payload)))
        channel = _port(CHANNEL_PORT)
        if channel is None:
            return 0
        from appliance.attester import guest
        from appliance.enclave import inside

        return inside.main([str(channel)], guest.beside(attester))


def _port(name: str) -> Path | None:
    """The device of the port that the host calls `name`."""
    for folder in sorted(PORTS.glob("*")):
        if (folder / "name").read_text().strip() == name:
            return Path("/dev") / folder.name
    return None


if __name__ == "__main__":
    sys.exit(main())
