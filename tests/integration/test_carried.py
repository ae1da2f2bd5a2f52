"""Questions and answers that cross an air gap as files: two folders stand for two machines, and people are not trusted.

The statement is that of a real run, made anew for the run that the lab registered; signatures and logs are real.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from appliance.enrol import digest_of_key
from appliance.notary import carried, gap, office
from appliance.notary import lab as labs
from appliance.notary.appraisal import Appraiser
from appliance.notary.gap import Answer, Invitation, Request, Shown
from appliance.notary.lab import Lab
from appliance.notary.protocol import Conclude, Enrolment, Intent, Register, Registered
from attest import canonical, dsse, eventlog, policy, statement, verify
from attest.cli import read_bundle
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError, VitrineError
from attest.eventlog import EventLog, LockEvent
from attest.manifest import Wall
from attest.statement import Statement
from tests.conftest import Made, now

KEY = ec.generate_private_key(ec.SECP256R1())
DAY = timedelta(days=1)
OTHER_LOG = EventLog().append(LockEvent(digest=digest_of(b"lock"), size_bytes=1, version=1))


@dataclass(frozen=True)
class Desk:
    """A lab on a machine of its own, and a run elsewhere that was invited."""

    lab: Lab
    invitation: Invitation
    made: Made
    rules: bytes = b""

    def answer(self, data: bytes, **fields: Any) -> bytes:
        """The lab's answer to a request."""
        return office.answer(self.lab, data, self.judge, **{"now": now()} | fields)

    def judge(self, challenge: str, wall: Wall) -> Appraiser:
        """By the policy `rules`."""
        return Appraiser(self.lab, policy.read(self.rules), None, now, challenge, wall)

    def register(self, **changes: Any) -> bytes:
        """The run's first request."""
        files = read_bundle(self.made.bundle)
        intent = {
            "job_digest": digest_of(files[verify.JOB]),
            "lock_digest": digest_of(files[verify.LOCK]),
            "key_digest": digest_of_key(KEY),
            "nonce": canonical.loads(files[verify.JOB])["nonce"],
        }
        shown = {"job": files[verify.JOB], "lock": files[verify.LOCK], "wall": "process"}
        question = Register(
            intent=Intent.model_validate(intent | changes.get("intent", {})),
            enrolment=Enrolment(log=changes.get("log", files[verify.BOOT])),
        )
        shown |= changes.get("shown", {})
        request = Request(challenge=self.invitation.challenge, shown=Shown.model_validate(shown), question=question)
        return canonical.dump_model(request)

    def conclude(self, answer: bytes, change: Callable[[dict[str, Any]], object] = lambda predicate: None) -> bytes:
        """Its second one, after this answer to the first."""
        files = read_bundle(self.made.bundle)
        said = gap.read_answer(answer).answer
        assert isinstance(said, Registered)
        payload = again(files, said, change)
        question = Conclude(
            public_key=KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            identity=self.lab.identity(eventlog.measurement(eventlog.parse(files[verify.BOOT]).registers)),
            payload=payload,
            payload_type=statement.PAYLOAD_TYPE,
            signature=KEY.sign(dsse.pae(statement.PAYLOAD_TYPE, payload), ec.ECDSA(hashes.SHA256())),
        )
        return canonical.dump_model(Request(challenge=self.invitation.challenge, question=question))

    @property
    def logged(self) -> tuple[int, int]:
        """How many entries its logs have."""
        opened = labs.open_lab(self.lab.path, now=now)
        return len(opened.log), len(opened.ctlog)


