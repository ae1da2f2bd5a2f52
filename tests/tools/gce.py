"""Reads the attestation of a Google cloud machine (the `Attestation` message of go-tpm-tools), as tests need it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from attest.tpm import Evidence, KeyCertificate, Signed

Fields = list[tuple[int, int | bytes]]


@dataclass(frozen=True)
class Attestation:
    """What the message holds."""

    key: bytes
    quotes: tuple[tuple[Signed, str, dict[int, bytes]], ...]
    event_log: bytes
    certificate: bytes

    def evidence(self, *banks: str) -> Evidence:
        """As evidence of these banks."""
        chosen = [item for item in self.quotes if item[1] in banks]
        return Evidence(
            format="vitrine/tpm-evidence/v1",
            key=self.key,
            quotes=tuple(signed for signed, _, _ in chosen),
            registers={bank: {str(n): value.hex() for n, value in values.items()} for _, bank, values in chosen},  # type: ignore[misc]
            event_log=self.event_log,
            key_certificate=KeyCertificate(certificate=self.certificate),
        )


def fields(data: bytes) -> Fields:
    """Number and value of each field of a protocol buffer."""
    found: Fields = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag >> 3, varint()))
        elif tag & 7 == 2:
            size = varint()
            found.append((tag >> 3, data[at : at + size]))
            at += size
        else:
            raise ValueError(f"wire type {tag & 7}")
    return found


def read(data: bytes) -> Attestation:
    """The attestation in `data`."""
    message = fields(data)
    quotes = [_quote(bytes(value)) for number, value in message if number == 2]
    of = {number: bytes(value) for number, value in message if number != 2}
    return Attestation(of[1], tuple(quotes), of[3], of[6])


def _quote(data: bytes) -> tuple[Signed, str, dict[int, bytes]]:
    of = {number: bytes(value) for number, value in fields(data)}
    values: dict[int, bytes] = {}
    bank = 0
    for number, value in fields(of[3]):
        if isinstance(value, int):
            bank = value
        elif number == 2:
            entry = dict(fields(value))
            values[int(entry.get(1, 0))] = bytes(entry[2])  # type: ignore[arg-type]
    return Signed(attested=of[1], signature=of[2]), {4: "sha1", 11: "sha256", 12: "sha384"}[bank], values


def keylime_values(data: bytes) -> dict[int, bytes]:
    """The values in the file that old `tpm2_quote` wrote beside a quote: C structures, of one bank, little endian."""
    bits = int.from_bytes(data[7:11], "little")
    registers = [register for register in range(24) if bits >> register & 1]
    lists = data[4 + 16 * 8 :]
    if struct.unpack_from("<II", lists) != (1, len(registers)):
        raise ValueError("expected one list of digests")
    starts = [8 + 66 * place for place in range(len(registers))]
    return {register: lists[at + 2 : at + 2 + 32] for register, at in zip(registers, starts, strict=True)}
