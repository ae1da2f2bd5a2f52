"""Hostile code in a real sealed worker: every attempt is contained, and the worker still reports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.seal import plan_for, sealed_file, spawn
from appliance.seal.limits import SHARED_TASKS
from tests.tools.hostile import MIB, MODULE, read_all, run, sealed

KINDS = ("model", "eval")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the seal is made of Linux system calls")


@pytest.fixture(scope="module")
def in_force():
    """The layers that this host offers: a container may refuse namespaces, and the rest has to hold without them."""
    _, report, lines = run("outcome")
    assert report is not None, lines
    return {name for name, (state, _) in report["layers"].items() if state == "enforced"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_probe_is_denied(kind):
    fd = sealed_file("model", b"GGUF" * 4096)
    try:
        report = sealed("probes", kind=kind, fds={"model": fd})
    finally:
        os.close(fd)
    assert report["violations"] == []
    assert {outcome for outcome, _ in report["results"].values()} == {"denied"}
    assert report["results"]["inherited-memory-file"] == ["denied", "EPERM"]


def test_threads_are_made_after_the_seal_by_the_worker_that_computes():
    assert sealed("threads", kind="model") == 800
    assert sealed("thread_bomb", kind="eval") == {"started": 0, "ended": "can't start new thread"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_bomb_does_not_start(kind):
    report = sealed("fork_bomb", kind=kind)
    assert report.pop("clone3") == "ENOSYS"
    assert set(report.values()) == {"EPERM"}


def test_a_thread_bomb_is_bounded(in_force):
    plan = plan_for("model", memory_bytes=8 << 30, threads=4)
    status, report, lines = run("thread_bomb", plan=plan)
    assert status == 0, lines
    bound = plan.limits.tasks if "namespace-user" in in_force else SHARED_TASKS
    assert 4 <= report["started"] < bound
    assert "can't start new thread" in report["ended"]


def test_workers_do_not_share_the_count_of_threads(in_force):
    if "namespace-user" not in in_force:
        pytest.skip("this host offers no user namespace: the count is shared")
    plan = plan_for("model", memory_bytes=8 << 30, threads=200)
    workers = [spawn(MODULE, ["thread_bomb"], fds={}, plan=plan, log=print) for _ in range(3)]
    reports = [read_all(worker) for worker in workers]
    assert [worker.stop() for worker in workers] == [0, 0, 0]
    assert all(b'"started": 456' in report for report in reports), reports


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_bomb_ends_in_the_worker(kind):
    report = sealed("memory_bomb", kind=kind, memory_bytes=128 * MIB)
    assert report.pop("at once") == "MemoryError"
    for way, ended in report.items():
        assert ended.startswith(("MemoryError", "ENOMEM")), (way, ended)
        assert int(ended.rsplit(" ", 1)[1]) < 140, (way, ended)


@pytest.mark.parametrize("kind", KINDS)
def test_files_cannot_be_changed_nor_found(kind, in_force):
    report = sealed("files", kind=kind)
    assert report.pop("read stdlib") == report.pop("list stdlib") == "allowed"
    assert report.pop("limit") == 0
    if "root" in in_force:
        assert report["shadow"] == report["the tests"] == report["look outside"] == "ENOENT"
    else:
        assert report.pop("look outside") == "allowed"  # Landlock does not restrict stat
    assert set(report.values()) <= {"EPERM", "EACCES", "ENOENT"}, report


@pytest.mark.parametrize("kind", KINDS)
def test_other_processes_are_out_of_reach(kind, in_force):
    report = sealed("others", kind=kind)
    who = report.pop("who")
    if os.geteuid() == 0 or "namespace-user" in in_force:
        assert who == [65532, 65532]
    assert set(report.values()) <= {"EPERM", "ValueError"}, report


@pytest.mark.parametrize("kind", KINDS)
def test_late_imports_work_and_late_code_does_not(kind):
    report = sealed("late_imports", kind=kind)
    assert report["absent"], "expected something that was not imported before"
    assert report["found"].pop("code") == "ImportError"
    assert set(report["found"].values()) == {"allowed"}
    assert report["template"] == "42"


def test_callbacks_from_c_work():
    assert sealed("callbacks") == list(range(20))


def test_the_world_of_a_worker_is_the_same_everywhere():
    first, second = (sealed("world") for _ in range(2))
    assert first == second
    assert {first[what] for what in ("host", "folder", "sleep")} == {"EPERM"}
    assert first["entropy"] != "allowed"
    assert first["environment"] == ["LANG", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED"]


def test_an_abort_ends_the_worker_only():
    status, report, _ = run("crash")
    assert status in (-6, -11)  # the first process of a namespace ignores its own SIGABRT, then dies of a fault
    assert report is None


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 numbers exist on x86-64 only")
def test_numbers_of_another_architecture_kill():
    status, report, _ = run("foreign_numbers")
    assert (status, report) == (-31, None)


def test_cpu_time_can_be_bounded():
    status, report, _ = run("spin", plan=plan_for("eval", memory_bytes=64 * MIB, threads=1, cpu_s=1))
    assert status in (-9, -24)
    assert report is None


def test_a_worker_dies_with_its_controller():
    code = (
        "import os\n"
        "from appliance.seal import plan_for, spawn\n"
        "plan = plan_for('eval', memory_bytes=1 << 28, threads=1)\n"
        f"w = spawn({MODULE!r}, ['stubborn'], fds={{}}, plan=plan, log=print)\n"
        "assert os.read(w.replies, 6) == b'\"here\"'\n"
        "inside = open(f'/proc/{w.process.pid}/task/{w.process.pid}/children').read()\n"
        "print(w.process.pid, inside, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    pids = [int(pid) for pid in done.stdout.split()]
    for _ in range(100):
        if all(map(_is_gone, pids)):
            return
        time.sleep(0.05)
    pytest.fail(f"one of {pids}, keeper and worker, outlived its controller")


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True
