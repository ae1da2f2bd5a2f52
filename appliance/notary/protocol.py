"""What a run asks of its notary: two questions, one before its first sample and one after its last.

`Lab` answers them in the process that has the lab's folder. Behind a wall that process is on the other side: there
`RemoteNotary` asks (`remote.py`), and `Desk` answers (`desk.py`). The signing key never crosses; its public half does.

A question is one canonical JSON object whose `call` names it; the answer to it is another. `ORDER` is the order in
which one run asks, each question once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, StringConstraints

from attest.canonical import JSON, Model
from attest.counter import RunCounter
from attest.digest import Digest, Hex32
from attest.dsse import Base64
from attest.evidence import Evidence
from attest.log import LogReceipt

Nonce = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){8,64}$")]
Call = Literal["register", "conclude"]
ORDER: tuple[Call, ...] = ("register", "conclude")
MAX_QUESTION_BYTES: dict[Call, int] = {"register": 7 << 20, "conclude": 7 << 20}
"""How long each question may be, in bytes of its JSON text."""


class Notary(Protocol):
    """Certifies, registers, logs and time-stamps. A run asks it, in this order."""

    @property
    def trusted_root(self) -> bytes:
        """What auditors need to trust the lab: the bytes of its trusted root, JSON."""
        ...

    def challenge(self) -> str:
        """32 random bytes for the evidence of one run, hexadecimal: what bears them was made after they were."""
        ...

    def enrol(self, intent: Mapping[str, JSON], enrolment: Enrolment) -> Registered:
        """Log the intent of a run: `job_digest`, `lock_digest`, `key_digest`, and `nonce` (text, or None)."""
        ...

    def identity(self, measurement: str, image: str | None = None) -> str:
        """The identity of an appliance by its measurement, 64 to 128 hexadecimal digits, and its machine's image."""
        ...

    def conclude(
        self, public_key: ec.EllipticCurvePublicKey, identity: str, payload: bytes, payload_type: str, signature: bytes
    ) -> bytes:
        """The Sigstore bundle (JSON) of a payload: its P-256 key certified for a short time, the signature logged and
        time-stamped."""
        ...


class Intent(Model):
    """What is registered."""

    job_digest: Digest
    """The job's digest."""
    lock_digest: Digest
    """The lockfile's digest."""
    key_digest: Digest
    """The digest of the boot key (SPKI, DER)."""
    nonce: Nonce | None = None
    """The relying party's nonce."""
    counter: RunCounter | None = None
    """Where the counter of runs stands, by the evidence of the start."""


class Enrolment(Model):
    """What a run shows of itself before it is registered."""

    log: Base64 = Field(max_length=4 << 20)
    """The boot's event log, lines of JSON."""
    evidence: Evidence | None = None
    """The evidence of the start, where there is hardware that speaks for it."""


class Register(Model):
    """Log the intent of this run. Asked before its first sample."""

    call: Literal["register"] = "register"
    """Which question this is."""
    intent: Intent
    """What is registered."""
    enrolment: Enrolment
    """What the run shows."""


class Conclude(Model):
    """Certify the key, have its signature logged and stamped. Asked when the statement is signed."""

    call: Literal["conclude"] = "conclude"
    """Which question this is."""
    public_key: Base64 = Field(max_length=256)
    """The key to certify, which has signed: SubjectPublicKeyInfo, DER."""
    identity: str = Field(max_length=400)
    """The identity that is to stand in the certificate."""
    payload: Base64 = Field(max_length=4 << 20)
    """The signed statement."""
    payload_type: str = Field(max_length=100)
    """Its media type."""
    signature: Base64 = Field(max_length=256)
    """ECDSA, DER."""


QUESTIONS: dict[Call, type[Register] | type[Conclude]] = {"register": Register, "conclude": Conclude}


class Registered(Model):
    """The answer to `Register`."""

    receipt: LogReceipt
    """The log's receipt for the intent."""
    salt_key: Hex32
    """The 32 bytes that blind the job's samples, hexadecimal."""


class Concluded(Model):
    """The answer to `Conclude`."""

    bundle: Base64
    """The Sigstore bundle, JSON."""
