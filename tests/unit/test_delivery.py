"""Delivery: a bundle leaves a wall by its files' names, within its bounds and the memory that its files need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.enclave import delivery
from attest.cli import read_bundle
from attest.errors import MalformedInput
from tests.conftest import ROOT, Made

GIB = 1 << 30
COLLECT = f"""
import resource, sys
from pathlib import Path
from appliance.enclave import delivery
resource.setrlimit(resource.RLIMIT_AS, ({GIB}, {GIB}))
sys.exit(0 if set(delivery.collect(Path(sys.argv[1]))) == set(delivery.NAMES) else 3)
"""


def test_a_small_bundle_needs_little_memory(tmp_path: Path) -> None:
    """The bound on a bundle is more than many hosts have; reading a file must not ask for so much."""
    assert delivery.MAX_DELIVERY_BYTES > GIB
    for name in delivery.NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"{}")
    done = subprocess.run([sys.executable, "-c", COLLECT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bundle_over_the_channel_is_the_same(made: Made) -> None:
    inbox = delivery.Inbox()
    delivery.send_bundle(made.bundle, lambda _kind, payload, _route: inbox.take(payload))
    assert inbox.bundle() == read_bundle(made.bundle) == delivery.collect(made.bundle)
    assert inbox.incomplete() == {}


def test_what_an_incomplete_run_left_comes_over_the_channel(tmp_path: Path) -> None:
    folder = tmp_path / "bundle.incomplete"
    folder.mkdir()
    left = {"failure.txt": b"why", "transcript.jsonl": b"{}"}
    for name, data in (left | {"other": b"covert"}).items():
        (folder / name).write_bytes(data)
    inbox = delivery.Inbox()
    delivery.send_incomplete(tmp_path / "bundle", lambda _kind, payload, _route: inbox.take(payload))
    assert inbox.incomplete() == delivery.collect_incomplete(folder) == left


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],
        [b"results.json"],
        [b"../results.json\0x"],
        [b"evidence/more.json\0x"],
        [b"results.json\0x", b"evidence/job.json\0x"],
        [b"results.json\0" + b"x" * 101],
        [b"results.json\0" + b"x" * 60, b"results.json\0" + b"x" * 60],
        [b"\xff\0x"],
    ],
)
def test_pieces_out_of_bounds_are_refused(pieces: list[bytes]) -> None:
    inbox = delivery.Inbox(max_bytes=100)
    with pytest.raises(MalformedInput):
        for piece in pieces:
            inbox.take(piece)
        raise AssertionError("taken")


def test_missing_file_is_no_bundle() -> None:
    inbox = delivery.Inbox()
    inbox.take(b"results.json\0{}")
    with pytest.raises(MalformedInput, match="missing are"):
        inbox.bundle()


@pytest.mark.parametrize("trick", ["link", "folder", "pipe", "link-above", "huge"])
def test_output_folder_full_of_tricks_gives_nothing_away(made: Made, tmp_path: Path, trick: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the host's")
    out = tmp_path / "bundle"
    shutil.copytree(made.bundle, out)
    target = out / "results.json"
    if trick == "link-above":
        shutil.move(out / "evidence", tmp_path / "evidence")
        (out / "evidence").symlink_to(tmp_path / "evidence")
    else:
        target.unlink()
    if trick == "link":
        target.symlink_to(secret)
    elif trick == "folder":
        target.mkdir()
    elif trick == "pipe":
        os.mkfifo(target)
    elif trick == "huge":
        with target.open("wb") as file:
            file.truncate(delivery.MAX_DELIVERY_BYTES + 1)
    with pytest.raises(MalformedInput):
        delivery.collect(out)


def test_other_files_stay_behind(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "notes.txt").write_text("covert")
    (tmp_path / "bundle" / "evidence" / "more.json").write_text("{}")
    assert delivery.collect(tmp_path / "bundle") == read_bundle(made.bundle)


def test_files_are_bounded_together(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them alone is small enough."""
    sizes = [len(data) for data in read_bundle(made.bundle).values()]
    monkeypatch.setattr(delivery, "MAX_DELIVERY_BYTES", sum(sizes) - 1)
    assert max(sizes) < sum(sizes) - 1
    with pytest.raises(MalformedInput, match="at most"):
        delivery.collect(made.bundle)
    for name in delivery.INCOMPLETE:
        (tmp_path / name).write_bytes(b"x" * ((sum(sizes) - 1) // len(delivery.INCOMPLETE)))
    assert set(delivery.collect_incomplete(tmp_path)) == set(delivery.INCOMPLETE)
    with (tmp_path / delivery.INCOMPLETE[0]).open("ab") as file:
        file.write(b"x" * len(delivery.INCOMPLETE))
    with pytest.raises(MalformedInput, match="at most"):
        delivery.collect_incomplete(tmp_path)