def again(files: dict[str, bytes], said: Registered, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The statement of a bundle, about the run that was registered, with a lock that was given."""
    from attest import trust

    files[verify.INTENT] = canonical.dump_model(said.receipt)
    payload = trust.verify_signature(files[verify.SIGNATURE], files[verify.TRUST], identity="https://*").payload
    value = canonical.loads(payload)
    predicate, intent = value["predicate"], said.receipt.intent
    predicate["job"] |= {"attempt": intent.attempt, "intent_index": said.receipt.log_index}
    predicate["lock"]["origin"] = "given"
    predicate |= {"started": intent.time, "ended": max(intent.time, now().strftime("%Y-%m-%dT%H:%M:%SZ"))}
    for entry in predicate["files"]:
        if entry["name"] == verify.INTENT:
            entry |= {"digest": digest_of(files[verify.INTENT]), "size_bytes": len(files[verify.INTENT])}
    change(predicate)
    return canonical.dump_model(canonical.validate(Statement, value, "statement"))


@pytest.fixture(scope="module")
def notary(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A lab on a machine of its own."""
    return labs.create(tmp_path_factory.mktemp("notary") / "lab", "notary.example", now=now)


@pytest.fixture
def desk(notary: Lab, made: Made) -> Desk:
    """With a new invitation."""
    return Desk(notary, invited(notary), made)


def invited(lab: Lab) -> Invitation:
    return gap.read_invitation(office.invite(lab, days=30, now=now()))


def refused(code: str) -> Any:
    return pytest.raises(VerificationError, match=rf"^{code}:")


# --- the lab's side --------------------------------------------------------------------------------------------------


def test_both_questions_are_answered_and_the_answers_verify(desk: Desk) -> None:
    first = desk.register()
    said = gap.check_answer(desk.answer(first), first, desk.invitation)
    assert isinstance(said.answer, Registered)
    assert said.answer.salt_key == desk.lab.salt_key(said.answer.receipt.intent.job_digest).hex()
    last = desk.conclude(desk.answer(first))
    entries, promises = desk.logged
    answer = gap.check_answer(desk.answer(last), last, desk.invitation)
    assert answer.challenge == desk.invitation.challenge
    assert desk.logged == (entries + 1, promises + 1)


def test_each_question_is_answered_once_and_the_same_one_alike(desk: Desk) -> None:
    first = desk.register()
    answer = desk.answer(first)
    logged = desk.logged
    assert desk.answer(first) == answer
    with refused("enrolment/once"):
        desk.answer(desk.register(intent={"key_digest": digest_of(b"another key")}))
    assert desk.logged == logged
    last = desk.conclude(answer)
    result, logged = desk.answer(last), desk.logged
    assert desk.answer(last) == result
    with refused("enrolment/once"):
        desk.answer(desk.conclude(answer, lambda predicate: predicate.update(ended="2099-01-01T00:00:00Z")))
    assert desk.logged == logged


def test_an_answer_that_could_not_be_kept_is_made_anew(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the log and the answer costs the number of an attempt, and nothing else."""
    first, entries = desk.register(), desk.logged[0]
    with monkeypatch.context() as broken:
        broken.setattr(gap, "seal_answer", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            desk.answer(first)
    assert gap.check_answer(desk.answer(first), first, desk.invitation)
    assert desk.logged[0] == entries + 2


def test_a_run_that_was_not_invited_here_is_refused(desk: Desk, made: Made) -> None:
    logged = desk.logged
    with refused("enrolment/invitation"):
        desk.answer(replace(desk, invitation=invited(made.lab)).register())
    with refused("enrolment/order"):
        other = replace(desk, invitation=invited(desk.lab))
        desk.answer(other.conclude(desk.answer(desk.register())))
    assert desk.logged == (logged[0] + 1, logged[1])


def test_an_invitation_expires_for_the_first_question_alone(desk: Desk) -> None:
    late = now() + 31 * DAY
    with refused("enrolment/expired"):
        desk.answer(desk.register(), now=late)
    answer = desk.answer(desk.register())
    assert desk.answer(desk.conclude(answer), now=late)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"intent": {"job_digest": digest_of(b"j")}}, "notary/job"),
        ({"intent": {"nonce": "00" * 16}}, "notary/nonce"),
        ({"intent": {"lock_digest": digest_of(b"l")}}, "notary/lock"),
        ({"log": OTHER_LOG.dump()}, "notary/measurement"),
        ({"log": b"{}\n"}, "event"),
        ({"shown": {"job": b"{}"}}, "job"),
        ({"shown": {"job": b" {}"}}, "job"),
        ({"shown": {"lock": b"{}"}}, "lock"),
    ],
)
def test_a_first_question_that_does_not_fit_what_is_shown_is_refused(
    desk: Desk, changes: dict[str, Any], error: str
) -> None:
    logged = desk.logged
    with pytest.raises(VitrineError, match=error):
        desk.answer(desk.register(**changes))
    assert desk.logged == logged
    # The invitation is as good as before.
    assert desk.answer(desk.register())


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        (b"walls = ['vm']", "policy/wall"),
        (b"locks = []", "policy/lock"),
        (b"identity = 'https://notary.example/appliance/other'", "signature/identity"),
        (b"[hardware]", "evidence/missing"),
    ],
)
def test_a_run_that_the_policy_refuses_is_not_registered(desk: Desk, rules: bytes, code: str) -> None:
    logged = desk.logged
    with refused(code):
        replace(desk, rules=rules).answer(desk.register())
    assert desk.logged == logged


def test_attempts_are_counted_before_they_are_registered(desk: Desk) -> None:
    done = desk.lab.attempts(digest_of(read_bundle(desk.made.bundle)[verify.JOB]))
    exact = replace(desk, rules=b"max_attempts = %d" % (done + 1))
    assert exact.answer(desk.register())
    with refused("policy/attempts"):
        replace(exact, invitation=invited(desk.lab)).answer(replace(desk, invitation=invited(desk.lab)).register())
    more = replace(exact, invitation=invited(desk.lab))
    with refused("policy/attempts"):
        more.answer(more.register())


@pytest.mark.parametrize(
    ("rules", "change", "error"),
    [
        (b"", lambda predicate: predicate["job"].update(attempt=9), "notary/attempt"),
        (b"", lambda predicate: predicate["lock"].update(origin="made-for-this-run"), "notary/lock-origin"),
        (b"", lambda predicate: predicate["boot"]["registers"].update(model="0" * 64), "notary/registers"),
        (b"assurance = 'quoted'", lambda predicate: None, "policy/assurance"),
        (b"max_attempts = 1", lambda predicate: None, "policy/attempts"),
        (b"full_seal = true", lambda predicate: predicate["seal"][0].update(level="partial"), "policy/full-seal"),
    ],
)
def test_a_statement_that_is_not_of_the_run_or_that_the_policy_refuses_is_not_certified(
    desk: Desk, rules: bytes, change: Callable[[dict[str, Any]], object], error: str
) -> None:
    desk.answer(replace(desk, invitation=invited(desk.lab)).register())
    answer = desk.answer(desk.register())
    logged = desk.logged
    with pytest.raises(VerificationError, match=error):
        replace(desk, rules=rules).answer(desk.conclude(answer, change))
    assert desk.logged == logged
    # A refusal does not use the question up: the policy may have been the wrong one.
    assert desk.answer(desk.conclude(answer))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_request_that_was_changed_on_its_way_is_refused_with_our_errors(desk: Desk, data: st.DataObject) -> None:
    request = bytearray(desk.register())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(request) - 1))
        request[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        gap.read_request(bytes(request))
    except MalformedInput:
        return
    assume(bytes(request) != desk.register())
    # What still has its form may be another run's request, for nobody vouches for the carrier: not ours is answered.
    with pytest.raises(VitrineError):
        gap.check_answer(desk.answer(bytes(request)), desk.register(), desk.invitation)


# --- the run's side --------------------------------------------------------------------------------------------------


def envelope(answer: bytes, **changes: Any) -> bytes:
    return canonical.dumps(canonical.loads(answer) | changes)


def test_an_answer_of_another_lab_or_run_or_time_is_refused(desk: Desk, made: Made) -> None:
    first = desk.register()
    answer = desk.answer(first)
    foreign = replace(desk, lab=made.lab, invitation=invited(made.lab))
    request = foreign.register()
    with refused("enrolment/signature"):
        gap.check_answer(foreign.answer(request), first, desk.invitation)
    other = replace(desk, invitation=invited(desk.lab))
    with refused("enrolment/challenge"):
        gap.check_answer(desk.answer(other.register()), first, desk.invitation)
    last = desk.conclude(answer)
    with refused("enrolment/request"):
        gap.check_answer(answer, last, desk.invitation)
    with refused("enrolment/request"):
        gap.check_answer(desk.answer(last), first, desk.invitation)
    with refused("enrolment/type"):
        gap.check_answer(envelope(answer, payloadType="application/json"), first, desk.invitation)


def test_even_the_lab_may_not_answer_something_else(desk: Desk) -> None:
    """Answers that the lab signed, and that are not what was asked for."""
    first = desk.register()
    said = gap.read_answer(desk.answer(first))
    last = desk.conclude(desk.answer(first))
    end = gap.read_answer(desk.answer(last))
    assert isinstance(said.answer, Registered)
    other = replace(desk, invitation=invited(desk.lab))
    another = gap.read_answer(desk.answer(other.register(intent={"key_digest": digest_of(b"another key")})))
    asked = gap.read_request(first).question
    assert isinstance(asked, Register)
    counter = {"counter": {"tpm": digest_of(b"tpm"), "value": 7}}
    counted = desk.lab.enrol(asked.intent.model_dump(mode="json") | counter, asked.enrolment)
    cases: list[tuple[Answer, bytes, str]] = [
        (said.model_copy(update={"answer": end.answer}), first, "enrolment/kind"),
        (end.model_copy(update={"answer": said.answer}), last, "enrolment/kind"),
        (said.model_copy(update={"answer": another.answer}), first, "enrolment/intent"),
        (said.model_copy(update={"answer": counted}), first, "enrolment/intent"),
    ]
    for answer, request, code in cases:
        with refused(code):
            gap.check_answer(gap.seal_answer(answer, desk.lab.log.sign), request, desk.invitation)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_answer_that_was_changed_on_its_way_is_refused_with_our_errors(desk: Desk, data: st.DataObject) -> None:
    first = desk.register()
    answer = bytearray(desk.answer(first))
    at = data.draw(st.integers(0, len(answer) - 1))
    answer[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(VitrineError):
        gap.check_answer(bytes(answer), first, desk.invitation)


@pytest.fixture
def asked(desk: Desk, tmp_path: Path) -> tuple[Desk, Path]:
    """A run's folder whose first request nobody waits for any more."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / carried.INVITATION).write_bytes(canonical.dump_model(desk.invitation))
    (folder / gap.request_name("register")).write_bytes(desk.register())
    return desk, folder


def test_an_answer_is_taken_only_when_it_is_of_use(asked: tuple[Desk, Path]) -> None:
    desk, folder = asked
    answer = desk.answer(desk.register())
    with pytest.raises(EnvironmentProblem, match="the run's key with it"):
        carried.accept(folder, answer)
    assert not (folder / gap.answer_name("register")).exists()
    last = desk.conclude(answer)
    (folder / gap.request_name("conclude")).write_bytes(last)
    with refused("enrolment/request"):
        carried.accept(folder, answer)
    assert not (folder / gap.answer_name("conclude")).exists()
    taken = carried.accept(folder, desk.answer(last))
    assert (taken.call, taken.waiting) == ("conclude", False)
    (folder / carried.BUNDLE).mkdir()
    with pytest.raises(EnvironmentProblem, match="complete"):
        carried.accept(folder, desk.answer(last))


def test_a_folder_that_is_no_runs_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"expected .*invitation"):
        carried.accept(tmp_path, b"")


def test_a_folder_belongs_to_one_run(desk: Desk, tmp_path: Path) -> None:
    shown = gap.read_request(desk.register()).shown
    assert shown is not None
    with (
        pytest.raises(EnvironmentProblem, match="exists already"),
        carried.ask(tmp_path, canonical.dump_model(desk.invitation), shown, lambda *_: None),
    ):
        pytest.fail("two runs in one folder")
    with pytest.raises(MalformedInput), carried.ask(tmp_path / "new", b"{}", shown, lambda *_: None):
        pytest.fail("an invitation that is none")
    assert not (tmp_path / "new").exists()


def test_times_of_invitations_are_bounded(notary: Lab) -> None:
    assert invited(notary).expires > datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for days in (0, office.MAX_DAYS + 1):
        with pytest.raises(ValueError, match="days"):
            office.invite(notary, days=days, now=now())
