"""Starting and stopping workers: what they are given, what their log lines become, and that they end in time."""

from __future__ import annotations

import os
import sys
import time

import pytest

from appliance.seal import plan_for, received, sealed_file, spawn
from appliance.seal.launch import LINE_BYTES
from attest import canonical
from attest.errors import MalformedInput

MODULE = "tests.integration.test_seal_worker"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are made of Linux system calls")


def plan():
    return plan_for("eval", memory_bytes=256 << 20, threads=1)


def test_a_plan_is_received_with_descriptors_and_arguments():
    fd = sealed_file("plan", canonical.dump_model(plan()))
    got, fds, args = received(["run", f"--fd=plan:{fd}", "--fd=model:7", "--fd=a:b:8", "fast"])
    assert (got, fds, args) == (plan(), {"model": 7, "a:b": 8}, ["run", "fast"])


def test_a_worker_without_a_plan_is_not_started_by_spawn():
    with pytest.raises(RuntimeError, match="expected a plan"):
        received(["run"])


def test_a_plan_that_is_no_plan_is_refused():
    fd = sealed_file("plan", b"{}")
    with pytest.raises(MalformedInput, match="seal plan"):
        received([f"--fd=plan:{fd}"])


def test_a_sealed_file_is_at_its_start_and_cannot_change():
    fd = sealed_file("data", b"0123456789")
    try:
        assert os.read(fd, 100) == b"0123456789"
        for attempt in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 0), lambda: os.pwrite(fd, b"x", 20)):
            with pytest.raises(PermissionError):
                attempt()
    finally:
        os.close(fd)


def test_log_lines_are_cut_and_the_end_is_waited_for():
    lines: list[bytes] = []
    worker = spawn(MODULE, ["talk"], fds={}, plan=plan(), log=lines.append)
    assert worker.alive()
    os.write(worker.requests, b"hello")
    assert worker.stop(60) == 0
    assert not worker.alive()
    assert lines == [b"one", b"two", b"x" * LINE_BYTES, b"last"]


def test_a_worker_that_does_not_end_is_killed_in_time():
    worker = spawn(MODULE, ["stubborn"], fds={}, plan=plan(), log=lambda line: None)
    assert os.read(worker.replies, 100) == b'"here"'
    started = time.monotonic()
    assert worker.stop(2) == -9
    assert time.monotonic() - started < 10


def test_a_worker_is_killed_at_once_and_twice_does_no_harm():
    worker = spawn(MODULE, ["stubborn"], fds={}, plan=plan(), log=lambda line: None)
    assert worker.kill() == -9
    assert worker.kill() == -9


def test_a_module_that_does_not_exist_ends_the_worker():
    lines: list[bytes] = []
    worker = spawn("appliance.no_such_module", fds={}, plan=plan(), log=lines.append)
    assert worker.stop(60) == 1
    assert b"No module named" in lines[-1]
