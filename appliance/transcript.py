"""Writes the transcript: every line chained to the one before, flushed to the disk before the next is begun."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol

from attest import canonical, transcript
from attest.canonical import JSON
from attest.digest import digest_of


class Marker(Protocol):
    """Vouches for what was written, so that a run can go on after it was killed."""

    def mark(self, head: str, samples: int) -> None:
        """The chain's head with `samples` samples is ours."""


class Records(Protocol):
    """Where sample records go."""

    samples: list[bytes]
    """Those so far, in order."""

    def sample(self, record: bytes) -> None:
        """Take one. Raises `MalformedInput` where it has not the form it should have."""


class TranscriptWriter:
    """An open transcript file. Sample records are stored as the bytes that came, and never parsed here."""

    def __init__(self, path: Path, marker: Marker | None = None) -> None:
        self._file = path.open("xb")
        self._marker = marker
        self.head = transcript.genesis()
        self.samples: list[bytes] = []
        """The sample records so far, in order."""
        self._seq = 0

    def open(self, record: JSON) -> None:
        """Write the first line."""
        self._append("open", canonical.dumps(record))
        self._sync()

    def sample(self, record: bytes) -> None:
        """Write one sample record. Raises `MalformedInput` when it cannot stand in a line."""
        self._append("sample", record)
        self._sync()
        self.samples.append(record)
        self._mark()

    def again(self, records: list[bytes]) -> None:
        """Write the sample records of the run that this one goes on with."""
        for record in records:
            self._append("sample", record)
        self._sync()
        self.samples += records
        self._mark()

    def close(self, record: JSON) -> None:
        """Write the last line."""
        self._append("close", canonical.dumps(record))
        self._sync()
        self._file.close()

    def root(self, salt_key: bytes) -> str:
        """The root of the salted tree over the samples so far."""
        return transcript.root(self.samples, salt_key)

    def _append(self, kind: transcript.Kind, record: bytes) -> None:
        line = transcript.frame_line(kind, self.head, record, self._seq)
        self._file.write(line + b"\n")
        self.head, self._seq = digest_of(line), self._seq + 1

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _mark(self) -> None:
        if self._marker is not None:
            self._marker.mark(self.head, len(self.samples))

    def __enter__(self) -> TranscriptWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
