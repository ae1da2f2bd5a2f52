"""The logs on disk: tiles, crashes, truncation, alteration, and two processes at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.notary import files, tiles
from appliance.notary.tiles import TileLog, tile_path
from attest import merkle
from attest.checkpoint import check_checkpoint
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError

pytestmark = pytest.mark.usefixtures("quick")

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = "log.lab.example"


def new(path: Path) -> TileLog:
    TileLog.create(path, NAME, KEY)
    return opened(path)


def opened(path: Path) -> TileLog:
    log = TileLog(path, NAME, KEY)
    with log.locked():
        pass
    return log


def grow(log: TileLog, count: int) -> None:
    with log.locked():
        log.extend([b"leaf %d" % (len(log) + index) for index in range(count)])


def damaged(path: Path) -> str:
    with pytest.raises(VerificationError) as caught:
        opened(path)
    assert caught.value.layer in ("notary", "log")
    return caught.value.code


def listing(path: Path) -> list[str]:
    return sorted(str(item.relative_to(path)) for item in (path / "tile").rglob("*") if item.is_file())


def test_paths_of_tiles() -> None:
    assert tile_path(0, 0) == "tile/0/000"
    assert tile_path(1, 7, 3) == "tile/1/007.p/3"
    assert tile_path("entries", 1_234_067) == "tile/entries/x001/x234/067"
    assert tile_path(0, 1000, 255) == "tile/0/x001/000.p/255"


def test_the_layout(tmp_path: Path) -> None:
    log = new(tmp_path / "log")
    grow(log, 3)
    assert listing(tmp_path / "log") == ["tile/0/000.p/3", "tile/entries/000.p/3"]
    entries = (tmp_path / "log" / "tile/entries/000.p/3").read_bytes()
    assert entries == b"".join(struct.pack("!H", 6) + b"leaf %d" % index for index in range(3))
    hashes = (tmp_path / "log" / "tile/0/000.p/3").read_bytes()
    assert hashes == b"".join(merkle.leaf_hash(b"leaf %d" % index) for index in range(3))
    assert (tmp_path / "log" / "checkpoint").read_text() == log.note
    grow(log, 253)
    assert listing(tmp_path / "log") == ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]
    grow(log, 257)
    assert listing(tmp_path / "log") == [
        *("tile/0/000", "tile/0/001", "tile/0/002.p/1", "tile/1/000.p/2"),
        *("tile/entries/000", "tile/entries/001", "tile/entries/002.p/1"),
    ]
    assert (tmp_path / "log" / "tile/1/000.p/2").read_bytes()[:32] == log.tree.root(256)


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 600])
def test_a_log_reopens_to_the_same_tree(tmp_path: Path, size: int) -> None:
    log = new(tmp_path / "log")
    grow(log, size)
    again = opened(tmp_path / "log")
    assert len(again) == size
    assert again.tree.root() == log.tree.root() == merkle.root(merkle.leaf_hash(b"leaf %d" % i) for i in range(size))
    assert check_checkpoint(again.note, log.identity).size == size
    grow(again, 1)
    grow(log, 1)
    assert len(opened(tmp_path / "log")) == size + 2


def test_one_by_one_is_as_good_as_all_at_once(tmp_path: Path) -> None:
    log = new(tmp_path / "one")
    for index in range(260):
        with log.locked():
            assert log.append(b"leaf %d" % index) == index
    grow(new(tmp_path / "all"), 260)
    assert listing(tmp_path / "one") == listing(tmp_path / "all")
    for name in listing(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
    assert len(opened(tmp_path / "one")) == 260


def test_leaves_have_bounds(tmp_path: Path) -> None:
    log = new(tmp_path / "log")
    with log.locked():
        for leaf in (b"", b"x" * 65536):
            with pytest.raises(MalformedInput, match="log leaf"):
                log.append(leaf)
        log.append(b"x" * 65535)
    assert len(opened(tmp_path / "log")) == 1


# --- alteration ------------------------------------------------------------------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\x00\x01x")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("change", [remove, flip, cut, lengthen, empty])
def test_any_change_to_any_file_is_noticed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    log = new(tmp_path / "log")
    grow(log, 300)
    for name in listing(tmp_path / "log"):
        copy = Path(shutil.copytree(tmp_path / "log", tmp_path / "copy"))
        change(copy / name)
        with pytest.raises((VerificationError, MalformedInput)):
            opened(copy)
        shutil.rmtree(copy)


def test_leaves_that_are_torn_missing_or_too_many(tmp_path: Path) -> None:
    grow(new(tmp_path / "log"), 3)
    entries = tmp_path / "log" / "tile/entries/000.p/3"
    whole = entries.read_bytes()
    for wrong in (whole[:-1], whole + b"\x00", whole[:16], whole + b"\x00\x01x", b""):
        entries.write_bytes(wrong)
        assert damaged(tmp_path / "log") == "entries"


def test_leaf_and_hash_altered_together(tmp_path: Path) -> None:
    grow(new(tmp_path / "log"), 3)
    entries, hashes = (tmp_path / "log" / "tile" / name / "000.p/3" for name in ("entries", "0"))
    entries.write_bytes(entries.read_bytes().replace(b"leaf 1", b"leaf 7"))
    assert damaged(tmp_path / "log") == "tile"
    hashes.write_bytes(hashes.read_bytes().replace(merkle.leaf_hash(b"leaf 1"), merkle.leaf_hash(b"leaf 7")))
    assert damaged(tmp_path / "log") == "root"


def test_the_checkpoint_rules(tmp_path: Path) -> None:
    log = new(tmp_path / "log")
    grow(log, 5)
    checkpoint = tmp_path / "log" / "checkpoint"
    five = checkpoint.read_bytes()
    grow(log, 1)
    six = checkpoint.read_bytes()
    checkpoint.write_bytes(five)
    assert damaged(tmp_path / "log") == "log-truncated"
    checkpoint.write_bytes(six.replace(b"\n6\n", b"\n5\n"))
    assert damaged(tmp_path / "log") == "checkpoint-signature"
    checkpoint.write_bytes(b"\xff")
    assert damaged(tmp_path / "log") == "checkpoint"
    checkpoint.unlink()
    assert damaged(tmp_path / "log") == "checkpoint"
    checkpoint.write_bytes(six)
    opened(tmp_path / "log")


def test_a_log_that_was_put_back_while_open(tmp_path: Path) -> None:
    log = new(tmp_path / "log")
    grow(log, 5)
    shutil.copytree(tmp_path / "log", tmp_path / "five")
    grow(log, 5)
    shutil.rmtree(tmp_path / "log")
    shutil.copytree(tmp_path / "five", tmp_path / "log")
    with pytest.raises(VerificationError, match="notary/log-shrunk"), log.locked():
        pass


def test_another_branch_of_the_log(tmp_path: Path) -> None:
    """The key's holder signs a second history of the same length: who has the first in memory notices."""
    log = new(tmp_path / "log")
    grow(log, 5)
    shutil.copytree(tmp_path / "log", tmp_path / "fork")
    fork = opened(tmp_path / "fork")
    with fork.locked():
        fork.append(b"another")
        fork.append(b"one more")
    grow(log, 1)
    shutil.rmtree(tmp_path / "log")
    shutil.copytree(tmp_path / "fork", tmp_path / "log")
    with pytest.raises(VerificationError, match="notary/entries"), log.locked():
        pass


