"""Commands of a TPM 2.0 that evidence needs beyond those of a measured boot: endorsement keys, credentials, counters;
and keys that sign for a lab.

Built on the client in `appliance.enclave.tpm_device`: the same devices, the same errors. Every hierarchy, key and index
is used with the empty password, as a machine without an owner has it; an endorsement key of the older templates is used
by its policy, which asks for the endorsement hierarchy's password.

Source: TCG TPM 2.0 Library, part 3 (commands); TCG EK Credential Profile for TPM 2.0, version 2.5, B.3 and B.4.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from appliance.enclave.tpm_device import ENDORSEMENT, PASSWORD, Answer, Tpm, sized
from attest.errors import EnvironmentProblem, MalformedInput
from attest.tpm import layout
from attest.tpm.evidence import Signed
from attest.tpm.layout import HASH_IDS, NULL, SIZES, Hash

OWNER, UNLOCKED, OWN_PASSWORD = 0x40000001, 0x40000007, 0x40000009
CREATE_PRIMARY, QUOTE, FLUSH, PCR_READ, GET_CAPABILITY = 0x131, 0x158, 0x165, 0x17E, 0x17A
READ_PUBLIC = 0x173
CREATE, LOAD, SIGN = 0x153, 0x157, 0x15D
START_SESSION, POLICY_SECRET, ACTIVATE_CREDENTIAL = 0x176, 0x151, 0x147
NV_DEFINE, NV_INCREMENT, NV_WRITE, NV_READ, NV_READ_PUBLIC, NV_CERTIFY = 0x12A, 0x134, 0x137, 0x14E, 0x169, 0x184
POLICY_SESSION, PCRS = 0x01, 0x05
BLOCK_BYTES: Final = 512
"""Read of an index at once: less than any TPM allows."""
SIGNING: Final = 0x00050072
"""Restricted, signs, made in this TPM and fixed to it, used with its password."""
FREE_SIGNING: Final = 0x00040472
"""Signs any digest, made in this TPM and fixed to it, used with its password, without lockout."""
HASHCHECK: Final = struct.pack(">HIH", 0x8024, UNLOCKED, 0)
"""The ticket of a digest that was made outside the TPM."""
ORDINARY: Final = 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18 | 1 << 25
"""An index that its owner and its password may write and read, without lockout (TPMA_NV)."""
COUNTER: Final = ORDINARY | 1 << 4
"""The same that can only be raised."""
COUNTER_BYTES: Final = 8


@dataclass(frozen=True)
class Object:
    """A key in the TPM."""

    handle: int
    """By what the TPM knows it."""
    public: bytes
    """TPMT_PUBLIC."""


@dataclass(frozen=True)
class Template:
    """An endorsement key as the profile prescribes it; its seed gives the same key each time."""

    certificate: int
    """The index that holds its certificate."""
    public: bytes
    """TPMT_PUBLIC, without the key."""
    by_policy: bool
    """Whether it is used by its policy instead of the empty password."""


def _rsa(scheme: bytes, bits: int) -> bytes:
    return scheme + struct.pack(">HI", bits, 0)


_AES_128, _AES_256 = struct.pack(">HHH", 0x0006, 128, 0x0043), struct.pack(">HHH", 0x0006, 256, 0x0043)
_NONE = struct.pack(">H", NULL)
_POLICY_A = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_POLICY_B_384 = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)
_LOW, _HIGH = 0x000300B2, 0x000300F2
TEMPLATES: Final = (
    Template(
        0x01C00002,  # L-1: RSA 2048
        struct.pack(">HHI", 0x0001, 0x000B, _LOW) + sized(_POLICY_A) + _rsa(_AES_128 + _NONE, 2048) + sized(bytes(256)),
        by_policy=True,
    ),
    Template(
        0x01C0000A,  # L-2: P-256
        struct.pack(">HHI", 0x0023, 0x000B, _LOW) + sized(_POLICY_A) + _AES_128 + struct.pack(">HHH", NULL, 3, NULL)
        + sized(bytes(32)) + sized(bytes(32)),
        by_policy=True,
    ),
    Template(
        0x01C00016,  # H-3: P-384
        struct.pack(">HHI", 0x0023, 0x000C, _HIGH) + sized(_POLICY_B_384) + _AES_256
        + struct.pack(">HHH", NULL, 4, NULL) + sized(b"") + sized(b""),
        by_policy=False,
    ),
)  # fmt: skip
"""Those that TPMs have certificates for."""

SIGNERS: Final = {
    "p256": struct.pack(">HHI", 0x0023, 0x000B, SIGNING) + sized(b"")
    + struct.pack(">HHHHH", NULL, 0x0018, 0x000B, 3, NULL) + sized(b"") + sized(b""),
    "p384": struct.pack(">HHI", 0x0023, 0x000C, SIGNING) + sized(b"")
    + struct.pack(">HHHHH", NULL, 0x0018, 0x000C, 4, NULL) + sized(b"") + sized(b""),
    "rsassa": struct.pack(">HHI", 0x0001, 0x000B, SIGNING) + sized(b"")
    + _rsa(struct.pack(">HHH", NULL, 0x0014, 0x000B), 2048) + sized(b""),
    "rsapss": struct.pack(">HHI", 0x0001, 0x000B, SIGNING) + sized(b"")
    + _rsa(struct.pack(">HHH", NULL, 0x0016, 0x000B), 2048) + sized(b""),
}  # fmt: skip
"""Attestation keys, by name: TPMT_PUBLIC without the key."""


STORAGE: Final = (
    struct.pack(">HHI", 0x0023, 0x000B, 0x00030472) + sized(b"") + _AES_128 + struct.pack(">HHH", NULL, 3, NULL)
    + sized(bytes(32)) + sized(bytes(32))
)  # fmt: skip
"""The storage key that TCG's guidance prescribes: P-256, AES-128 CFB."""
SIGNER: Final = (
    struct.pack(">HHI", 0x0023, 0x000B, FREE_SIGNING) + sized(b"")
    + struct.pack(">HHHHH", NULL, 0x0018, 0x000B, 3, NULL) + sized(b"") + sized(b"")
)  # fmt: skip
"""A key that signs: P-256, ECDSA with SHA-256."""


