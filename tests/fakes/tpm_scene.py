"""Evidence of a synthetic TPM with all that a verifier brings along: good, until a test changes something."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import pytest

from attest.errors import Unsupported, VerificationError
from attest.tpm import (
    Activation,
    Endorsement,
    Endorsements,
    Evidence,
    Index,
    Signed,
    authenticate,
    challenge,
    claims,
    eventlog,
    layout,
)
from attest.tpm.layout import Hash
from tests.fakes import tpm as fake
from tests.fakes.tpm import MIDDLE, NOW, WRAPPING, Key

NONCE = bytes(range(32))
EK = Key(which="ek", scheme=None, attributes=WRAPPING, symmetric=fake.AES_CFB)
LOG = (
    fake.spec_id()
    + b"".join(
        fake.event(7, 0x80000001, fake.variable(name, data))
        for name, data in (("SecureBoot", b"\1"), ("PK", b""), ("KEK", b""))
    )
    + b"".join(fake.event(register, 4, bytes(4)) for register in range(8))
    + fake.event(9, 0xD, b"initrd", hashed=b"an initial file system")
)
PUBLIC = fake.nv_public()
BANKS: tuple[Hash, ...] = ("sha256", "sha384")
FILES = tuple(
    (hashlib.sha256(name.encode()).digest(), name) for name in ("boot_aggregate", "/usr/bin/python3", "/usr/lib/a b.so")
)


def template(digest: bytes, name: str) -> bytes:
    """Template data of an `ima-ng` entry."""
    parts = (b"sha256:\0" + digest, name.encode() + b"\0")
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def ima_list(files: tuple[tuple[bytes, str], ...] = FILES) -> bytes:
    """The kernel's list."""
    lines = [
        f"10 {hashlib.sha1(template(*file)).hexdigest()} ima-ng sha256:{file[0].hex()} {file[1]}\n" for file in files
    ]
    return "".join(lines).encode()


def ima_value(bank: Hash, files: tuple[tuple[bytes, str], ...] = FILES) -> bytes:
    """Register 10 after `files`."""
    value = bytes(layout.SIZES[bank])
    for file in files:
        value = hashlib.new(bank, value + hashlib.new(bank, template(*file)).digest()).digest()
    return value


def registers(log: bytes = LOG, banks: tuple[Hash, ...] = BANKS) -> dict[Hash, dict[int, bytes]]:
    """All registers after `log` and the list of files."""
    parsed = eventlog.parse(log)
    values: dict[Hash, dict[int, bytes]] = {}
    for bank in banks:
        replayed = eventlog.replay(parsed, bank)
        values[bank] = {n: replayed.get(n, eventlog.untouched(n, bank)) for n in range(24)}
        values[bank][10] = ima_value(bank)
    return values


def wire(values: Mapping[Hash, Mapping[int, bytes]]) -> dict[Hash, dict[str, str]]:
    """As in the evidence."""
    return {bank: {str(n): value.hex() for n, value in items.items()} for bank, items in values.items()}


@dataclass(frozen=True)
class Scene:
    """Evidence, and all that a verifier brings along."""

    evidence: Evidence
    endorsements: Endorsements
    activation: Activation | None
    nonce: bytes = NONCE
    now: datetime = NOW

    def check(self, **changes: object) -> object:
        """Authenticate; the claims."""
        arguments = {"nonce": self.nonce, "now": self.now, "activation": self.activation} | changes
        return claims(authenticate(self.evidence, self.endorsements, **arguments))  # type: ignore[arg-type]

    def with_(self, **fields: object) -> Scene:
        """With other fields of the evidence."""
        return replace(self, evidence=self.evidence.model_copy(update=fields))


def scene(key: Key | None = None, endorsement: Key = EK, **extensions: object) -> Scene:
    """Sound evidence of a chip."""
    key = key or Key()
    values = registers()
    certificate = MIDDLE.issue("ek", endorsement.private.public_key(), fake.ek_extensions(**extensions))  # type: ignore[arg-type]
    try:
        _, expected = challenge(layout.public_area(endorsement.public), layout.public_area(key.public), os.urandom)
        activation = Activation(expected, expected.secret)
    except (VerificationError, Unsupported):
        activation = None
    public = fake.nv_public()
    return Scene(
        Evidence(
            format="vitrine/tpm-evidence/v1",
            key=key.public,
            quotes=(fake.quote(key, values, NONCE),),
            registers=wire(values),
            event_log=LOG,
            ima_list=ima_list(),
            endorsement=Endorsement(key=endorsement.public, certificate=certificate),
            counter=Index(public=public, certified=certified(key, fake.nv_body(public, (41).to_bytes(8, "big")))),
        ),
        fake.endorsements(),
        activation,
    )


def certified(key: Key, body: bytes, nonce: bytes = NONCE, kind: int = 0x8014) -> Signed:
    """A certified index."""
    return key.sign(fake.attested(kind, body, nonce))


def refused(found: Scene, code: str, **changes: object) -> None:
    """The scene is refused with this code."""
    layer, name = code.split("/")
    with pytest.raises(VerificationError) as error:
        found.check(**changes)
    assert (error.value.layer, error.value.code) == (layer, name), error.value
