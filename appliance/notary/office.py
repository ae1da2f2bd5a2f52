"""The lab's side of runs on the other side of an air gap: invites them, appraises their requests, keeps what it said.

    LAB/enrolments/CHALLENGE/invitation.json
                             register.request.json   register.answer.json
                             conclude.request.json   conclude.answer.json

Each invitation is good for one run, and each of its two questions is answered once: the same request again gets the
same answer again, another one is refused. A crash between the lab's log and the answer costs an attempt's number, which
stays in the log.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from appliance.notary import files, gap
from appliance.notary.appraisal import Judge
from appliance.notary.desk import Desk, Expected
from appliance.notary.gap import Answer, Invitation, Request, Shown, answer_name, request_name
from appliance.notary.lab import Lab
from appliance.notary.protocol import Concluded, Register, Registered
from attest import canonical, eventlog, job, lockfile, validity
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError
from attest.job import Job

FOLDER = "enrolments"
LOCK = "lock"
INVITATION = "invitation.json"
MAX_DAYS = 365


def invite(lab: Lab, *, days: int, now: datetime) -> bytes:
    """An invitation for one run, good for `days`: canonical JSON. The lab remembers it."""
    if not 1 <= days <= MAX_DAYS:
        raise ValueError(f"expected 1 to {MAX_DAYS} days, found {days}")
    invitation = Invitation(
        lab=lab.name,
        trusted_root=lab.trusted_root,
        challenge=lab.challenge(),
        expires=validity.write_time(now + timedelta(days=days)),
    )
    folder = lab.path / FOLDER / invitation.challenge
    files.make_directories(lab.path / FOLDER)
    folder.mkdir(mode=0o700)
    data = canonical.dump_model(invitation)
    files.write_file(folder / INVITATION, data, mode=0o600)
    return data


def answer(lab: Lab, data: bytes, judge: Judge, *, now: datetime) -> bytes:
    """The answer to the request in `data`, once it was appraised: canonical JSON.

    Raises `VerificationError` (layers `enrolment`, `notary`, `policy` and those of evidence), `MalformedInput`,
    `Unsupported`; then nothing was logged.
    """
    # 1. A request, to an invitation of this lab.
    request = gap.read_request(data)
    folder = lab.path / FOLDER / request.challenge
    try:
        invitation = gap.read_invitation(files.read_bounded(folder / INVITATION, gap.MAX_INVITATION_BYTES))
    except FileNotFoundError:
        raise _refused(
            "invitation", "an invitation of this lab", request.challenge, "it is for another lab, or for none"
        ) from None
    with files.exclusive(lab.path / FOLDER / LOCK):
        # 2. Each question once.
        earlier, given = folder / request_name(request.call), folder / answer_name(request.call)
        if given.exists():
            if files.read_bounded(earlier, gap.MAX_REQUEST_BYTES) != data:
                advice = "each question of a run is answered once: invite it again"
                raise _refused("once", f"the request {request.call} that was answered", "another one", advice)
            return files.read_bounded(given, gap.MAX_ANSWER_BYTES)
        # 3. The question itself, appraised by the policy.
        if isinstance(request.question, Register):
            if now > validity.read_time(invitation.expires):
                raise _refused("expired", f"a request before {invitation.expires}", validity.write_time(now))
            said: Registered | Concluded = canonical.parse(
                Registered, _desk(lab, request, judge).answer(_text(request)), "answer"
            )
        else:
            said = canonical.parse(Concluded, _resumed(lab, folder, judge).answer(_text(request)), "answer")
        # 4. What was said is kept before anybody is told.
        result = Answer(challenge=request.challenge, request=digest_of(data), answer=said)
        text = gap.seal_answer(result, lab.log.sign)
        files.write_file(earlier, data, mode=0o600)
        files.write_file(given, text, mode=0o600)
    return text


def read_job(shown: Shown) -> Job:
    """The job that a run shows. Raises `MalformedInput`."""
    the_job = canonical.parse(Job, shown.job, "job")
    if job.dump(the_job) != shown.job:
        raise MalformedInput("job", "expected canonical JSON, found another spelling of it")
    return the_job


def _desk(lab: Lab, first: Request, judge: Judge) -> Desk:
    """A desk for the run that asks `first`: of its job and lock, and no other."""
    assert first.shown is not None  # `Request` sees to that
    shown, the_job = first.shown, read_job(first.shown)
    appraiser = judge(first.challenge, shown.wall)
    return Desk(
        lab,
        Expected(
            job_digest=job.digest(the_job),
            nonce=the_job.nonce,
            wall=shown.wall,
            lock_digest=digest_of(shown.lock),
            measurement=eventlog.measurement(lockfile.expected_log(shown.lock).registers),
            appraise=appraiser.first,
            accept=appraiser.end,
        ),
    )


def _resumed(lab: Lab, folder: Path, judge: Judge) -> Desk:
    """The desk that answered the run's first question."""
    try:
        said = gap.read_answer(files.read_bounded(folder / answer_name("register"), gap.MAX_ANSWER_BYTES)).answer
        first = gap.read_request(files.read_bounded(folder / request_name("register"), gap.MAX_REQUEST_BYTES))
    except FileNotFoundError:
        raise _refused("order", "a run that was registered", "its end", "answer its first request first") from None
    assert isinstance(said, Registered) and isinstance(first.question, Register)  # as `answer` wrote them
    desk = _desk(lab, first, judge)
    desk.resume(first.question, said.receipt)
    return desk


def _text(request: Request) -> bytes:
    return canonical.dump_model(request.question)


def _refused(code: str, expected: object, found: object, advice: str = "") -> VerificationError:
    return VerificationError(gap.LAYER, code, expected=expected, found=found, advice=advice)