def create_primary(tpm: Tpm, template: bytes, hierarchy: int = ENDORSEMENT) -> Object:
    """The primary key of a hierarchy that `template` (TPMT_PUBLIC) describes."""
    parameters = sized(sized(b"") + sized(b"")) + sized(template) + sized(b"") + struct.pack(">I", 0)
    answer = Answer(tpm.command(CREATE_PRIMARY, struct.pack(">I", hierarchy), PASSWORD, parameters))
    (handle,) = answer.numbers("I")
    answer.take(4)
    return Object(handle, answer.sized())


def create_signer(tpm: Tpm, parent: Object, secret: bytes) -> tuple[bytes, bytes]:
    """A new `SIGNER` under the storage key `parent`, used with `secret`: TPMT_PUBLIC, contents of TPM2B_PRIVATE."""
    sensitive = sized(sized(secret) + sized(b""))
    parameters = sensitive + sized(SIGNER) + sized(b"") + struct.pack(">I", 0)
    answer = Answer(tpm.command(CREATE, struct.pack(">I", parent.handle), PASSWORD, parameters))
    answer.take(4)
    private = answer.sized()
    return answer.sized(), private


def load(tpm: Tpm, parent: Object, public: bytes, private: bytes) -> int:
    """The handle of a key that `create_signer` made in this TPM."""
    parameters = sized(private) + sized(public)
    (handle,) = Answer(tpm.command(LOAD, struct.pack(">I", parent.handle), PASSWORD, parameters)).numbers("I")
    return handle


