"""Starting and stopping workers: what they are given, what their log lines become, and that they end in time."""

from __future__ import annotations

import gc
import os
import socket
import sys
import time

import pytest

from appliance.seal import Reserve, plan_for, received, sealed_file, spawn
from appliance.seal.door import DOOR, pass_on
from appliance.seal.launch import LINE_BYTES, standby
from attest import canonical
from attest.errors import MalformedInput
from attest.sealplan import OPEN_FILES, Identity

MODULE = "tests.tools.hostile_worker"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are made of Linux system calls")


def plan():
    return plan_for("eval", memory_bytes=256 << 20, threads=1)


@pytest.fixture
def door(monkeypatch):
    """The controller's end of a door, and what the worker was started with; the environment is put back."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        yield ours, [f"{DOOR}{theirs.detach()}"]


def given(plan_bytes: bytes, **more: bytes) -> dict[str, int]:
    return {name: sealed_file(name, data) for name, data in {"plan": plan_bytes, **more}.items()}


def test_a_plan_is_received_with_descriptors_and_arguments(door):
    pass_on(door[0], ["run", "fast"], given(canonical.dump_model(plan()), model=b"the model", a=b"a"))
    got, fds, args = received(door[1])
    assert (got, set(fds), args) == (plan(), {"model", "a"}, ["run", "fast"])
    assert os.read(fds["model"], 100) == b"the model"
    assert os.environ["PYTHONHASHSEED"] == "0"


def test_garbage_is_collected_once_there_is_a_plan(door):
    pass_on(door[0], [], given(canonical.dump_model(plan())))
    gc.disable()  # as the keeper leaves it while code is imported
    try:
        received(door[1])
        assert gc.isenabled()
    finally:
        gc.enable()


def test_more_descriptors_than_a_message_takes_are_received_and_leave_room(door):
    one = sealed_file("one", b"x")
    pass_on(door[0], [], given(canonical.dump_model(plan())) | {f"data-{n:03d}": one for n in range(300)})
    _, fds, _ = received(door[1])
    try:
        assert len({os.fstat(fd).st_ino for fd in fds.values()}) == 1
        assert len(set(fds.values())) == len(fds) == 300
        assert min(os.dup(one) for _ in range(2)) < OPEN_FILES
    finally:
        for fd in fds.values():
            os.close(fd)


def test_a_worker_without_a_plan_is_not_started_by_spawn(door):
    with pytest.raises(RuntimeError, match="expected a door"):
        received(["run"])
    pass_on(door[0], [], {})
    with pytest.raises(RuntimeError, match="expected a plan among"):
        received(door[1])


def test_a_worker_whose_controller_is_gone_ends(door):
    door[0].close()
    with pytest.raises(RuntimeError, match="the controller is gone"):
        received(door[1])


def test_a_plan_that_is_no_plan_is_refused(door):
    pass_on(door[0], [], given(b"{}"))
    with pytest.raises(MalformedInput, match="seal plan"):
        received(door[1])


def test_a_process_that_stands_by_takes_one_plan_that_it_fits():
    one = standby(MODULE, "eval", lambda line: None)
    other = plan().model_copy(update={"identity": Identity(uid=7)})
    assert not one.fits(MODULE, other)
    assert not one.fits("appliance.seal.trial", plan())
    assert not one.fits(MODULE, plan().model_copy(update={"environment": ()}))
    assert not one.fits(MODULE, plan().model_copy(update={"namespaces": ()}))
    with pytest.raises(RuntimeError, match="expected the plan for which"):
        one.begin(other, {}, lambda line: None)
    lines: list[bytes] = []
    worker = one.begin(plan(), {}, lines.append, ["talk"])
    assert worker.stop(60) == 0
    assert lines[0] == b"one"


def test_a_reserve_gives_what_stands_by_and_kills_the_rest():
    with Reserve() as reserve:
        reserve.add(MODULE, "eval", lambda line: None)
        reserve.add(MODULE, "eval", lambda line: None)
        first, second = reserve._waiting
        taken = reserve.take(MODULE, plan(), {}, lambda line: None)
        assert taken.process is first.process
        model = plan_for("model", memory_bytes=256 << 20, threads=1)
        fresh = reserve.take("appliance.seal.trial", model, {}, lambda line: None)
        assert fresh.process not in (first.process, second.process)
        assert fresh.stop(60) == 0
    assert second.process.returncode == -9
    assert taken.stop(60) == 1  # it got a plan and no arguments, which this module wants


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