def test_another_key_or_name(tmp_path: Path) -> None:
    grow(new(tmp_path / "log"), 2)
    for other in (
        TileLog(tmp_path / "log", NAME, ec.generate_private_key(ec.SECP256R1())),
        TileLog(tmp_path / "log", "log.other.example", KEY),
    ):
        with pytest.raises(VerificationError, match="log/origin"), other.locked():
            pass


# --- crashes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 300])
@pytest.mark.parametrize("writes", range(5))
def test_a_crash_between_any_two_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, writes: int
) -> None:
    """After every number of files written, the log is the one of before or the one of after, and goes on."""
    log = new(tmp_path / "log")
    grow(log, size)
    whole = files.write_file
    left = writes

    def write(path: Path, data: bytes, **options: bool) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        whole(path, data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tiles.files, "write_file", write)
    with contextlib.suppress(KeyboardInterrupt):
        grow(log, 1)
    monkeypatch.setattr(tiles.files, "write_file", whole)
    after = opened(tmp_path / "log")
    assert len(after) in (size, size + 1)
    assert after.note == opened(tmp_path / "log").note
    # The object that failed forgot what it held, and works on from what is on disk.
    grow(log, 2)
    assert len(log) == len(after) + 2
    assert len(opened(tmp_path / "log")) == len(log)


