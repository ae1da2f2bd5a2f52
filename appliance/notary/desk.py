"""The lab's side of a run behind a wall: answers the questions of exactly one run, in their order, each once.

Whoever asks may be anybody: the other side of a wall is code that ran next to a model. So a desk is opened for one job
(and one lock, where a lockfile was given), takes nothing that is not about these, certifies one key, and has one
statement logged, which has to be about the run that it registered. The lab's logs are written by two calls of the lab
alone, `enrol` and `conclude`, after all checks of a question; a peer that leaves or lies in between leaves whole
entries or none. The first question that is refused closes the desk. What is delivered in the end has to be the bundle
that was assembled here, and the files that its statement names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from appliance.notary.protocol import (
    MAX_QUESTION_BYTES,
    ORDER,
    QUESTIONS,
    Conclude,
    Concluded,
    Notary,
    Register,
    Registered,
)
from attest import canonical, dsse, eventlog, evidence, statement, verify
from attest.canonical import Model
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError
from attest.log import LogReceipt
from attest.manifest import ContainerSection, ExecutionManifest, Wall

LAYER = "notary"


@dataclass(frozen=True)
class Expected:
    """What this side knows of the run beforehand."""

    job_digest: str
    """The digest of the job that was handed in."""
    nonce: str | None
    """The job's nonce."""
    wall: Wall
    """The wall that the run is behind."""
    lock_digest: str | None = None
    """The digest of the lockfile that was handed in; None: the run pins what it finds."""
    measurement: str | None = None
    """The measurement that this lockfile predicts; None as above."""
    container: ContainerSection | None = None
    """What the manifest has to say about the container."""
    resumed: bool = False
    """Whether the run was given samples of an earlier attempt to go on with."""
    appraise: Callable[[Register], None] | None = None
    """Appraises what the run shows of itself, and raises: it is registered only if this returns. None: no evidence."""
    accept: Callable[[ExecutionManifest, Register], None] | None = None
    """Judges what the run wants to have signed, knowing what it showed, and raises: its key is certified only if this
    returns."""