def sign(tpm: Tpm, handle: int, secret: bytes, digest: bytes) -> tuple[int, int]:
    """r and s of the signature over 32 bytes by a key that `secret` is needed for."""
    session = struct.pack(">IHBH", OWN_PASSWORD, 0, 0, len(secret)) + secret
    parameters = sized(digest) + _NONE + HASHCHECK
    area = struct.pack(">I", len(session)) + session
    answer = Answer(tpm.command(SIGN, struct.pack(">I", handle), area, parameters))
    body = Answer(answer.take(*answer.numbers("I")))
    if body.numbers("HH") != (0x0018, HASH_IDS["sha256"]):
        raise MalformedInput("TPM signature", "expected ECDSA with SHA-256, found another algorithm")
    r, s = body.sized(), body.sized()
    body.end()
    return int.from_bytes(r, "big"), int.from_bytes(s, "big")


def flush(tpm: Tpm, handle: int) -> None:
    """Remove a key or a session from the TPM."""
    tpm.command(FLUSH, b"", b"", struct.pack(">I", handle))


def banks(tpm: Tpm) -> tuple[Hash, ...]:
    """The banks whose registers the TPM has, of those known here."""
    answer = Answer(tpm.command(GET_CAPABILITY, b"", b"", struct.pack(">III", PCRS, 0, 1)))
    answer.take(1 + 4)  # whether there is more, and which capability
    found = []
    for _ in range(*answer.numbers("I")):
        number, size = answer.numbers("HB")
        if any(answer.take(size)) and number in layout.HASHES:
            found.append(layout.HASHES[number])
    return tuple(found)


def registers(tpm: Tpm, bank: Hash, wanted: Sequence[int]) -> dict[int, bytes]:
    """The values of the `wanted` registers of `bank`."""
    values = {}
    for register in wanted:
        answer = Answer(tpm.command(PCR_READ, b"", b"", selection({bank: [register]})))
        answer.take(4)  # how often any register was extended
        (selections,) = answer.numbers("I")
        for _ in range(selections):
            answer.take(2)
            answer.take(*answer.numbers("B"))
        if answer.numbers("I") != (1,):
            raise EnvironmentProblem(f"the TPM has no register {register} in its {bank} bank: switch the bank on")
        values[register] = answer.sized()
    return values


def quote(tpm: Tpm, key: Object, nonce: bytes, wanted: Mapping[Hash, Sequence[int]]) -> Signed:
    """A quote of the `wanted` registers by `key`."""
    parameters = sized(nonce) + _NONE + selection(wanted)
    return _signed(Answer(tpm.command(QUOTE, struct.pack(">I", key.handle), PASSWORD, parameters)))


def activate(tpm: Tpm, key: Object, endorsement: Object, template: Template, credential: bytes, secret: bytes) -> bytes:
    """The secret of a challenge, which only a TPM with both keys can read (TPM2_ActivateCredential).

    `credential` is a TPM2B_ID_OBJECT, `secret` a TPM2B_ENCRYPTED_SECRET.
    """
    session = _endorsement_session(tpm) if template.by_policy else None
    area = _password() + (_password() if session is None else struct.pack(">IHBH", session, 0, 1, 0))
    handles = struct.pack(">II", key.handle, endorsement.handle)
    try:
        answer = tpm.command(ACTIVATE_CREDENTIAL, handles, struct.pack(">I", len(area)) + area, credential + secret)
    finally:
        if session is not None:
            flush(tpm, session)
    body = Answer(answer)
    body.take(4)
    return body.sized()


def read_public(tpm: Tpm, handle: int) -> Object:
    """The key that lies in the TPM at `handle`. An `EnvironmentProblem` where there is none."""
    return Object(handle, Answer(tpm.command(READ_PUBLIC, b"", b"", struct.pack(">I", handle))).sized())


def nv_public(tpm: Tpm, index: int) -> bytes:
    """What an index is (TPMS_NV_PUBLIC)."""
    return Answer(tpm.command(NV_READ_PUBLIC, b"", b"", struct.pack(">I", index))).sized()


