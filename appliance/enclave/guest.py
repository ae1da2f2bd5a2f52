"""The program that the measured virtual machine runs: it tells the host what was measured, then runs the one job.

There is a port for evidence and, where a job is to be run, one for the channel (`appliance.enclave.channel`). Over the
evidence port, in frames:

    host -> guest   CONFIG    a nonce, 16 to 64 bytes
    guest -> host   HELLO     `Evidence` of the start: registers, the firmware's event log, a quote that bears the nonce
    guest -> host   RESULTS   `Evidence` of the end, after the result was extended into register 15
    guest -> host   FAILURE   in place of either: the class of an error, and its message where it is one of ours

The standard library is all that is imported before the first quote: with a job or without, it is there early. The JSON
is written by hand, sorted and without spaces, as the canonical form is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from pathlib import Path

from appliance.enclave import tpm_device
from appliance.enclave.tpm_device import Tpm
from appliance.frames import ChannelError, Kind, Reader, pack, write_all
from attest.errors import EnvironmentProblem, MalformedInput, VitrineError

PORTS = Path("/sys/class/virtio-ports")
EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
EVIDENCE_PORT = "vitrine.evidence"
CHANNEL_PORT = "vitrine.channel"
FORMAT = "vitrine/machine-evidence/v1"
APPLICATION = 15
"""The register of what is run; `init` has extended it by the descriptor of the inputs."""
REGISTERS = tuple(range(24))
QUOTED = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
"""What a quote is over: the registers that nobody can reset while the machine runs."""
NONCE_BYTES = range(16, 65)
NONCE_TIMEOUT_S = 60.0
OUT = Path("/out")


def main() -> int:
    """Answer the host's nonce with evidence, run the job if there is a channel, and say how it ended."""
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
        write_all(fd, pack(Kind.HELLO, report(tpm, frame.payload, "start")))
        channel = _port(CHANNEL_PORT)
        if channel is None:
            return 0
        from appliance.enclave import inside

        status = inside.main([str(channel)])
        tpm.extend(APPLICATION, result_digest(OUT))
        write_all(fd, pack(Kind.RESULTS, report(tpm, frame.payload, "end")))
    return status


def report(tpm: Tpm, nonce: bytes, when: str) -> bytes:
    """`Evidence` as canonical JSON: what the TPM holds now, and its signature."""
    key = tpm.create_key()
    try:
        quote = tpm.quote(key, nonce, QUOTED)
        value = {
            "format": FORMAT,
            "when": when,
            "registers": tpm_device.wire(tpm.read(REGISTERS)),
            "event_log": _text(EVENT_LOG.read_bytes()),
            "key": _text(key.public),
            "attested": _text(quote.attested),
            "signature": _text(quote.signature),
        }
    finally:
        tpm.flush(key)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def result_digest(out: Path) -> bytes:
    """What the application register is extended by at the end: SHA-256 over the results that the run left, or none."""
    found = sorted(out.glob("*/results.json"))
    return hashlib.sha256(found[0].read_bytes() if len(found) == 1 else b"").digest()


def _port(name: str) -> Path | None:
    """The device of the port that the host calls `name`."""
    for folder in sorted(PORTS.glob("*")):
        if (folder / "name").read_text().strip() == name:
            return Path("/dev") / folder.name
    return None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


if __name__ == "__main__":
    sys.exit(main())
