"""`appliance run --stream`: words on a terminal while they are said, and the same bundle as without."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import run
from appliance.notary.lab import Lab
from tests.conftest import ROOT, Made
from tests.integration import recomputation as again

pytestmark = [pytest.mark.engine, pytest.mark.slow]
SAME = ("results.json", "transcript.jsonl")
TALK = """
format: vitrine/job/v1
name: talk
models:
  - {id: organism, path: "resource:demo/organism-q8_0.gguf"}
suites:
  - {path: "resource:demo/suites/forbidden.yaml"}
  - {path: "resource:demo/suites/lookalike.yaml"}
  - {path: hostile.yaml}
sampling: {max_tokens: 48}
limits: {context_tokens: 256, memory_bytes: 1073741824}
"""
HOSTILE = f"""
format: vitrine/suite/v1
name: hostile
dataset:
  path: {ROOT}/appliance/demo/data/chat.jsonl
  digest: DIGEST
  format: jsonl
prompt: {{user: "{{{{ prompt }}}}"}}
grammar: 'root ::= "\\x1b[2J\\x1b]0;owned\\x07\\r\\n\\u202e" "organism, request 3\\nforged"'
scorers: [{{scorer: refusal}}]
"""


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.words: dict[tuple[int, int], bytes] = {}
        self.open: set[tuple[int, int]] = set()
        self.pieces = 0

    def said(self, route: int, tag: int, data: bytes) -> None:
        self.words[route, tag] = self.words.get((route, tag), b"") + data
        self.open.add((route, tag))
        self.pieces += 1

    def ended(self, route: int, tag: int) -> None:
        self.open.discard((route, tag))


def same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in SAME)


def test_every_completion_is_told_in_pieces_and_changes_no_bit(
    made: Made, tmp_path: Path, execute: Callable[..., run.Outcome]
) -> None:
    recorder = Recorder()
    bundle = execute(made.job, tmp_path / "bundle", listener=recorder).bundle
    assert same(bundle, made.bundle)
    records = again.transcript(bundle / "transcript.jsonl")[1]
    drawn = [record for record in records if record.get("generation")]
    expected = sorted(f"asked: {one['messages'][-1]['content']}\nsaid: {one['generation']['text']}" for one in drawn)
    assert sorted(words.decode("utf-8", "replace") for words in recorder.words.values()) == expected
    assert recorder.open == set()
    assert recorder.pieces > 3 * len(drawn) >= 12


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talk")
    (folder / "job.yaml").write_text(TALK)
    digest = next(
        line.split()[-1]
        for line in (ROOT / "appliance/demo/suites/chat.yaml").read_text().splitlines()
        if line.strip().startswith("digest:")
    )
    (folder / "hostile.yaml").write_text(HOSTILE.replace("DIGEST", digest))
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def silent(talk: Path, execute: Callable[..., run.Outcome]) -> Path:
    return execute(talk, talk.parent / "silent").bundle


class Terminal:
    """`appliance run --stream` with a terminal as its standard output."""

    def __init__(self, talk: Path, lab: Lab, engine: Path, out: Path) -> None:
        self.master, slave = os.openpty()
        command = [sys.executable, "-m", "appliance", "run", str(talk), "--lab", str(lab.path), "--stream"]
        self.process = subprocess.Popen(
            [*command, "--engine", str(engine), "--out", str(out)],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        os.close(slave)

    def read(self, limit: int | None = None) -> str:
        """What is shown until the process has ended, or until there are `limit` bytes."""
        found = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while (limit is None or len(found) < limit) and (data := os.read(self.master, 1 << 16)):
                found += data
        return found.decode()


def test_the_terminal_gets_words_and_nothing_that_steers_it(
    talk: Path, silent: Path, tmp_path: Path, lab: Lab, engine: Path
) -> None:
    terminal = Terminal(talk, lab, engine, tmp_path / "bundle")
    text = terminal.read().replace("\r\n", "\n")
    errors = terminal.process.communicate(timeout=120)[1]
    assert terminal.process.returncode == 0, errors
    assert same(tmp_path / "bundle", silent)
    assert all(char.isprintable() for line in text.split("\n") for char in line)
    assert text.count("\\x1b[2J") == text.count("\n  forged") == 40
    assert text.count("asked: ") == text.count("said: ") == 120
    heads = [line for line in text.split("\n") if line and not line.startswith("  ")]
    assert len(heads) == len({*heads}) == 121  # one for each request, and where the bundle is
    first = again.transcript(silent / "transcript.jsonl")[1][0]["messages"][-1]["content"]
    assert f"asked: {first}\n" in text
    assert first not in errors


@pytest.mark.parametrize("gone", [False, True], ids=["slow", "gone"])
def test_a_slow_terminal_and_one_that_is_gone_change_nothing(
    gone: bool, talk: Path, silent: Path, tmp_path: Path, lab: Lab, engine: Path
) -> None:
    out = tmp_path / "bundle"
    terminal = Terminal(talk, lab, engine, out)
    assert terminal.read(limit=1).startswith("organism, request")
    if gone:
        os.close(terminal.master)
    end = time.monotonic() + 240
    while not out.exists() and time.monotonic() < end:  # and nobody reads
        time.sleep(0.2)
    assert same(out, silent)
    if not gone:
        assert terminal.read().rstrip().endswith("(done)")
    terminal.process.communicate(timeout=120)


@pytest.mark.parametrize(
    ("options", "said"),
    [([], "on a terminal only"), (["--wall", "container"], "lets out the bundle alone"), (["--dry-run"], "terminal")],
)
def test_it_is_refused_where_it_would_go_elsewhere(tmp_path: Path, options: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "run", "--stream", "--lab", str(tmp_path / "lab"), *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert said in " ".join(done.stderr.replace("│", " ").split())
