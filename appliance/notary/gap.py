"""What is carried across an air gap between a run and its notary: an invitation, two requests, two answers. JSON files.

    invitation    notary -> run    before anything else: the lab's trust root, and random bytes that name this one run
    request       run -> notary    a question of `protocol.py`; the first one shows job and lock besides
    answer        notary -> run    the answer, and which request it is to, in a DSSE envelope that the lab's log signed

Nobody in between is trusted: a request says nothing that the notary does not check, and an answer counts when it is
signed under the trust root of the invitation. Whoever hands over the invitation hands over
that trust root, so it has to come from the lab, as the trust root for auditors does. Answers hold the job's salt key,
which lets a reader of the file test guesses about samples: it is in the bundle too, in `evidence/disclosure.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from appliance.notary.protocol import Call, Conclude, Concluded, Intent, Register, Registered
from attest import canonical, checkpoint, dsse
from attest.canonical import Model
from attest.checkpoint import TrustedLog
from attest.digest import Digest, Hex32, digest_of
from attest.dsse import Base64, Envelope
from attest.errors import MalformedInput, VerificationError
from attest.manifest import Wall

LAYER = "enrolment"
INVITATION: Final = "vitrine/notary-invitation/v1"
REQUEST: Final = "vitrine/notary-request/v1"
ANSWER_TYPE: Final = "application/vnd.vitrine.notary-answer.v1+json"
ANSWER: Final = "vitrine/notary-answer/v1"
MAX_INVITATION_BYTES = 2 << 20
MAX_REQUEST_BYTES = 16 << 20
MAX_ANSWER_BYTES = 16 << 20

Time = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]


class Invitation(Model):
    """What a run has to know of its notary before it asks."""

    format: Literal["vitrine/notary-invitation/v1"] = INVITATION
    """Format and version."""
    lab: str = Field(max_length=253)
    """The lab's name."""
    trusted_root: Base64 = Field(max_length=1 << 20)
    """The lab's trusted root, JSON."""
    challenge: Hex32
    """Random bytes that the notary chose. They name the run, and its evidence bears them."""
    expires: Time
    """Until when the notary takes a first request."""


class Shown(Model):
    """What a run shows of itself with its first question."""

    job: Base64 = Field(max_length=1 << 20)
    """The job, canonical JSON."""
    lock: Base64 = Field(max_length=4 << 20)
    """The lockfile that was given."""
    wall: Wall
    """The wall that the run is behind."""


class Request(Model):
    """A question to a notary."""

    format: Literal["vitrine/notary-request/v1"] = REQUEST
    """Format and version."""
    challenge: Hex32
    """The invitation's."""
    shown: Shown | None = None
    """What the run shows, with its first question alone."""
    question: Annotated[Register | Conclude, Field(discriminator="call")]
    """The question."""

    @property
    def call(self) -> Call:
        """Which question it is."""
        return self.question.call

    @model_validator(mode="after")
    def _shown_once(self) -> Self:
        if (self.shown is not None) != isinstance(self.question, Register):
            raise ValueError("expected 'shown' exactly with the question 'register'")
        return self


class Answer(Model):
    """A notary's answer."""

    format: Literal["vitrine/notary-answer/v1"] = ANSWER
    """Format and version."""
    challenge: Hex32
    """The invitation's."""
    request: Digest
    """The digest of the request's bytes."""
    answer: Registered | Concluded
    """The answer."""


def request_name(call: Call) -> str:
    """The file of a question."""
    return f"{call}.request.json"


def answer_name(call: Call) -> str:
    """The file of its answer."""
    return f"{call}.answer.json"


def read_invitation(data: bytes) -> Invitation:
    """The invitation in `data`. Raises `MalformedInput`."""
    return canonical.parse(Invitation, _bounded(data, MAX_INVITATION_BYTES, "invitation"), "notary invitation")


def read_request(data: bytes) -> Request:
    """The request in `data`. Raises `MalformedInput`."""
    return canonical.parse(Request, _bounded(data, MAX_REQUEST_BYTES, "request"), "notary request")


def seal_answer(answer: Answer, sign: Callable[[bytes], bytes]) -> bytes:
    """The envelope of `answer`, JSON; `sign` makes the log's signature (DER, over SHA-256)."""
    payload = canonical.dump_model(answer)
    return dsse.encode(dsse.make(payload, ANSWER_TYPE, sign(dsse.pae(ANSWER_TYPE, payload))))


def read_answer(data: bytes) -> Answer:
    """The answer in the envelope `data`; nothing of it is checked. Raises `MalformedInput`."""
    return canonical.parse(Answer, _read_envelope(data).payload, "notary answer")


def check_answer(data: bytes, request_data: bytes, invitation: Invitation) -> Answer:
    """The answer in `data` to the request that we made: of the lab that invited us, and about our run.

    Raises `VerificationError` (layers `enrolment`, `log`, `signature`), `MalformedInput`.
    """
    from attest import trust

    # 1. It is signed by a log of the lab that invited us.
    envelope = _read_envelope(data)
    _equal("type", ANSWER_TYPE, envelope.payload_type, "this is no notary's answer")
    _check_signed(envelope, trust.read(invitation.trusted_root).logs)
    answer, request = read_answer(data), read_request(request_data)
    # 2. It is to this request of this run.
    _equal("challenge", invitation.challenge, answer.challenge, "the answer is for another run")
    _equal("request", digest_of(request_data), answer.request, "the answer is to an earlier request, or another one")
    # 3. What the bundle needs of it verifies, and is about what was asked.
    match request.question, answer.answer:
        case Register() as question, Registered() as registered:
            _check_registered(question, registered, invitation.trusted_root)
        case Conclude() as question, Concluded() as concluded:
            _check_concluded(question, concluded, invitation.trusted_root)
        case question, found:
            _equal("kind", f"the answer to {question.call}", type(found).__name__, "the answer is of another kind")
    return answer


def _read_envelope(data: bytes) -> Envelope:
    return canonical.parse(Envelope, _bounded(data, MAX_ANSWER_BYTES, "answer"), "notary answer")


def _check_signed(envelope: Envelope, logs: Sequence[TrustedLog]) -> None:
    for log in logs:
        with suppress(VerificationError):
            checkpoint.verify(checkpoint.load_key(log), envelope.signature, envelope.signed_bytes, "answer")
            return
    advice = "the answer is of another lab, or was changed on its way"
    expected = f"a signature of {', '.join(log.name for log in logs)}"
    raise VerificationError(LAYER, "signature", expected=expected, found="another", advice=advice)


def _check_registered(question: Register, answer: Registered, trusted_root: bytes) -> None:
    from attest import trust

    logged = trust.verify_receipt(canonical.dump_model(answer.receipt), trusted_root)
    for field in Intent.model_fields:
        _equal("intent", getattr(question.intent, field), getattr(logged, field), "the lab logged another intent")


def _check_concluded(question: Conclude, answer: Concluded, trusted_root: bytes) -> None:
    from attest import trust

    signed = trust.verify_signature(answer.bundle, trusted_root, identity=question.identity)
    _equal("payload", digest_of(question.payload), digest_of(signed.payload), "the lab logged another statement")
    _equal("key", digest_of(question.public_key), digest_of(signed.public_key_der), "the lab certified another key")


def _bounded(data: bytes, limit: int, what: str) -> bytes:
    if len(data) > limit:
        raise MalformedInput(f"notary {what}", f"expected at most {limit} bytes, found {len(data)}")
    return data


def _equal(code: str, expected: object, found: object, advice: str) -> None:
    if expected != found:
        raise VerificationError(LAYER, code, expected=expected, found=found, advice=advice)
