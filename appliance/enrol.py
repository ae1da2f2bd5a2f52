"""A run becomes known to the lab: the boot key is made, the machine's evidence bound to it, the intent registered.

The boot key signs the bundle. It is made after the boot and before the first sample, and lives in this process: the
intent in the lab's log names it, the hardware's evidence of start and end bears it, the certificate is for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.attester.protocol import Attester
from appliance.boot import Booted
from appliance.notary.protocol import Enrolment, Notary
from attest import dsse, eventlog, evidence, job
from attest.binding import StartStatement, binding
from attest.digest import digest_of
from attest.evidence import Evidence
from attest.job import Job
from attest.log import LogReceipt


@dataclass(frozen=True)
class Enrolled:
    """A run that the lab knows."""

    receipt: LogReceipt
    """The log's receipt for the intent."""
    salt_key: bytes = field(repr=False)
    """The 32 bytes that blind the job's samples."""
    start: Evidence | None
    """The evidence of the start, where there is hardware that speaks."""
    nonce: str | None
    """The job's nonce."""
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    """The boot key."""
    attester: Attester | None = field(repr=False)
    """The hardware."""

    @property
    def image(self) -> str | None:
        """The measurement of the machine's image, where hardware speaks."""
        return evidence.image(self.start) if self.start else None

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        """The boot key's signature, DER, over a payload of this type."""
        return self.key.sign(dsse.pae(payload_type, payload), ec.ECDSA(hashes.SHA256()))

    def end(self, payload: bytes, results: str) -> Evidence | None:
        """The evidence of the end, bound to the statement `payload`; `results` is the digest of the results."""
        if self.attester is None or self.start is None:
            return None
        extra = binding("end", nonce=self.nonce, key=digest_of_key(self.key), statement=digest_of(payload))
        items = self.attester.end(results, extra)
        return Evidence(when="end", challenge=self.start.challenge, before=self.start.before, items=items)


def enrol(lab: Notary, attester: Attester | None, booted: Booted, the_job: Job) -> Enrolled:
    """Make the boot key, take evidence of the start, register the run. Raises what lab and attester raise.

    A lock that is older than one that ran on this machine is refused before the lab is asked to log anything.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    digest, key_digest = job.digest(the_job), digest_of_key(key)
    start = None
    if attester is not None:
        statement = StartStatement(
            job=digest,
            lock=booted.lock_digest,
            measurement=eventlog.measurement(booted.registers),
            challenge=lab.challenge(),
        )
        attester.admit(the_job.name, booted.lock.version)
        extra = binding("start", nonce=the_job.nonce, key=key_digest, statement=statement.digest())
        items = attester.start(booted.log, digest, extra)
        start = Evidence(when="start", challenge=statement.challenge, before=attester.before, items=items)
    counter = evidence.counter(start) if start else None
    intent = {
        "job_digest": digest,
        "lock_digest": booted.lock_digest,
        "key_digest": key_digest,
        "nonce": the_job.nonce,
        "counter": counter and counter.model_dump(mode="json"),
    }
    registered = lab.enrol(intent, Enrolment(log=booted.log.dump(), evidence=start))
    salt_key = bytes.fromhex(registered.salt_key)
    return Enrolled(registered.receipt, salt_key, start, the_job.nonce, key, attester)


def digest_of_key(key: ec.EllipticCurvePrivateKey) -> str:
    """`sha256:` over the SPKI (DER) of the key's public half."""
    return digest_of(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
