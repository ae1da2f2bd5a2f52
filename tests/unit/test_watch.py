"""Watching a run: what is shown of its transcript, and that nothing in it steers a terminal."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import watch
from appliance.transcript import TranscriptWriter
from attest import canonical
from attest.errors import EnvironmentProblem, MalformedInput
from attest.sample import SampleRecord, ToolCall
from tests.conftest import ROOT
from tests.fakes.models import REFUSED, attacked, refuses

ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202e\u200b\r"


def records(text: str = REFUSED) -> list[SampleRecord]:
    strategies = [{"strategy": "direct"}, {"strategy": "chain_of_thought"}]
    return attacked(strategies, lambda _: text, rows=[{"prompt": "do it"}, {"prompt": ESCAPES}])[0]


def write(folder: Path, found: list[SampleRecord], *, close: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "transcript.jsonl"
    with TranscriptWriter(path) as writer:
        writer.open({"job": "x", "plan": []})
        for record in found:
            writer.sample(canonical.dump_model(record))
        if close:
            writer.close({"ended_by": "done"})
    return path


def test_every_turn_of_every_sample_is_shown(tmp_path: Path) -> None:
    found = list(watch.samples(write(tmp_path, records()), follow=False))
    assert len(found) == 4
    assert found[1].startswith("target  red  000000@chain_of_thought\n  target asked (think): do it\n")
    assert found[1].count(f"target said: {REFUSED}") == 2
    assert found[1].endswith("  refusal: 1")


@given(st.text(max_size=50))
def test_nothing_that_is_shown_steers_a_terminal_or_looks_like_another_sample(text: str) -> None:
    hostile = text + ESCAPES + "\ntarget  red  forged"
    call = ToolCall(name=hostile, arguments=hostile, result=hostile)
    for record in records(hostile):
        labelled = [event.model_copy(update={"label": hostile}) for event in record.events]
        changed = record.model_copy(update={"id": hostile, "events": (*labelled, call)})
        first, *rest = watch.told(changed).split("\n")
        assert first.startswith("target  red  ")
        assert all(line.startswith("  ") for line in rest if line)
        assert all(char.isprintable() for line in (first, *rest) for char in line)


def test_a_failed_sample_and_a_long_text(tmp_path: Path) -> None:
    (failed,) = attacked([{"strategy": "direct"}], lambda _: None)[0]
    assert "failed: late" in watch.told(failed)
    (long,) = attacked([{"strategy": "direct"}], lambda _: "x" * 10_000)[0]
    assert "and 9400 more characters" in watch.told(long)


def test_it_follows_until_the_run_ends(tmp_path: Path) -> None:
    found = records()
    path = tmp_path / "transcript.jsonl"
    seen: list[str] = []
    writer = TranscriptWriter(path)
    writer.open({"job": "x", "plan": []})
    watcher = threading.Thread(target=lambda: seen.extend(watch.samples(path, follow=True)))
    watcher.start()
    for record in found:
        writer.sample(canonical.dump_model(record))
        time.sleep(0.05)
    assert watcher.is_alive()
    writer.close({"ended_by": "done"})
    watcher.join(10)
    assert not watcher.is_alive()
    assert seen == [watch.told(record) for record in found]


def test_where_a_transcript_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "b.incomplete", [])
    assert watch.find(tmp_path / "b") == watch.find(tmp_path / "b.incomplete") == watch.find(path) == path
    done = write(tmp_path / "b", [])
    assert watch.find(tmp_path / "b") == done
    with pytest.raises(EnvironmentProblem, match="expected a transcript"):
        watch.find(tmp_path / "c")


@pytest.mark.parametrize(
    "line",
    [b"x", b"{", b'{"kind":"sample"}', b'{"kind":"sample","record":{}}', b"\xff", b'{"kind":"sample","record":5}'],
)
def test_a_line_that_cannot_be_read(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(line + b"\n")
    with pytest.raises(MalformedInput):
        list(watch.samples(tmp_path / "t", follow=False))


def test_half_a_line_is_no_line_yet(tmp_path: Path) -> None:
    path = write(tmp_path, records(), close=False)
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    assert len(list(watch.samples(path, follow=False))) == 3


def test_the_command(tmp_path: Path) -> None:
    write(tmp_path, attacked([{"strategy": "direct"}], refuses)[0])
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "watch", str(tmp_path), "--no-follow"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("target  red  000000@direct\n  target asked (direct): do it\n  target said: ")
