"""Goes on with a run that was killed: what is on the disk is taken up only as far as the lab's own key vouches for it.

While a run writes its transcript it leaves a mark beside it after every sample: an HMAC over the chain's head, the
attempts and how many samples each drew, and what they were drawn by (job, lock, measured boot, wall), under a key that
only the lab has, and the controllers that it starts on this job. Whoever can write to the folder can therefore delete
finished samples, and not change, add or reorder one, nor pass off those of another job, machine, wall or image. The
samples drawn before are not drawn again; the same job gives the same ones.

A mark is a file of its own, replaced as a whole. It follows the transcript's line, so that after a crash the transcript
may be ahead of it by what was written last; that is drawn again. A run that goes on writes the samples that it takes up
to a new transcript, which then takes the place of the old one: the mark holds for both.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from appliance.transcript import TranscriptWriter
from attest import canonical, transcript
from attest.canonical import JSON, Model
from attest.digest import Digest, Hex32
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
from attest.manifest import ContainerSection, EarlierAttempt, Wall

SUFFIX = ".incomplete"
TRANSCRIPT = "transcript.jsonl"
NEW = "transcript.jsonl.new"
MARK = "resume.json"
LABEL = b"vitrine/resume/v1"
ANEW = "Start anew, without --resume"
SAMPLE_LINE = b'{"kind":"sample",'
POLL_S = 0.05
MAX_MARK_BYTES = 1 << 20
MAX_TRANSCRIPT_BYTES = 8 << 30


class Drawn(Model):
    """What samples are drawn by. All of it has to be the same for a run to go on with them."""

    job_digest: Digest
    """The job."""
    lock_digest: Digest
    """The lockfile."""
    measurement: str
    """The measured boot, hexadecimal."""
    wall: Wall = "process"
    """The wall that the run is behind."""
    container: ContainerSection | None = None
    """Of a container: image, plan and runtime."""


class Mark(Model):
    """What stands beside a transcript that is being written."""

    format: Literal["vitrine/resume/v1"] = "vitrine/resume/v1"
    """The format's name and version."""
    attempts: tuple[EarlierAttempt, ...]
    """The attempts that drew the samples it vouches for, in order."""
    head: Digest
    """The transcript's head with them."""
    mac: Hex32
    """HMAC-SHA-256 of the lab's key for this job over all of the above and what they were drawn by, hexadecimal."""

    @property
    def samples(self) -> int:
        """How many samples it vouches for."""
        return sum(each.samples for each in self.attempts)


@dataclass(frozen=True)
class Earlier:
    """What there is to go on with."""

    attempts: tuple[EarlierAttempt, ...] = ()
    """The attempts that drew the samples, in order."""
    records: list[bytes] = field(default_factory=list)
    """The sample records, in order; never parsed here."""
    opening: bytes | None = None
    """The record of the transcript's first line; None where there is no earlier run."""


class Marks:
    """Writes the marks of one run."""

    def __init__(
        self, folder: Path, key: bytes, drawn: Drawn, attempt: int, earlier: tuple[EarlierAttempt, ...] = ()
    ) -> None:
        self._folder = folder
        self._key = key
        self._drawn = drawn
        self._attempt = attempt
        self._earlier = earlier

    def mark(self, head: str, samples: int) -> None:
        """Vouch for `samples` samples that end in `head`, before anything else is written."""
        attempts = self._earlier
        if own := samples - sum(each.samples for each in attempts):
            attempts += (EarlierAttempt(attempt=self._attempt, samples=own),)
        mark = Mark(attempts=attempts, head=head, mac=_mac(self._key, self._drawn, attempts, head))
        new = self._folder / (MARK + ".new")
        with new.open("wb") as file:
            file.write(canonical.dump_model(mark))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._folder / MARK)


def incomplete(out: Path) -> Path:
    """The folder of a run while it has no bundle, which is to lie at `out`."""
    return out.with_name(out.name + SUFFIX)