class Desk:
    """One run's notary. `answer` takes a question's bytes and returns the answer's."""

    def __init__(self, notary: Notary, expected: Expected) -> None:
        self._notary = notary
        self._expected = expected
        self._asked = 0
        self._receipt: LogReceipt | None = None
        self._measurement = ""
        self._identity = ""
        self._registered: Register | None = None
        self._manifest: ExecutionManifest | None = None
        self._bundle = b""

    @property
    def done(self) -> bool:
        """Whether every question was asked and answered."""
        return self._asked == len(ORDER)

    def answer(self, data: bytes) -> bytes:
        """The answer to the question `data`. Raises `MalformedInput`, `VerificationError` (layer `notary`); then the
        desk is closed, and refuses whatever is asked."""
        asked, self._asked = self._asked, len(ORDER) + 1
        if asked > len(ORDER):
            raise _refused("closed", "no question after one that was refused", "another one")
        if asked == len(ORDER):
            raise _refused("order", "no question after the last one", f"{len(data)} bytes")
        call = ORDER[asked]
        if len(data) > MAX_QUESTION_BYTES[call]:
            raise MalformedInput(
                "notary question", f"expected {call} of at most {MAX_QUESTION_BYTES[call]} bytes, found {len(data)}"
            )
        value = canonical.loads(data, "notary question")
        found = value.get("call") if isinstance(value, dict) else None
        if found != call:
            raise _refused("order", f"{call} as question {asked + 1} of a run", repr(found)[:80])
        question = canonical.validate(QUESTIONS[call], value, f"notary question {call}")
        reply = self._reply(question)
        self._asked = asked + 1
        return canonical.dump_model(reply)

    def check_delivered(self, files: Mapping[str, bytes]) -> None:
        """Raises `VerificationError` unless `files`, all of a bundle's, are what this run had logged here."""
        if self._manifest is None:
            raise RuntimeError("expected a bundle to be assembled before it is delivered")
        _equal("delivered", digest_of(self._bundle), digest_of(files[verify.SIGNATURE]))
        verify.check_files(files, self._manifest)

    def _reply(self, question: Model) -> Model:
        match question:
            case Register():
                return self._register(question)
            case Conclude():
                return self._conclude(question)
            case _:
                raise RuntimeError(f"expected a question, found {type(question).__name__}")

    def _register(self, question: Register) -> Registered:
        intent, expected = question.intent, self._expected
        _equal("job", expected.job_digest, intent.job_digest)
        _equal("nonce", expected.nonce, intent.nonce)
        if expected.lock_digest is not None:
            _equal("lock", expected.lock_digest, intent.lock_digest)
        if expected.appraise is not None:
            expected.appraise(question)
        elif question.enrolment.evidence is not None:
            raise _refused("evidence", "no evidence of hardware", question.enrolment.evidence.platforms)
        shown = question.enrolment.evidence
        _equal("counter", evidence.counter(shown) if shown else None, intent.counter)
        self._note(question)
        if expected.measurement is not None:
            _equal("measurement", expected.measurement, self._measurement)
        registered = self._notary.enrol(intent.model_dump(mode="json"), question.enrolment)
        self._receipt = registered.receipt
        return registered

    def resume(self, question: Register, receipt: LogReceipt) -> None:
        """Go on after the first question, which another desk of this lab answered with `receipt`."""
        self._note(question)
        self._receipt, self._asked = receipt, 1

    def _note(self, question: Register) -> None:
        shown = question.enrolment.evidence
        self._registered = question
        self._measurement = eventlog.measurement(eventlog.parse(question.enrolment.log).registers)
        self._identity = self._notary.identity(self._measurement, evidence.image(shown) if shown else None)

    def _conclude(self, question: Conclude) -> Concluded:
        _equal("identity", self._identity, question.identity)
        key = _load_key(question.public_key)
        registered = self._receipt.intent.key_digest if self._receipt else None
        _equal("key", registered, digest_of(question.public_key))
        _equal("payload-type", statement.PAYLOAD_TYPE, question.payload_type)
        manifest = self._check_statement(question.payload)
        try:
            signed = dsse.pae(question.payload_type, question.payload)
            key.verify(question.signature, signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise _refused("signature", "the registered key's, of this statement", "another") from None
        data = self._notary.conclude(
            key, question.identity, question.payload, question.payload_type, question.signature
        )
        self._manifest, self._bundle = manifest, data
        return Concluded(bundle=data)

    def _check_statement(self, payload: bytes) -> ExecutionManifest:
        """The manifest in a statement, which has to be about the run that was registered here."""
        if self._receipt is None or self._registered is None:
            raise RuntimeError("expected a receipt before a statement")
        manifest, intent = statement.read(payload).predicate, self._receipt.intent
        shown = self._registered.enrolment.evidence
        _equal("job", intent.job_digest, manifest.job.digest)
        _equal("attempt", intent.attempt, manifest.job.attempt)
        _equal("index", self._receipt.log_index, manifest.job.intent_index)
        _equal("lock", intent.lock_digest, manifest.lock.digest)
        _equal("wall", self._expected.wall, manifest.wall)
        _equal("container", self._expected.container, manifest.container)
        if manifest.resumed and not self._expected.resumed:
            raise _refused("resumed", "samples of this attempt alone", [each.attempt for each in manifest.resumed])
        _equal("evidence", shown.platforms if shown else (), manifest.evidence)
        _equal("registers", self._measurement, eventlog.measurement(manifest.boot.registers))
        if (manifest.lock.origin == "given") != (self._expected.lock_digest is not None):
            raise _refused("lock-origin", "what this side did about a lockfile", manifest.lock.origin)
        if self._expected.accept is not None:
            self._expected.accept(manifest, self._registered)
        return manifest


def _load_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedInput("public key", f"expected a P-256 key, DER: {str(error)[:200]}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedInput("public key", f"expected a P-256 key, found {type(key).__name__}")
    return key


def _equal(code: str, expected: object, found: object) -> None:
    if expected != found:
        raise _refused(code, expected, found)


def _refused(code: str, expected: object, found: object) -> VerificationError:
    return VerificationError(LAYER, code, expected=expected, found=found)
