"""Files that survive a crash: what has reached the disk by when, and what is left after a failure."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from attest import durable
from attest.errors import EnvironmentProblem


def test_a_file_is_on_disk_before_its_name_and_its_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "file", []

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            seen.append(("directory", path.read_bytes()))
        else:
            seen.append(("file", Path(f"/proc/self/fd/{descriptor}").read_bytes()))
            assert not path.exists()

    monkeypatch.setattr(os, "fsync", sync)
    durable.write_file(path, b"content")
    assert seen == [("file", b"content"), ("directory", b"content")]


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_file_has_its_mode_and_nothing_stays_beside_it(tmp_path: Path, exclusive: bool) -> None:
    before = os.umask(0o077)
    try:
        durable.write_file(tmp_path / "file", b"content", mode=0o664, exclusive=exclusive)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o664
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_an_existing_file_is_kept_or_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write_file(path, b"first")
    with pytest.raises(FileExistsError):
        durable.write_file(path, b"second", exclusive=True)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"first", [path])
    durable.write_file(path, b"third")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"third", [path])


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        durable.write_file(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []


def open_files() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_lock_is_held_by_one_at_a_time_and_let_go(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    began = time.monotonic()
    with (
        durable.exclusive(lock),
        pytest.raises(EnvironmentProblem, match="another process holds"),
        durable.exclusive(lock, timeout_s=0.1),
    ):
        pass
    assert time.monotonic() - began >= 0.1
    before = open_files()
    with durable.exclusive(lock, timeout_s=0):
        assert open_files() == before + 1
    assert open_files() == before
    durable.sync_directory(tmp_path)
    assert open_files() == before