@contextmanager
def held(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """This run alone writes to `folder`. Raises `EnvironmentProblem` while another one does, or without a folder.

    `patience_s`: how long to wait for another one to end.
    """
    end = time.monotonic() + patience_s
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentProblem(f"expected the folder of an incomplete run at {folder}: {error.strerror}") from None
    try:
        while not _locked(fd):
            if time.monotonic() >= end:
                raise EnvironmentProblem(f"another run is writing to {folder}: wait until it has ended, or end it")
            time.sleep(POLL_S)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def refuse_to_forget(folder: Path) -> None:
    """Raises `EnvironmentProblem` where `folder` holds finished samples of another run, or one is writing to it."""
    if not folder.is_dir():
        return
    with held(folder):
        try:
            with (folder / TRANSCRIPT).open("rb") as file:
                samples = sum(line.startswith(SAMPLE_LINE) and line.endswith(b"\n") for line in file)
        except OSError:
            return
        if samples:
            go_on = f"go on with them with --resume {folder}, or " if (folder / MARK).exists() else ""
            raise EnvironmentProblem(
                f"{folder} holds {samples} finished samples of an earlier run: {go_on}start anew by removing that "
                "folder, or with another --out"
            )


def make(folder: Path) -> None:
    """Make `folder` anew, empty, for its owner alone: what it will hold has prompts and completions in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)


def clear(folder: Path) -> None:
    """Remove what an earlier run left in `folder` besides its samples and their mark."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (TRANSCRIPT, MARK):
            path.unlink()


def begin(writer: TranscriptWriter, folder: Path, opening: JSON, earlier: Earlier) -> None:
    """Write the first line and the samples of `earlier`; the transcript in `folder` is that of `writer` from then on.

    `writer` writes to the file `NEW`. Raises `VerificationError` when the earlier run had another plan.
    """
    if earlier.opening is not None and canonical.dumps(opening) != earlier.opening:
        raise VerificationError(
            "resume", "plan", expected="the plan of the run that was cut off", found="another", advice=ANEW
        )
    writer.open(opening)
    writer.again(earlier.records)
    (folder / NEW).replace(folder / TRANSCRIPT)


def take_up(folder: Path, key: bytes, drawn: Drawn) -> Earlier:
    """What the run in `folder` left and the lab's `key` vouches for.

    Raises `MalformedInput` for what is no transcript or mark, `VerificationError` (layer `resume`) for one that is not
    this lab's or was not drawn by `drawn`.
    """
    mark = canonical.parse(Mark, _read(folder / MARK, MAX_MARK_BYTES), MARK)
    if not hmac.compare_digest(_mac(key, drawn, mark.attempts, mark.head), mark.mac):
        raise VerificationError(
            "resume",
            "mark",
            expected="samples of this lab, drawn by this job, lock, measured boot and wall",
            found="a mark that does not vouch for them",
            advice=f"Something differs from the run that was cut off, or the folder was changed. {ANEW}",
        )
    found = transcript.read_prefix(_read(folder / TRANSCRIPT, MAX_TRANSCRIPT_BYTES))
    records = [line.raw_record for line in found.samples[: mark.samples]]
    if len(records) < mark.samples or _head(found, mark.samples) != mark.head:
        raise VerificationError(
            "resume",
            "transcript",
            expected=f"{mark.samples} samples that end in {mark.head}",
            found=f"{len(records)} samples, and another end",
            advice=f"The transcript was changed after it was written. {ANEW}",
        )
    return Earlier(mark.attempts, records, found.lines[0].raw_record)


def _head(found: transcript.Transcript, samples: int) -> str:
    """The chain's head with the first `samples` samples."""
    head = transcript.genesis()
    for seq, line in enumerate(found.lines[: samples + 1]):
        head = transcript.line_digest(line.kind, head, line.raw_record, seq)
    return head


def _mac(key: bytes, drawn: Drawn, attempts: tuple[EarlierAttempt, ...], head: str) -> str:
    counted = [each.model_dump() for each in attempts]
    said = canonical.dumps({"attempts": counted, "head": head, **drawn.model_dump()})
    return hmac.digest(key, LABEL + b"\n" + said, "sha256").hex()


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise MalformedInput(
            str(path), f"expected a run that can be gone on with, found: {error.strerror}. {ANEW}"
        ) from None
    if len(data) > most:
        raise MalformedInput(str(path), f"expected at most {most} bytes, found more")
    return data
