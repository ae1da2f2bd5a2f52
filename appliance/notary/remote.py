"""The notary as a run sees it that does not have the lab: it puts each question to somebody else.

Behind a wall every question goes over the channel to the `Desk` on the other side; across an air gap people carry it
(`carried.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.notary.protocol import Conclude, Concluded, Enrolment, Intent, Register, Registered
from attest import canonical
from attest.canonical import JSON
from attest.profile import identity_uri

Ask = Callable[[bytes], bytes]
"""Sends one question and returns its answer. Raises when the other side is gone."""
M = TypeVar("M", Registered, Concluded)


class AskingNotary(ABC):
    """A `Notary` that has what the lab said beforehand, and puts both questions to somebody else."""

    def __init__(self, name: str, trusted_root: bytes, challenge: str) -> None:
        self._name = name
        self._trusted_root = trusted_root
        self._challenge = challenge

    @property
    def trusted_root(self) -> bytes:
        """The lab's trusted root, as it was given beforehand."""
        return self._trusted_root

    def challenge(self) -> str:
        """The notary's random bytes for this run, as they were given beforehand."""
        return self._challenge

    def identity(self, measurement: str, image: str | None = None) -> str:
        """The identity of an appliance of the lab by its measurement, and its machine's image."""
        return identity_uri(self._name, measurement, image)

    def enrol(self, intent: Mapping[str, JSON], enrolment: Enrolment) -> Registered:
        """Have the intent of the run logged. Raises what `_put` raises."""
        question = Register(intent=canonical.validate(Intent, dict(intent), "intent"), enrolment=enrolment)
        return self._put(question, Registered)

    def conclude(
        self, public_key: ec.EllipticCurvePublicKey, identity: str, payload: bytes, payload_type: str, signature: bytes
    ) -> bytes:
        """The Sigstore bundle (JSON) of a signed payload. Raises what `_put` raises."""
        question = Conclude(
            public_key=public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            identity=identity,
            payload=payload,
            payload_type=payload_type,
            signature=signature,
        )
        return self._put(question, Concluded).bundle

    @abstractmethod
    def _put(self, question: Register | Conclude, answer: type[M]) -> M:
        """The answer to `question`, which has to be of this type."""


class RemoteNotary(AskingNotary):
    """A `Notary` on the other side of a channel. Raises what `ask` raises, `MalformedInput` for a wrong answer.

    Whether the log holds the intent is for the bundle's reader to check.
    """

    def __init__(self, name: str, trusted_root: bytes, challenge: str, ask: Ask) -> None:
        super().__init__(name, trusted_root, challenge)
        self._ask = ask

    def _put(self, question: Register | Conclude, answer: type[M]) -> M:
        return canonical.parse(answer, self._ask(canonical.dump_model(question)), "notary answer")