def nv_read(tpm: Tpm, index: int, by: int | None = None) -> bytes:
    """The contents of an index, read with the empty password of the index itself, or of `by` (`OWNER`)."""
    size = layout.nv_public(nv_public(tpm, index)).size
    data = b""
    while len(data) < size:
        count = min(BLOCK_BYTES, size - len(data))
        parameters = struct.pack(">HH", count, len(data))
        answer = Answer(
            tpm.command(NV_READ, struct.pack(">II", index if by is None else by, index), PASSWORD, parameters)
        )
        answer.take(4)
        block = answer.sized()
        if len(block) != count:
            raise MalformedInput("TPM answer", f"expected {count} bytes of index {index:#x}, found {len(block)}")
        data += block
    return data


def define(tpm: Tpm, index: int, attributes: int, size: int) -> None:
    """Make an index of `size` bytes. A counter begins above the highest that any counter of this TPM ever stood at."""
    public = struct.pack(">IHI", index, HASH_IDS["sha256"], attributes) + sized(b"") + struct.pack(">H", size)
    tpm.command(NV_DEFINE, struct.pack(">I", OWNER), PASSWORD, sized(b"") + sized(public))


def nv_write(tpm: Tpm, index: int, data: bytes) -> None:
    """Write the whole of an index, of at most `BLOCK_BYTES`."""
    tpm.command(NV_WRITE, struct.pack(">II", index, index), PASSWORD, sized(data) + struct.pack(">H", 0))


def increment(tpm: Tpm, index: int) -> None:
    """Raise a counter by one."""
    tpm.command(NV_INCREMENT, struct.pack(">II", index, index), PASSWORD, b"")


def raise_counter(tpm: Tpm, index: int) -> None:
    """Raise a counter by one; make it first where the TPM has none."""
    try:
        nv_public(tpm, index)
    except EnvironmentProblem:
        define(tpm, index, COUNTER, COUNTER_BYTES)
    increment(tpm, index)


def certify(tpm: Tpm, key: Object, index: int, size: int, nonce: bytes) -> Signed:
    """What an index of `size` bytes holds, signed by `key` (TPM2_NV_Certify)."""
    area = _password() + _password()
    parameters = sized(nonce) + _NONE + struct.pack(">HH", size, 0)
    handles = struct.pack(">III", key.handle, index, index)
    return _signed(Answer(tpm.command(NV_CERTIFY, handles, struct.pack(">I", len(area)) + area, parameters)))


def selection(wanted: Mapping[Hash, Sequence[int]]) -> bytes:
    """TPML_PCR_SELECTION."""
    data = struct.pack(">I", len(wanted))
    for bank, chosen in wanted.items():
        bits = sum(1 << register for register in set(chosen))
        data += struct.pack(">HB", HASH_IDS[bank], 3) + bits.to_bytes(3, "little")
    return data


def _endorsement_session(tpm: Tpm) -> int:
    """A session that meets the policy of the older templates (TPM2_PolicySecret of the endorsement hierarchy)."""
    nonce = sized(bytes(SIZES["sha256"]))  # the session encrypts nothing and is not bound: its nonce is of no use
    parameters = nonce + sized(b"") + struct.pack(">BHH", POLICY_SESSION, NULL, HASH_IDS["sha256"])
    answer = Answer(tpm.command(START_SESSION, struct.pack(">II", UNLOCKED, UNLOCKED), b"", parameters))
    (session,) = answer.numbers("I")
    parameters = sized(b"") + sized(b"") + sized(b"") + struct.pack(">i", 0)
    tpm.command(POLICY_SECRET, struct.pack(">II", ENDORSEMENT, session), PASSWORD, parameters)
    return int(session)


def _password() -> bytes:
    """The empty password, for an authorization area with others."""
    return PASSWORD[4:]


def _signed(answer: Answer) -> Signed:
    body = Answer(answer.take(*answer.numbers("I")))
    attested = body.sized()
    return Signed(attested=attested, signature=body.rest())
