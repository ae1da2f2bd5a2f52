"""The notary as a run sees it whose lab is on another machine: each question becomes a file, and so does its answer.

    DIR/invitation.json
        register.request.json   register.answer.json
        conclude.request.json   conclude.answer.json
        held                    locked by the process that has the boot key
        bundle                  the bundle, in the end; until then, bundle.incomplete

The process waits until an answer lies there; people carry the files. What is taken is checked again by whom it is for.
The boot key lives in the waiting process alone. It is needed until the statement is signed: from then on the run waits
as a bundle without its signature, and can be finished without the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.notary import files, gap
from appliance.notary.gap import Invitation, Request, Shown, answer_name, request_name
from appliance.notary.protocol import Call, Conclude, Concluded, Register
from appliance.notary.remote import AskingNotary, M
from attest import canonical
from attest.errors import EnvironmentProblem

INVITATION = "invitation.json"
HELD = "held"
BUNDLE = "bundle"
POLL_S = 0.2

Wait = Callable[[Path, float], None]
"""Told, while an answer is waited for: the request's path, and for how many seconds by now."""


class CarriedNotary(AskingNotary):
    """A `Notary` whose questions and answers are files in a folder; it waits for each answer. `ask` makes the folder.

    Raises as `gap.check_answer`.
    """

    def __init__(self, folder: Path, invitation: Invitation, shown: Shown, waiting: Wait) -> None:
        super().__init__(invitation.lab, invitation.trusted_root, invitation.challenge)
        self._folder = folder
        self._invitation = invitation
        self._shown = shown
        self._waiting = waiting

    def _put(self, question: Register | Conclude, answer: type[M]) -> M:
        shown = self._shown if isinstance(question, Register) else None
        request = Request(challenge=self._invitation.challenge, shown=shown, question=question)
        data, path = canonical.dump_model(request), self._folder / request_name(request.call)
        files.write_file(path, data, mode=0o600, exclusive=True)
        place, began = self._folder / answer_name(request.call), time.monotonic()
        while not place.exists():
            self._waiting(path, time.monotonic() - began)
            time.sleep(POLL_S)
        found = gap.check_answer(files.read_bounded(place, gap.MAX_ANSWER_BYTES), data, self._invitation).answer
        assert isinstance(found, answer)  # `check_answer` has compared the kinds
        return found


@contextmanager
def ask(folder: Path, invitation_data: bytes, shown: Shown, waiting: Wait) -> Iterator[CarriedNotary]:
    """A notary whose questions go through the new folder `folder`, held by this process while it is used.

    Raises `EnvironmentProblem` for a folder that exists, `MalformedInput` for an invitation that is none.
    """
    invitation = gap.read_invitation(invitation_data)
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise EnvironmentProblem(f"{folder} exists already: each run has a folder of its own, name another") from None
    files.write_file(folder / INVITATION, invitation_data, mode=0o600)
    with files.exclusive(folder / HELD):
        yield CarriedNotary(folder, invitation, shown, waiting)


@dataclass(frozen=True)
class Accepted:
    """An answer that was taken."""

    call: Call
    """The question that it answers."""
    waiting: bool
    """Whether the process that asked is there to go on."""
    bundle: bytes
    """Of the last answer, the Sigstore bundle; empty for the first."""


def accept(folder: Path, data: bytes) -> Accepted:
    """Check the answer in `data` to the last request in `folder`, and put it there for the process that waits.

    Raises `VerificationError`, `MalformedInput`; then nothing was put there. `EnvironmentProblem` where the answer is
    of no use any more: it registers a run whose process, and boot key, are gone.
    """
    invitation = gap.read_invitation(_read(folder / INVITATION, gap.MAX_INVITATION_BYTES))
    last: Call = "conclude" if (folder / request_name("conclude")).exists() else "register"
    request = _read(folder / request_name(last), gap.MAX_REQUEST_BYTES)
    said = gap.check_answer(data, request, invitation).answer
    if (folder / BUNDLE).exists():
        raise EnvironmentProblem(f"{folder / BUNDLE} exists already: the run is complete")
    held = is_held(folder)
    if last == "register" and not held:
        raise EnvironmentProblem(
            f"the process that made {folder / request_name(last)} is gone, and the run's key with it: make a new "
            "request, with a new invitation"
        )
    files.write_file(folder / answer_name(last), data, mode=0o600)
    return Accepted(last, held, said.bundle if isinstance(said, Concluded) else b"")


def is_held(folder: Path) -> bool:
    """Whether the process that made `folder` is still there."""
    try:
        with files.exclusive(folder / HELD, timeout_s=0):
            return False
    except EnvironmentProblem:
        return True


def _read(path: Path, limit: int) -> bytes:
    try:
        return files.read_bounded(path, limit)
    except FileNotFoundError:
        raise EnvironmentProblem(
            f"expected {path}, found nothing: name the folder that `appliance enroll request` made with --out"
        ) from None
