"""What an attester with a TPM sends: `vitrine/tpm-evidence/v1`, JSON. Nothing in it is trusted before it is checked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from attest.canonical import Model
from attest.dsse import Base64
from attest.tpm.layout import Hash

Register = Annotated[str, StringConstraints(pattern=r"^(0|[1-9]|1[0-9]|2[0-3])$")]
"""The number of a register, as text: a key of JSON."""
Value = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$")]
"""The value of a register, or another digest: hexadecimal digits."""
Chain = Annotated[tuple[Base64, ...], Field(max_length=8)]
"""Certificates between one and its root, DER; in any order."""


class Signed(Model):
    """A statement of the TPM, signed by the attestation key."""

    attested: Base64
    """TPMS_ATTEST."""
    signature: Base64
    """TPMT_SIGNATURE over it."""


class Endorsement(Model):
    """The endorsement key: made with the TPM, and certified by who made it."""

    key: Base64
    """TPMT_PUBLIC."""
    certificate: Base64
    """Its certificate, DER."""
    chain: Chain = ()
    """Certificates above it."""


class KeyCertificate(Model):
    """A certificate of the attestation key itself, by somebody who knows where the key lies."""

    certificate: Base64
    """The certificate, DER."""
    chain: Chain = ()
    """Certificates above it."""


class Index(Model):
    """An index of the TPM's memory, and what it holds."""

    public: Base64
    """TPMS_NV_PUBLIC: which index it is, and of what kind."""
    certified: Signed
    """What it holds (TPM2_NV_Certify)."""


class Evidence(Model):
    """Quotes, the values that were quoted, the logs that explain them, and who vouches for the key."""

    format: Literal["vitrine/tpm-evidence/v1"]
    """Format and version."""
    key: Base64
    """The attestation key (TPMT_PUBLIC)."""
    quotes: Annotated[tuple[Signed, ...], Field(min_length=1, max_length=8)]
    """One quote over several banks, or several."""
    registers: Annotated[dict[Hash, dict[Register, Value]], Field(min_length=1)]
    """The values that were quoted, by bank and register: these and no others."""
    event_log: Base64 | None = None
    """The firmware's log, as the kernel hands it out (`binary_bios_measurements`)."""
    ima_list: Base64 | None = None
    """The kernel's list of measured files (`ascii_runtime_measurements`)."""
    endorsement: Endorsement | None = None
    """The endorsement key."""
    key_certificate: KeyCertificate | None = None
    """A certificate of the attestation key."""
    counter: Index | None = None
    """A counter, which only ever goes up."""
    versions: Annotated[tuple[Index, ...], Field(max_length=8)] | None = None
    """What the TPM keeps of versions (`attest.rollback`)."""

    def values(self) -> dict[Hash, dict[int, bytes]]:
        """The registers as numbers and bytes."""
        return {
            bank: {int(register): bytes.fromhex(value) for register, value in values.items()}
            for bank, values in self.registers.items()
        }
