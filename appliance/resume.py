"""Goes on with a run that was killed: what is on the disk is taken up only as far as the lab's own key vouches for it.

While a run writes its transcript it leaves a mark beside it after every sample: an HMAC over the chain's head, the
number of samples, and what they were drawn by (job, lock, measured boot), under a key that only the lab has. Whoever
can write to the folder can therefore delete finished samples, and not change, add or reorder one, nor pass off those of
another job or another machine. The samples drawn before are not drawn again; the same job gives the same ones.

A mark is a file of its own, replaced as a whole. It follows the transcript's line, so that after a crash the transcript
may be ahead of it by what was written last; that is drawn again.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from attest import canonical, transcript
from attest.canonical import Model
from attest.digest import Digest, Hex32
from attest.errors import MalformedInput, VerificationError

TRANSCRIPT = "transcript.jsonl"
MARK = "resume.json"
LABEL = b"vitrine/resume/v1"
MAX_MARK_BYTES = 4096
MAX_TRANSCRIPT_BYTES = 8 << 30


class Drawn(Model):
    """What samples are drawn by. All of it has to be the same for a run to go on with them."""

    job_digest: Digest
    """The job."""
    lock_digest: Digest
    """The lockfile."""
    measurement: str
    """The measured boot, hexadecimal."""


class Mark(Model):
    """What stands beside a transcript that is being written."""

    format: str = "vitrine/resume/v1"
    """The format's name and version."""
    attempt: int
    """The attempt that drew the newest sample."""
    samples: int
    """How many samples it vouches for."""
    head: Digest
    """The transcript's head with them."""
    mac: Hex32
    """HMAC-SHA-256 of the lab's key for this job over all of the above and what they were drawn by, hexadecimal."""


@dataclass(frozen=True)
class Earlier:
    """What there is to go on with."""

    attempt: int
    """The attempt that drew the newest of the samples."""
    records: list[bytes]
    """The sample records, in order; never parsed here."""


class Marks:
    """Writes the marks of one run."""

    def __init__(self, folder: Path, key: bytes, drawn: Drawn, attempt: int) -> None:
        self._folder = folder
        self._key = key
        self._drawn = drawn
        self._attempt = attempt

    def mark(self, head: str, samples: int) -> None:
        """Vouch for `samples` samples that end in `head`, before anything else is written."""
        mac = _mac(self._key, self._drawn, self._attempt, head, samples)
        mark = Mark(attempt=self._attempt, samples=samples, head=head, mac=mac)
        new = self._folder / (MARK + ".new")
        with new.open("wb") as file:
            file.write(canonical.dump_model(mark))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._folder / MARK)


def take_up(folder: Path, key: bytes, drawn: Drawn) -> Earlier:
    """What the run in `folder` left and the lab's `key` vouches for.

    Raises `MalformedInput` for what is no transcript or mark, `VerificationError` (layer `resume`) for one that is not
    this lab's or was not drawn by `drawn`.
    """
    mark = canonical.parse(Mark, _read(folder / MARK, MAX_MARK_BYTES), MARK)
    if mark.format != Mark.model_fields["format"].default:
        raise MalformedInput(MARK, f"expected format {Mark.model_fields['format'].default}, found {mark.format!r:.80}")
    expected = _mac(key, drawn, mark.attempt, mark.head, mark.samples)
    if not hmac.compare_digest(expected, mark.mac):
        raise VerificationError(
            "resume",
            "mark",
            expected="samples of this lab, drawn by this job, lock and measured boot",
            found="a mark that does not vouch for them",
            advice="Something differs from the run that was cut off, or the folder was changed: start anew without it",
        )
    found = transcript.read_prefix(_read(folder / TRANSCRIPT, MAX_TRANSCRIPT_BYTES))
    records = [line.raw_record for line in found.samples[: mark.samples]]
    if len(records) < mark.samples or _head(found, mark.samples) != mark.head:
        raise VerificationError(
            "resume",
            "transcript",
            expected=f"{mark.samples} samples that end in {mark.head}",
            found=f"{len(records)} samples, and another end",
            advice="The transcript was changed after it was written: start anew without it",
        )
    return Earlier(mark.attempt, records)


def _head(found: transcript.Transcript, samples: int) -> str:
    """The chain's head with the first `samples` samples."""
    head = transcript.genesis()
    for seq, line in enumerate(found.lines[: samples + 1]):
        head = transcript.line_digest(line.kind, head, line.raw_record, seq)
    return head


def _mac(key: bytes, drawn: Drawn, attempt: int, head: str, samples: int) -> str:
    said = canonical.dumps({"attempt": attempt, "head": head, "samples": samples, **drawn.model_dump()})
    return hmac.digest(key, LABEL + b"\n" + said, "sha256").hex()


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise MalformedInput(
            str(path), f"expected a run that can be gone on with, found: {error.strerror}. Start it anew"
        ) from None
    if len(data) > most:
        raise MalformedInput(str(path), f"expected at most {most} bytes, found more")
    return data
