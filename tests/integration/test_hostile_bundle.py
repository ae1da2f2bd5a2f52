"""Every file of a real result bundle, changed in thousands of ways: what reads it gives our errors only.

No digest keeps a changed file from its reader here, as none does where a lab signs what it likes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest import bundle, canonical, eventlog, lockfile, log, seal, statement, transcript, trust, verify
from attest.cli import read_bundle
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.job import Job
from attest.results import Results
from attest.sample import SampleRecord
from tests.conftest import Made
from tests.fakes.mutate import MUTATIONS, mutated, mutated_json

pytestmark = pytest.mark.engine

STATEMENT = "statement"
SAMPLE = "sample"


def read_log(data: bytes) -> None:
    """A lock, and the registers that a boot with it must leave."""
    lockfile.expected_log(data)


def read_seal(data: bytes) -> None:
    """A report, and whether its probes were denied."""
    seal.check(seal.read(data))


READERS: dict[str, Callable[[bytes], object]] = {
    verify.SIGNATURE: bundle.read,
    STATEMENT: statement.read,
    verify.RESULTS: lambda data: canonical.parse(Results, data, "results"),
    verify.TRANSCRIPT: transcript.read,
    SAMPLE: lambda data: canonical.parse(SampleRecord, data, "sample"),
    verify.JOB: lambda data: canonical.parse(Job, data, "job"),
    verify.LOCK: read_log,
    verify.BOOT: eventlog.parse,
    verify.SEAL: read_seal,
    verify.INTENT: log.parse_receipt,
    verify.DISCLOSURE: lambda data: canonical.parse(transcript.Disclosure, data, "disclosure"),
    verify.TRUST: trust.read,
}
LINES = (verify.TRANSCRIPT, verify.BOOT, verify.LOCK)
"""What is no single JSON text."""


@pytest.fixture(scope="module")
def good(made: Made) -> dict[str, bytes]:
    """What each reader accepts."""
    files = read_bundle(made.bundle)
    files[STATEMENT] = bundle.read(files[verify.SIGNATURE]).envelope.payload
    files[SAMPLE] = transcript.read(files[verify.TRANSCRIPT]).samples[0].raw_record
    for name, read in READERS.items():
        read(files[name])
    return files


@pytest.mark.parametrize("name", READERS)
@MUTATIONS
@given(data=st.data())
def test_a_changed_file_gives_our_errors(good: dict[str, bytes], name: str, data: st.DataObject) -> None:
    changed = data.draw(mutated(good[name]) if name in LINES else mutated_json(good[name]))
    try:
        READERS[name](changed)
    except (MalformedInput, Unsupported, VerificationError) as error:
        assert len(str(error)) < 5_000


def test_every_file_is_read_here() -> None:
    assert {*verify.FILES, verify.SIGNATURE} - {*READERS} == {verify.ENGINE}