def test_what_a_crash_left_is_swept_away(tmp_path: Path) -> None:
    log = new(tmp_path / "log")
    grow(log, 3)
    for name in (".4.abc", "2", "1"):
        (tmp_path / "log" / "tile/0/000.p" / name).write_bytes(b"x")
    grow(log, 1)
    assert listing(tmp_path / "log") == ["tile/0/000.p/4", "tile/entries/000.p/4"]


def test_the_checkpoint_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = new(tmp_path / "log")
    grow(log, 255)
    order: list[str] = []
    whole = files.write_file

    def write(path: Path, data: bytes) -> None:
        order.append(str(path.relative_to(tmp_path / "log")))
        whole(path, data)

    monkeypatch.setattr(tiles.files, "write_file", write)
    grow(log, 1)
    assert order == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1", "checkpoint"]


# --- two at once -----------------------------------------------------------------------------------------------------


def _append_many(path: Path, count: int) -> None:
    log = TileLog(path, NAME, KEY)
    for index in range(count):
        with log.locked():
            log.append(b"%d %d" % (os.getpid(), index))


def test_two_processes_append_in_turn(tmp_path: Path) -> None:
    new(tmp_path / "log")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(tmp_path / "log", 40)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    log = opened(tmp_path / "log")
    assert len(log) == 120


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    log = new(tmp_path / "log")
    ready = multiprocessing.get_context("fork").Event()

    def hold() -> None:
        with files.exclusive(tmp_path / "log" / "lock"):
            ready.set()
            time.sleep(60)

    holder = multiprocessing.get_context("fork").Process(target=hold)
    holder.start()
    assert ready.wait(10)
    with (
        pytest.raises(EnvironmentProblem, match="another process holds"),
        files.exclusive(tmp_path / "log" / "lock", 0.05),
    ):
        pass
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(10)
    grow(log, 1)
    assert len(log) == 1


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_file(path, b"one", mode=0o640)
    assert path.stat().st_mode & 0o777 == 0o640

    failures = iter([OSError("disk")])

    def fail_once(_: int) -> None:
        for failure in failures:
            raise failure

    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(OSError, match="disk"):
        files.write_file(path, b"two")
    assert path.read_bytes() == b"one"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_files_are_read_with_a_bound_and_not_through_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert files.read_bounded(tmp_path / "file", 5) == b"12345"
    with pytest.raises(MalformedInput, match="at most 4"):
        files.read_bounded(tmp_path / "file", 4)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic"):
        files.read_bounded(tmp_path / "link", 5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=20))
def test_whatever_is_logged_comes_back(tmp_path_factory: pytest.TempPathFactory, leaves: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("any") / "log"
    log = new(path)
    with log.locked():
        for leaf in leaves:
            log.append(leaf)
    assert opened(path).tree.root() == merkle.root(map(merkle.leaf_hash, leaves))
