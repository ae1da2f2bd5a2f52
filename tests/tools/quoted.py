"""A run that a TPM speaks for, in front of the wall, and what its evidence is checked with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.enclave.tpm_device import Tpm
from attest import canonical, eventlog, evidence, verify
from attest.cli import read_bundle
from attest.digest import sha256
from attest.evidence import Evidence
from attest.log import LogReceipt
from attest.reference import ReferenceValues
from tests.conftest import Made

INPUTS = sha256(b"the disk of inputs")


@dataclass(frozen=True)
class Quoted:
    """A bundle with evidence, another one of the same job and TPM, and the machine that made them."""

    made: Made
    other: Path
    tpm: Tpm
    state: Path
    values: ReferenceValues

    def files(self, **changes: bytes) -> dict[str, bytes]:
        """The bundle's files; `end` and `start` may be given."""
        names = {"end": verify.END, "start": verify.START}
        return read_bundle(self.made.bundle) | {names[name]: data for name, data in changes.items()}

    def verify(self, files: dict[str, bytes], **fields: Any) -> verify.Verified:
        """Verify the files."""
        return verify.verify(files, self.made.trusted_root, **fields)


def parts(quoted: Quoted) -> tuple[Evidence, Evidence, eventlog.EventLog, dict[str, Any]]:
    """Start, end, boot log, and what the start is checked with."""
    files, manifest = quoted.files(), quoted.verify(quoted.files()).manifest
    key = canonical.parse(LogReceipt, files[verify.INTENT], "receipt").intent.key_digest
    given = {"nonce": manifest.job.nonce, "key": key, "job": manifest.job.digest, "lock": manifest.lock.digest}
    start, end = evidence.read(files[verify.START], "start"), evidence.read(files[verify.END], "end")
    return start, end, eventlog.parse(files[verify.BOOT]), given
