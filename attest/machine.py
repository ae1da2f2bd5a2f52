"""Evidence of a measured virtual machine: registers, the firmware's event log, and a quote of the TPM over them.

`verify` proves that the registers are what a TPM signed, with what it was to be bound to, and that the event log
explains them; `attest.reference.compare` then says whether they are those of a known image. Not proven: whose TPM it
is. The key is one that the TPM made; that it lies in genuine hardware takes a certificate of its endorsement key.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pydantic import Field

from attest import tcglog
from attest.canonical import Model
from attest.digest import Hex32, sha256
from attest.dsse import Base64
from attest.errors import MalformedInput, VerificationError
from attest.reference import Register

MAGIC = 0xFF544347
QUOTE = 0x8018
SHA256, ECDSA, ECC, P256, NULL = 0x000B, 0x0018, 0x0023, 0x0003, 0x0010
RESTRICTED_SIGNING = 0x00050072
"""Attributes of a key that signs only what the TPM itself says, and never left it."""
REPLAYED = range(8)
"""The registers that the firmware alone extends: the log has to explain them to the last bit."""
OUR_REGISTERS = (4, 9, 11)


class TpmEvidence(Model):
    """What a machine says of its TPM at one moment."""

    platform: Literal["tpm"] = "tpm"
    """Which platform the evidence is of."""
    registers: Annotated[dict[Register, Hex32], Field(min_length=24, max_length=24)]
    """The SHA-256 value of each register of the TPM."""
    before: Hex32
    """What the application register held when the program that runs jobs started; the run extends it from there."""
    event_log: Base64
    """The log of firmware and kernel, as the kernel hands it out."""
    key: Base64
    """The key that signed (TPMT_PUBLIC)."""
    attested: Base64
    """What it signed (TPMS_ATTEST)."""
    signature: Base64
    """Its signature (TPMT_SIGNATURE)."""

    def values(self) -> dict[int, bytes]:
        """The registers as bytes."""
        return {int(name): bytes.fromhex(value) for name, value in self.registers.items()}


@dataclass(frozen=True)
class Quote:
    """A TPMS_ATTEST that is a quote of SHA-256 registers (TPM 2.0 part 2, 10.12)."""

    extra: bytes
    """What the caller had signed with it: the nonce, or the binding."""
    registers: tuple[int, ...]
    """Which registers it is over, ascending."""
    digest: bytes
    """SHA-256 over their values, in this order."""
    clock_ms: int
    """Milliseconds that the TPM has been powered, over its life."""
    resets: int
    """How often the TPM was reset: it counts boots."""
    restarts: int
    """How often it was restarted or woken up since."""


def verify(evidence: TpmEvidence, extra: bytes) -> tuple[tcglog.Event, ...]:
    """Verify quote, registers and event log; the log's events. `extra` is what the quote has to bear.

    Raises `VerificationError` (layer `machine`), `MalformedInput` for bytes that are no quote, key or log.
    """
    values = evidence.values()
    # 1. The signature, by a key that signs nothing but what its TPM says.
    _check_signature(evidence)
    # 2. What was signed: this binding, and these registers.
    quote = parse_quote(evidence.attested)
    if quote.extra != extra:
        raise VerificationError(
            "machine", "binding", expected=extra.hex(), found=quote.extra.hex(),
            advice="the evidence is of another run, key, result or point of the run, or answers another nonce",
        )  # fmt: skip
    if not set(range(16)) <= set(quote.registers):
        raise VerificationError("machine", "selection", expected="registers 0 to 15", found=quote.registers)
    if sha256(*(values[register] for register in quote.registers)) != quote.digest:
        raise VerificationError("machine", "registers", expected="the registers that were signed", found="others")
    # 3. The log: it gives the firmware's registers, and those of the boot.
    events = tcglog.parse(evidence.event_log)
    replayed = tcglog.replay(events)
    for register in (*REPLAYED, *OUR_REGISTERS):
        if replayed.get(register, bytes(32)) != values[register]:
            raise VerificationError(
                "machine", "event-log", expected=f"register {register} {values[register].hex()}",
                found=replayed.get(register, bytes(32)).hex(), advice="the event log does not explain the register",
            )  # fmt: skip
    return events


def parse_quote(attested: bytes) -> Quote:
    """The quote in a TPMS_ATTEST. Raises `MalformedInput`."""
    reader = _Reader(attested, "TPM quote")
    if reader.numbers("IH") != (MAGIC, QUOTE):
        raise MalformedInput("TPM quote", "expected a statement of a TPM about its registers")
    reader.sized()
    extra = reader.sized()
    clock, resets, restarts, _safe = reader.numbers("QIIB")
    reader.take(8)  # the firmware's version
    if reader.numbers("IHB") != (1, SHA256, 3):
        raise MalformedInput("TPM quote", "expected one selection, of 24 registers of the SHA-256 bank")
    bits = int.from_bytes(reader.take(3), "little")
    digest = reader.sized()
    reader.end()
    registers = tuple(register for register in range(24) if bits >> register & 1)
    return Quote(extra, registers, digest, clock, resets, restarts)


def public_key(public: bytes) -> ec.EllipticCurvePublicKey:
    """The key in a TPMT_PUBLIC: ECDSA on P-256, restricted. Raises `MalformedInput`, `VerificationError`."""
    reader = _Reader(public, "TPM key")
    kind, name, attributes = reader.numbers("HHI")
    reader.sized()
    if (kind, name) != (ECC, SHA256) or reader.numbers("HHHHH") != (NULL, ECDSA, SHA256, P256, NULL):
        raise MalformedInput("TPM key", "expected an ECDSA key on P-256 with SHA-256")
    x, y = reader.sized(), reader.sized()
    reader.end()
    if attributes != RESTRICTED_SIGNING:
        raise VerificationError(
            "machine", "key", expected=f"attributes {RESTRICTED_SIGNING:#010x}", found=f"{attributes:#010x}",
            advice="a key that signs what others give it can sign a quote that no TPM made",
        )  # fmt: skip
    try:
        point = b"\x04" + x.rjust(32, b"\0") + y.rjust(32, b"\0")
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise MalformedInput("TPM key", "expected a point on P-256") from None


def _check_signature(evidence: TpmEvidence) -> None:
    reader = _Reader(evidence.signature, "TPM signature")
    if reader.numbers("HH") != (ECDSA, SHA256):
        raise MalformedInput("TPM signature", "expected ECDSA with SHA-256")
    r, s = (int.from_bytes(reader.sized(), "big") for _ in range(2))
    reader.end()
    try:
        public_key(evidence.key).verify(encode_dss_signature(r, s), evidence.attested, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise VerificationError(
            "machine", "signature", expected="a signature by the TPM's key", found="another", advice="do not trust it"
        ) from None


class _Reader:
    """Takes big-endian numbers and bytes from the front."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._at = data, what, 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise MalformedInput(self._what, f"expected {count} bytes at offset {self._at}, found the end")
        self._at += count
        return self._data[self._at - count : self._at]

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(f">{form}", self.take(struct.calcsize(f">{form}")))

    def sized(self) -> bytes:
        return self.take(*self.numbers("H"))

    def end(self) -> None:
        if self._at != len(self._data):
            raise MalformedInput(self._what, f"expected its end at offset {self._at}, found more")
