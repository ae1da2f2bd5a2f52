"""The notary as a run behind a wall sees it: every question goes over the channel to the `Desk` on the other side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.notary.protocol import Conclude, Concluded, Enrolment, Intent, Register, Registered
from attest import canonical
from attest.canonical import JSON, Model
from attest.profile import identity_uri

Ask = Callable[[bytes], bytes]
"""Sends one question and returns its answer. Raises when the other side is gone."""
M = TypeVar("M", bound=Model)


class RemoteNotary:
    """A `Notary` on the other side of a channel. Raises what `ask` raises, `MalformedInput` for a wrong answer."""

    def __init__(self, name: str, trusted_root: bytes, challenge: str, ask: Ask) -> None:
        self._name = name
        self._challenge = challenge
        self._trusted_root = trusted_root
        self._ask = ask

    @property
    def trusted_root(self) -> bytes:
        """The lab's trusted root, as the other side gave it at the start."""
        return self._trusted_root

    def challenge(self) -> str:
        """The notary's random bytes for this run, as the other side gave them at the start."""
        return self._challenge

    def enrol(self, intent: Mapping[str, JSON], enrolment: Enrolment) -> Registered:
        """Log the intent of the run. Whether the log holds it is for the bundle's reader to check."""
        question = Register(intent=canonical.validate(Intent, dict(intent), "intent"), enrolment=enrolment)
        return self._put(question, Registered)

    def identity(self, measurement: str, image: str | None = None) -> str:
        """The identity of an appliance of this lab by its measurement, and its machine's image."""
        return identity_uri(self._name, measurement, image)

    def conclude(
        self, public_key: ec.EllipticCurvePublicKey, identity: str, payload: bytes, payload_type: str, signature: bytes
    ) -> bytes:
        """The Sigstore bundle (JSON) of a signed payload."""
        question = Conclude(
            public_key=public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            identity=identity,
            payload=payload,
            payload_type=payload_type,
            signature=signature,
        )
        return self._put(question, Concluded).bundle

    def _put(self, question: Model, answer: type[M]) -> M:
        return canonical.parse(answer, self._ask(canonical.dump_model(question)), "notary answer")
