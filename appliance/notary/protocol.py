"""What a run asks of its notary, and the form of these questions on a channel.

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
Call = Literal["register", "salt-key", "certify", "assemble"]
ORDER: tuple[Call, ...] = ("register", "salt-key", "certify", "assemble")
MAX_QUESTION_BYTES: dict[Call, int] = {"register": 7 << 20, "salt-key": 4096, "certify": 4096, "assemble": 7 << 20}
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

    def register(self, intent: Mapping[str, JSON], enrolment: Enrolment) -> LogReceipt:
        """Log the intent of a run: `job_digest`, `lock_digest`, `key_digest`, and `nonce` (text, or None)."""
        ...

    def salt_key(self, job_digest: str) -> bytes:
        """The 32 bytes that blind the job's samples."""
        ...

    def identity(self, measurement: str, image: str | None = None) -> str:
        """The identity of an appliance by its measurement, 64 to 128 hexadecimal digits, and its machine's image."""
        ...

    def certify(self, public_key: ec.EllipticCurvePublicKey, identity: str) -> bytes:
        """A short-lived certificate (DER) of a P-256 key."""
        ...

    def assemble(self, payload: bytes, payload_type: str, signature: bytes, certificate_der: bytes) -> bytes:
        """The Sigstore bundle (JSON) of a signed payload, logged and time-stamped."""
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
    """Log the intent of this run. The answer is the log's receipt."""

    call: Literal["register"] = "register"
    """Which question this is."""
    intent: Intent
    """What is registered."""
    enrolment: Enrolment
    """What the run shows."""


class SaltKey(Model):
    """Ask for the key that blinds the job's samples."""

    call: Literal["salt-key"] = "salt-key"
    """Which question this is."""
    job_digest: Digest
    """The job's digest."""


class Certify(Model):
    """Ask for a certificate."""

    call: Literal["certify"] = "certify"
    """Which question this is."""
    public_key: Base64 = Field(max_length=256)
    """The key to certify: SubjectPublicKeyInfo, DER."""
    identity: str = Field(max_length=400)
    """The identity that is to stand in the certificate."""


class Assemble(Model):
    """Have a signature logged and stamped."""

    call: Literal["assemble"] = "assemble"
    """Which question this is."""
    payload: Base64 = Field(max_length=4 << 20)
    """The signed statement."""
    payload_type: str = Field(max_length=100)
    """Its media type."""
    signature: Base64 = Field(max_length=256)
    """ECDSA, DER."""
    certificate: Base64 = Field(max_length=8192)
    """The certificate, DER."""


QUESTIONS: dict[Call, type[Register] | type[SaltKey] | type[Certify] | type[Assemble]] = {
    "register": Register,
    "salt-key": SaltKey,
    "certify": Certify,
    "assemble": Assemble,
}


class Salt(Model):
    """The answer to `SaltKey`."""

    salt_key: Hex32
    """32 bytes, hexadecimal."""


class Certificate(Model):
    """The answer to `Certify`."""

    certificate: Base64
    """DER."""


class Assembled(Model):
    """The answer to `Assemble`."""

    bundle: Base64
    """The Sigstore bundle, JSON."""
