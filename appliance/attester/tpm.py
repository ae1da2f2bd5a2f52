"""Gets evidence from a TPM: an attestation key, the endorsement key and its certificate, quotes, logs, a counter.

Works over `/dev/tpmrm0` and over the socket of a software TPM (`appliance.enclave.tpm_device` opens them). Keys live in
the TPM until `close`. A machine whose TPM holds no endorsement certificate gives evidence without one, and a verifier
says of it that nobody vouches for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from appliance.attester import tpm_commands as commands
from appliance.attester.tpm_commands import Object, Template
from appliance.enclave.tpm_device import Tpm
from attest.errors import EnvironmentProblem
from attest.tpm import layout
from attest.tpm.credential import Challenge
from attest.tpm.evidence import Endorsement, Evidence, Index, Signed
from attest.tpm.layout import Hash

EVENT_LOG: Final = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
IMA_LIST: Final = Path("/sys/kernel/security/ima/ascii_runtime_measurements")
ATTEMPTS: Final = 10
"""How often values are read again because a register was extended between reading and quoting."""
MAX_LOG_BYTES: Final = 16 << 20

KeyKind = Literal["p256", "p384", "rsassa", "rsapss"]


class Attester:
    """An attestation key in a TPM, and the endorsement key beside it. Use it in a `with` statement."""

    def __init__(self, tpm: Tpm, kind: KeyKind = "p256") -> None:
        self._tpm = tpm
        self.key: Object = commands.create_primary(tpm, commands.SIGNERS[kind])
        """The attestation key."""
        self._endorsement: tuple[Object, Template, bytes] | None = None

    def endorse(self, chain: Sequence[bytes] = ()) -> Endorsement:
        """The endorsement key with its certificate, and the certificates `chain` (DER) above it.

        Raises `EnvironmentProblem` for a TPM that holds no certificate of a key it can make.
        """
        key, _, certificate = self._find_endorsement()
        return Endorsement(key=key.public, certificate=certificate, chain=tuple(chain))

    def answer(self, challenge: Challenge) -> bytes:
        """The secret of a verifier's `challenge`: shows that both keys lie in this TPM."""
        key, template, _ = self._find_endorsement()
        return commands.activate(self._tpm, self.key, key, template, challenge.credential, challenge.secret)

    def evidence(
        self,
        nonce: bytes,
        registers: Mapping[Hash, Sequence[int]],
        *,
        endorsement: Endorsement | None = None,
        event_log: Path | None = EVENT_LOG,
        ima_list: Path | None = None,
        counter: int | None = None,
    ) -> Evidence:
        """Evidence that bears the `nonce` (at most 64 bytes), of `registers` by bank.

        `event_log` and `ima_list` are files of the kernel, None to leave them out; `counter` is an index.
        """
        values, signed = quote(self._tpm, self.key, nonce, registers)
        return Evidence(
            format="vitrine/tpm-evidence/v1",
            key=self.key.public,
            quotes=(signed,),
            registers={
                bank: {str(register): value.hex() for register, value in items.items()}
                for bank, items in values.items()
            },
            event_log=None if event_log is None else _read(event_log),
            ima_list=None if ima_list is None else _read(ima_list),
            endorsement=endorsement,
            counter=None if counter is None else self._counter(counter, nonce),
        )

    def close(self) -> None:
        """Remove the keys from the TPM; it stays open."""
        commands.flush(self._tpm, self.key.handle)
        if self._endorsement is not None:
            commands.flush(self._tpm, self._endorsement[0].handle)
            self._endorsement = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _counter(self, index: int, nonce: bytes) -> Index:
        certified = commands.certify(self._tpm, self.key, index, commands.COUNTER_BYTES, nonce)
        return Index(public=commands.nv_public(self._tpm, index), certified=certified)

    def _find_endorsement(self) -> tuple[Object, Template, bytes]:
        """The first endorsement key that the TPM has a certificate for, by the profile's templates."""
        if self._endorsement is not None:
            return self._endorsement
        for template in commands.TEMPLATES:
            try:
                stored = commands.nv_read(self._tpm, template.certificate)
            except EnvironmentProblem:
                continue  # no certificate at this index
            certificate = _certificate(stored)
            key = commands.create_primary(self._tpm, template.public)
            if certificate is not None and _is_of(certificate, key):
                self._endorsement = key, template, certificate
                return self._endorsement
            commands.flush(self._tpm, key.handle)
        raise EnvironmentProblem("the TPM holds no certificate of its endorsement key: use a key certificate instead")


def quote(
    tpm: Tpm, key: Object, nonce: bytes, registers: Mapping[Hash, Sequence[int]]
) -> tuple[dict[Hash, dict[int, bytes]], Signed]:
    """Values, and a quote of exactly these by `key`: read again while other programs extend registers."""
    hash_ = layout.public_area(key.public).scheme_hash or "sha256"
    for _ in range(ATTEMPTS):
        values = {bank: commands.registers(tpm, bank, sorted(set(items))) for bank, items in registers.items()}
        signed = commands.quote(tpm, key, nonce, registers)
        statement = layout.attested(signed.attested).statement
        digest = hashlib.new(hash_, b"".join(value for items in values.values() for value in items.values()))
        if isinstance(statement, layout.Quote) and statement.digest == digest.digest():
            return values, signed
    raise EnvironmentProblem(f"the TPM's registers changed {ATTEMPTS} times while they were quoted: try again")


def _certificate(stored: bytes) -> bytes | None:
    """The certificate at the front of an index, which may be longer; None for what is none."""
    if len(stored) < 4 or stored[:2] != b"\x30\x82":
        return None
    return stored[: 4 + int.from_bytes(stored[2:4], "big")]


def _is_of(certificate: bytes, key: Object) -> bool:
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        certified = x509.load_der_x509_certificate(certificate).public_key().public_bytes(*form)
    except ValueError:
        return False
    return certified == layout.public_area(key.public).key.public_bytes(*form)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LOG_BYTES + 1)
    except OSError as error:
        raise EnvironmentProblem(f"{path}: {error.strerror}; mount securityfs, and be root") from None
    if not 0 < len(data) <= MAX_LOG_BYTES:
        raise EnvironmentProblem(f"{path}: expected a log of at most {MAX_LOG_BYTES} bytes, found {len(data)}")
    return data
