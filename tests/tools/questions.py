"""What a run asks of its notary, written by hand: for tests of the desk, of the channel, and of the inside."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.enclave.channel import Start
from appliance.enrol import digest_of_key
from appliance.notary import lab as labs
from appliance.notary.desk import Expected
from appliance.notary.lab import Lab
from appliance.notary.protocol import Enrolment, Intent, Register
from appliance.notary.remote import RemoteNotary
from attest import canonical
from attest.digest import digest_of
from attest.eventlog import EventLog, LockEvent, measurement
from tests.conftest import now

JOB, LOCK, OTHER = (digest_of(name) for name in (b"job", b"lock", b"other"))
EXPECTED = Expected(job_digest=JOB, nonce=None, wall="container")
CHALLENGE = "5c" * 32
KEY = ec.generate_private_key(ec.SECP256R1())
LOG = EventLog().append(LockEvent(digest=LOCK, size_bytes=1, version=1))
MEASUREMENT = measurement(LOG.registers)
SHOWN = Enrolment(log=LOG.dump())
"""What a run without hardware that speaks for it shows of itself."""


def entries(lab: Lab) -> int:
    """How many leaves the lab's log holds, as somebody finds it who opens the lab anew: every check of it passes."""
    return len(labs.open_lab(lab.path, now=now).log)


def promises(lab: Lab) -> int:
    """How many certificates it promised."""
    return len(labs.open_lab(lab.path, now=now).ctlog)


def leaves(lab: Lab) -> int:
    """The same, as the open lab finds it: quicker."""
    with lab.log.locked():
        return len(lab.log)


def register(**changes: Any) -> bytes:
    question = Register(intent=Intent.model_validate(intent(JOB, LOCK) | changes), enrolment=SHOWN)
    return canonical.dump_model(question)


def intent(job: str, lock: str, nonce: str | None = None) -> dict[str, Any]:
    """The intent of a run whose boot key is `KEY`."""
    return {"job_digest": job, "lock_digest": lock, "key_digest": digest_of_key(KEY), "nonce": nonce}


def conclude(lab: Lab, key: ec.EllipticCurvePrivateKey | None = None, identity: str | None = None) -> bytes:
    notary = RemoteNotary(lab.name, b"{}", CHALLENGE, asked := Asked())
    with pytest.raises(StopAskingError):
        notary.conclude((key or KEY).public_key(), identity or lab.identity(MEASUREMENT), b"{}", "text/plain", b"s")
    return asked.question


class StopAskingError(Exception):
    """The question is known now."""


class Asked:
    """Remembers a question in place of sending it."""

    question = b""

    def __call__(self, question: bytes) -> bytes:
        self.question = question
        raise StopAskingError


def start(lab: Lab) -> Start:
    return Start(
        wall="container", container=None, job="/in/job.yaml", engine="/e", out="/out/b", deliver="folder",
        lab=lab.name, trusted_root=lab.trusted_root,
    )  # fmt: skip
