"""Folders of runs: gone with the run, and those of killed runs with the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.enclave import leftovers

PREFIX = ".bundle.wall-"
HOLD = """
import sys, time
from pathlib import Path
from appliance.enclave import leftovers
with leftovers.private_folder(sys.argv[1], Path(sys.argv[2])) as folder:
    (folder / "transcript").write_text("so far")
    print(folder, flush=True)
    time.sleep(60)
"""


def aged(folder: Path) -> None:
    """Make it look as old as one whose run had the time to lock it."""
    os.utime(folder, (0, 0))


def test_a_folder_is_private_and_gone_after_its_run(tmp_path: Path) -> None:
    with leftovers.private_folder(PREFIX, tmp_path) as folder:
        (folder / "file").write_text("x")
        assert folder.stat().st_mode & 0o777 == 0o700
        aged(folder)
        assert leftovers.find(PREFIX, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_by_the_next_and_not_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, PREFIX, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        aged(left)
        with leftovers.private_folder(PREFIX, tmp_path):
            assert (left / "transcript").is_file()  # its run lives
        process.send_signal(signal.SIGKILL)
    assert left.is_dir()
    aged(left)
    assert leftovers.find(PREFIX, tmp_path) == [left]
    with leftovers.private_folder(PREFIX, tmp_path):
        assert not left.exists()


@pytest.mark.parametrize("what", ["other name", "young", "link", "file"])
def test_what_is_no_leftover_stays(what: str, tmp_path: Path) -> None:
    path = tmp_path / ("bundle.wall-x" if what == "other name" else f"{PREFIX}x")
    target = tmp_path / "target"
    target.mkdir()
    if what == "link":
        path.symlink_to(target)
    elif what == "file":
        path.write_text("x")
    else:
        path.mkdir()
    for folder in (target, path):
        if what != "young":
            aged(folder)
    with leftovers.private_folder(PREFIX, tmp_path):
        pass
    assert path.exists()
    assert target.exists()
