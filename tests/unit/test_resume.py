"""Going on with a run: only with what the lab vouches for, however the folder was cut off or changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from appliance import resume
from appliance.resume import Drawn, Marks
from appliance.transcript import TranscriptWriter
from attest import canonical, transcript
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError, VitrineError
from attest.manifest import ContainerSection, EarlierAttempt, ExecutionManifest
from tests.tools.manifests import MANIFEST

KEY = bytes(range(32))
DRAWN = Drawn(job_digest=digest_of(b"job"), lock_digest=digest_of(b"lock"), measurement="00" * 32)
RECORDS = [canonical.dumps({"id": str(number)}) for number in range(5)]
CONTAINER = ContainerSection(image=digest_of(b"image"), plan=digest_of(b"plan"), runtime="runc")


def write(folder: Path, records: list[bytes] = RECORDS, close: bool = False, attempt: int = 3) -> Path:
    folder.mkdir()
    with TranscriptWriter(folder / resume.TRANSCRIPT, Marks(folder, KEY, DRAWN, attempt)) as writer:
        writer.open({"job": "x"})
        for record in records:
            writer.sample(record)
        if close:
            writer.close({"ended_by": "failed"})
    return folder


@pytest.mark.parametrize("close", [False, True])
def test_what_was_written_is_taken_up(tmp_path: Path, close: bool) -> None:
    found = resume.take_up(write(tmp_path / "a", close=close), KEY, DRAWN)
    assert (found.attempts, found.records) == ((EarlierAttempt(attempt=3, samples=5),), RECORDS)


def test_a_resumed_transcript_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", close=True)
    earlier = resume.take_up(write(tmp_path / "part", RECORDS[:2]), KEY, DRAWN)
    folder = tmp_path / "again"
    folder.mkdir()
    with TranscriptWriter(folder / resume.NEW, Marks(folder, KEY, DRAWN, 4, earlier.attempts)) as writer:
        resume.begin(writer, folder, {"job": "x"}, earlier)
        for record in RECORDS[2:]:
            writer.sample(record)
        writer.close({"ended_by": "failed"})
    assert (folder / resume.TRANSCRIPT).read_bytes() == (whole / resume.TRANSCRIPT).read_bytes()
    drew = [(each.attempt, each.samples) for each in resume.take_up(folder, KEY, DRAWN).attempts]
    assert drew == [(3, 2), (4, 3)]


@given(cut=st.integers(0, 2000))
@settings(max_examples=60, deadline=None)
def test_a_transcript_cut_anywhere_is_taken_up_to_its_mark_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = write(tmp_path_factory.mktemp("cut") / "a", RECORDS[:3])
    path = folder / resume.TRANSCRIPT
    marked = path.stat().st_size
    lines = path.read_bytes()
    path.write_bytes(
        (lines + transcript.frame_line("sample", digest_of(lines.split(b"\n")[3]), b"{}", 4) + b"\n")[:cut]
    )
    if cut < marked:
        with pytest.raises(VitrineError):
            resume.take_up(folder, KEY, DRAWN)
    else:
        assert resume.take_up(folder, KEY, DRAWN).records == RECORDS[:3]


def test_samples_that_nobody_vouches_for_are_drawn_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", RECORDS[:3])
    mark = (folder / resume.MARK).read_bytes()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    write(tmp_path / "a", RECORDS)
    (folder / resume.MARK).write_bytes(mark)
    assert resume.take_up(folder, KEY, DRAWN).records == RECORDS[:3]


@pytest.mark.parametrize("field", ["job_digest", "lock_digest", "measurement", "wall", "container"])
def test_what_was_drawn_by_something_else_is_refused(tmp_path: Path, field: str) -> None:
    found = {"wall": "container", "container": CONTAINER}.get(field, digest_of(b"other"))
    other = DRAWN.model_copy(update={field: found})
    with pytest.raises(VerificationError) as caught:
        resume.take_up(write(tmp_path / "a"), KEY, other)
    assert (caught.value.layer, caught.value.code) == ("resume", "mark")


def test_another_labs_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationError):
        resume.take_up(write(tmp_path / "a"), bytes(32), DRAWN)


@pytest.mark.parametrize(
    "change",
    [{"attempts": [{"attempt": 3, "samples": 4}]}, {"attempts": []}, {"head": digest_of(b"x")}, {"mac": "00" * 32}],
)
def test_a_changed_mark_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = write(tmp_path / "a")
    path = folder / resume.MARK
    path.write_bytes(canonical.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(VerificationError):
        resume.take_up(folder, KEY, DRAWN)


def test_a_changed_or_replaced_sample_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    other = write(tmp_path / "b", [*RECORDS[:2], b'{"id":"x"}', *RECORDS[3:]])
    (folder / resume.TRANSCRIPT).write_bytes((other / resume.TRANSCRIPT).read_bytes())
    with pytest.raises(VerificationError) as caught:
        resume.take_up(folder, KEY, DRAWN)
    assert caught.value.code == "transcript"


@pytest.mark.parametrize("name", [resume.MARK, resume.TRANSCRIPT])
def test_a_missing_file_is_told(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "a")
    (folder / name).unlink()
    with pytest.raises(MalformedInput, match="Start anew"):
        resume.take_up(folder, KEY, DRAWN)


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_mark_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = write(tmp_path_factory.mktemp("mark") / "a", RECORDS[:1])
    (folder / resume.MARK).write_bytes(data)
    with pytest.raises(VitrineError):
        resume.take_up(folder, KEY, DRAWN)


def test_samples_are_not_forgotten_silently(tmp_path: Path) -> None:
    resume.refuse_to_forget(tmp_path / "none")
    resume.refuse_to_forget(write(tmp_path / "empty", []))
    with pytest.raises(EnvironmentProblem, match=r"5 finished samples.*--resume .*a, or start anew"):
        resume.refuse_to_forget(write(tmp_path / "a"))


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", [])
    with resume.held(folder), pytest.raises(EnvironmentProblem, match="another run"):
        resume.refuse_to_forget(folder)
    resume.refuse_to_forget(folder)


def test_only_samples_and_their_mark_are_kept(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / resume.NEW).write_bytes(b"half a line")
    (folder / "unsigned").mkdir()
    (folder / "unsigned" / "results.json").write_bytes(b"{}")
    resume.clear(folder)
    assert {path.name for path in folder.iterdir()} == {resume.TRANSCRIPT, resume.MARK}


def test_samples_of_another_plan_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    earlier = resume.take_up(folder, KEY, DRAWN)
    with TranscriptWriter(folder / resume.NEW) as writer, pytest.raises(VerificationError, match="plan"):
        resume.begin(writer, folder, {"job": "y"}, earlier)


def manifest_of(*earlier: tuple[int, int], **fields: object) -> ExecutionManifest:
    """A manifest of attempt 5 with four samples, whose first ones earlier attempts drew: numbers and counts."""
    resumed = [{"attempt": attempt, "samples": samples} for attempt, samples in earlier]
    script = {**MANIFEST["transcript"], "samples": 4}
    job = {**MANIFEST["job"], "attempt": 5}
    return ExecutionManifest.model_validate_json(
        json.dumps({**MANIFEST, "job": job, "transcript": script, "resumed": resumed, **fields})
    )


def test_a_manifest_says_which_attempts_drew_what() -> None:
    assert [each.samples for each in manifest_of((1, 2), (4, 2)).resumed or ()] == [2, 2]


@pytest.mark.parametrize("earlier", [[(4, 1), (1, 1)], [(1, 1), (1, 1)], [(5, 1)], [(6, 1)], [(1, 5)], [(1, 0)], []])
def test_attempts_that_cannot_have_been_taken_up_are_refused(earlier: list[tuple[int, int]]) -> None:
    with pytest.raises(ValidationError):
        manifest_of(*earlier)


def test_hardware_does_not_speak_for_samples_drawn_before_it_was_asked() -> None:
    with pytest.raises(ValidationError, match="hardware"):
        manifest_of((1, 1), evidence=["tpm"])
