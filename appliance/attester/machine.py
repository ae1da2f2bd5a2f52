"""The TPM of the measured machine speaks for a run: the application register tells it, and is quoted.

The standard library is all that is imported before the first quote: it is there early, with a run or without. The JSON
is written by hand, sorted and without spaces, as the canonical form is.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.enclave import tpm_device
from appliance.enclave.tpm_device import Tpm
from attest.rollback import Kept, Thing

if TYPE_CHECKING:
    from attest.canonical import JSON
    from attest.eventlog import EventLog

EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
FORMAT = "vitrine/tpm-evidence/v1"
APPLICATION = 15
"""The register of what is run; `init` has extended it by the descriptor of the inputs."""
QUOTED = tuple(range(16))
"""What a quote is over: the registers that nobody can reset while the machine runs."""


class MachineAttester:
    """An `Attester` by the machine's TPM."""

    def __init__(
        self,
        tpm: Tpm,
        event_log: Path = EVENT_LOG,
        *,
        key_certificate: dict[str, JSON] | None = None,
        image: Kept | None = None,
    ) -> None:
        """`key_certificate`: who vouches for the attestation key (`attest.tpm.KeyCertificate`), where somebody does;
        `image`: the machine's image and its version, where it has one."""
        self._tpm = tpm
        self._event_log = event_log
        self._key_certificate = key_certificate
        self._image = image
        self._versions: dict[int, int] = {}
        self.before = tpm.read([APPLICATION])[APPLICATION].hex()
        """What the application register held before the run."""

    def admit(self, name: str, version: int) -> None:
        """Refuse an image, or a lock of the job `name`, that is older than the TPM keeps; have it keep the newer."""
        from appliance.attester import versions

        images = [self._image] if self._image else []
        self._versions = versions.admit(self._tpm, [*images, Kept(Thing("lock", name), version)])

    def start(self, log: EventLog, job: str, extra: bytes) -> tuple[dict[str, JSON], ...]:
        """Raise the counter of runs, extend the records of the boot and the job, then quote and certify."""
        from appliance.attester import tpm_commands
        from attest.counter import INDEX

        tpm_commands.raise_counter(self._tpm, INDEX)
        for digest in (*(record.digest for record in log.records), job):
            self._extend(digest)
        held: dict[str, JSON] = {"counter": self._certified(INDEX, tpm_commands.COUNTER_BYTES, extra)}
        if self._versions:
            held["versions"] = [self._certified(index, size, extra) for index, size in self._versions.items()]
        return (self._quoted(extra) | held,)

    def end(self, results: str, extra: bytes) -> tuple[dict[str, JSON], ...]:
        """Extend the results, then quote."""
        self._extend(results)
        return (self._quoted(extra),)

    def report(self, extra: bytes) -> bytes:
        """`attest.tpm.Evidence` as canonical JSON: what the TPM holds now, signed with `extra`."""
        key = self._tpm.create_key()
        try:
            quote = self._tpm.quote(key, extra, QUOTED)
            value = {
                "format": FORMAT,
                "registers": {"sha256": tpm_device.wire(self._tpm.read(QUOTED))},
                "event_log": _text(self._event_log.read_bytes()),
                "key": _text(key.public),
                "quotes": [{"attested": _text(quote.attested), "signature": _text(quote.signature)}],
            }
        finally:
            self._tpm.flush(key)
        if self._key_certificate is not None:
            value["key_certificate"] = self._key_certificate
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")

    def _quoted(self, extra: bytes) -> dict[str, JSON]:
        value: dict[str, JSON] = json.loads(self.report(extra))
        return value

    def _certified(self, index: int, size: int, extra: bytes) -> JSON:
        """What an index holds, signed with `extra` by the key of the quote, which the TPM makes again."""
        from appliance.attester import tpm_commands

        key = self._tpm.create_key()
        try:
            signed = tpm_commands.certify(self._tpm, tpm_commands.Object(key.handle, key.public), index, size, extra)
        finally:
            self._tpm.flush(key)
        public = tpm_commands.nv_public(self._tpm, index)
        return {"public": _text(public), "certified": signed.model_dump(mode="json")}

    def _extend(self, digest: str) -> None:
        self._tpm.extend(APPLICATION, bytes.fromhex(digest.removeprefix("sha256:")))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
