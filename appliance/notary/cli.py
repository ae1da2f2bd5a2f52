"""`notary`: the lab's keys on a machine of their own, for runs that ask by file from across an air gap."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.commands.options import PassphraseOption, now
from appliance.notary import appraisal, gap, hold, keys, office
from appliance.notary import lab as labs
from appliance.notary.files import write_file
from appliance.notary.gap import Answer, Invitation, Request
from appliance.notary.lab import Lab
from appliance.notary.protocol import Register, Registered
from attest import canonical, console, job, lockfile, statement, validity
from attest.appraise_cli import show as show_appraisal
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput
from attest.files import read_file

app = typer.Typer(
    name="notary",
    help="Register, certify, log and time-stamp runs on other machines, by files, once a policy accepts them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

LabOption = Annotated[Path, typer.Option(help="The lab's folder, as `appliance init` makes it.")]
OutOption = Annotated[Path, typer.Option(help="The file to write; must not exist.")]


@app.callback()
def options() -> None:
    """Register, certify, log and time-stamp runs on other machines, by files, once a policy accepts them."""
    hold.hold()


@app.command()
def invite(
    out: OutOption,
    lab: LabOption = Path("lab"),
    days: Annotated[int, typer.Option(min=1, max=office.MAX_DAYS, help="How long its first request is taken.")] = 30,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Invite one run: a file with the lab's trust root, and random bytes that the run's evidence has to bear.

    Example:

        notary invite --lab lab --out invitation.json
    """
    _refuse_existing(out)
    opened = _open(lab, passphrase_file)
    _put(out, office.invite(opened, days=days, now=now()))
    console.OUT.print(f"wrote {out}: good for one run, and a first request within {days} days")


@app.command()
def appraise(
    request: Annotated[Path, typer.Argument(help="A run's request, from `appliance enroll request`.")],
    policy_file: Annotated[
        Path, typer.Option("--policy", help="What the lab requires of a run: lab, auditor, partner, or a file.")
    ],
    out: OutOption,
    lab: LabOption = Path("lab"),
    capsule_file: Annotated[Path | None, typer.Option("--capsule", help="Collateral, see `attest capsule`.")] = None,
    as_of: Annotated[
        str | None, typer.Option(help="Judge evidence as of 2026-01-31T12:00:00Z; now by default.")
    ] = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Judge a run by the policy. When it holds: register it (first request), or certify and log it (second request).

    Exit codes: 0 answered, 10 refused, 20 unsupported, 30 malformed. What is refused is neither logged nor answered.

    Example:

        notary appraise register.request.json --lab lab --policy lab.toml --out answer.json
    """
    _refuse_existing(out)
    data = read_file(request, gap.MAX_REQUEST_BYTES)
    opened = _open(lab, passphrase_file)
    moment = validity.read_time(as_of) if as_of else now()
    judge = appraisal.by_files(opened, policy_file, capsule_file, lambda: moment, show_appraisal)
    text = office.answer(opened, data, judge, now=now())
    _put(out, text)
    _show_answer(gap.read_answer(text))
    console.OUT.print(f"wrote {out}: carry it back to the run")


@app.command()
def show(file: Annotated[Path, typer.Argument(help="An invitation, a request, or an answer.")]) -> None:
    """Print what a file says that is carried between a run and its notary. Nothing of it is verified.

    Example:

        notary show register.request.json
    """
    data = read_file(file, max(gap.MAX_INVITATION_BYTES, gap.MAX_REQUEST_BYTES, gap.MAX_ANSWER_BYTES))
    value = canonical.loads(data, str(file))
    readers = {
        gap.INVITATION: lambda: _show_invitation(gap.read_invitation(data)),
        gap.REQUEST: lambda: _show_request(gap.read_request(data)),
        gap.ANSWER: lambda: _show_answer(gap.read_answer(data)),
    }
    found = value.get("format") if isinstance(value, dict) else None
    if not isinstance(found, str) or found not in readers:
        raise MalformedInput(str(file), f"expected one of {sorted(readers)}, found {str(found)[:80]!r}")
    readers[found]()


def _show_invitation(invitation: Invitation) -> None:
    _line("run", invitation.challenge)
    _line("lab", invitation.lab)
    _line("trust root", digest_of(invitation.trusted_root))
    _line("expires", invitation.expires)


def _show_request(request: Request) -> None:
    _line("run", request.challenge)
    _line("asks to", request.call)
    question = request.question
    if isinstance(question, Register) and request.shown is not None:
        the_job, lock = office.read_job(request.shown), lockfile.read(request.shown.lock)
        shown = question.enrolment.evidence
        _line("job", f"{the_job.name} {job.digest(the_job)}")
        _line("nonce", the_job.nonce or "none")
        _line("lock", f"version {lock.version}, {len(lock.artifacts)} artifacts, {digest_of(request.shown.lock)}")
        _line("wall", request.shown.wall)
        _line("evidence", ", ".join(shown.platforms) if shown else "none")
    elif not isinstance(question, Register):
        manifest = statement.read(question.payload).predicate
        _line("job", f"{manifest.job.name} {manifest.job.digest}")
        _line("attempt", str(manifest.job.attempt))
        _line("identity", question.identity)
        _line("samples", f"{manifest.counts.run} of {manifest.counts.planned}, {manifest.counts.failed} failed")
        _line("ended", f"{manifest.ended} ({manifest.ended_by})")


def _show_answer(answer: Answer) -> None:
    _line("run", answer.challenge)
    _line("answers", answer.request)
    if isinstance(answer.answer, Registered):
        intent = answer.answer.receipt.intent
        _line("registered", f"attempt {intent.attempt} at {intent.job_digest}, {intent.time}")
        _line("log entry", str(answer.answer.receipt.log_index))
    else:
        _line("certified", "the run's key; its signature is logged and time-stamped")


def _line(name: str, text: str) -> None:
    console.OUT.print(f"{name:<12}{console.printable(text)}")


def _open(lab: Path, passphrase_file: Path | None) -> Lab:
    return labs.open_lab(lab, keys.read_passphrase(passphrase_file), now=now)


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise EnvironmentProblem(f"{out} exists already: name another file with --out, or remove it")


def _put(out: Path, data: bytes) -> None:
    write_file(out, data, mode=0o600, exclusive=True)


def main() -> None:
    """Entry point of the console script."""
    console.run(app, "notary")


if __name__ == "__main__":
    main()
