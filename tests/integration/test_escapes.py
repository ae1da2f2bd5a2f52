"""Every escape from a sealed worker is contained, seen from inside and from outside; without a layer, escapes succeed.

The same suite runs in our container as well, with each runtime of this host.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from appliance.enclave import launch
from appliance.enclave.container import Mount, Runtime
from appliance.enclave.rootfs import Image
from appliance.seal import plan_for, spawn
from attest.sealplan import Kind
from tests.tools import behind_container, escapes
from tests.tools.escape_table import ESCAPES, FILES, LIMITS, NETWORK, SECCOMP, Escape

KINDS: tuple[Kind, ...] = ("eval", "model")
COMBINATIONS = ({SECCOMP}, {FILES}, {LIMITS}, {SECCOMP, FILES}, {SECCOMP, NETWORK})
NOT_BUILT_IN = {"ENOSYS", "EAFNOSUPPORT", "ENOTSUP"}
"""How a kernel that was built without it refuses something that nothing else refuses."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the seal is made of Linux system calls")


def ident(value: object) -> str:
    return (
        value.name if isinstance(value, Escape) else "+".join(sorted(value)) if isinstance(value, set) else str(value)
    )


@pytest.fixture(scope="module", params=KINDS)
def result(request: pytest.FixtureRequest) -> escapes.Result:
    """What a sealed worker of each kind came to."""
    return escapes.run(request.param)


def test_the_suite_is_large_and_each_escape_is_named_once() -> None:
    names = [row.name for row in ESCAPES]
    assert len(set(names)) == len(names)
    assert len([name for name in names if not name.startswith(("socket-", "unshare-"))]) >= 100


@pytest.mark.parametrize("row", ESCAPES, ids=ident)
def test_an_escape_is_refused_by_the_seal(result: escapes.Result, row: Escape) -> None:
    assert result.status == 0, result.said
    assert result.outcomes[row.name] in escapes._errors(row)


def test_nothing_is_seen_outside(result: escapes.Result) -> None:
    assert result.traces == ()


@pytest.mark.parametrize("missing", COMBINATIONS, ids=ident)
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_layer_escapes_succeed(kind: Kind, missing: set[str]) -> None:
    found = escapes.run(kind, frozenset(missing))
    assert found.status == 0, found.said
    assert set(found.outcomes) == {row.name for row in ESCAPES if row.opened_by == missing} != set()
    refused = {name: end for name, end in found.outcomes.items() if not end.startswith("allowed")}
    assert set(refused.values()) <= NOT_BUILT_IN, refused
    if missing == {SECCOMP}:
        assert len(found.outcomes) - len(refused) >= 10
    if missing == {SECCOMP, NETWORK}:
        assert any("heard something" in trace for trace in found.traces), "expected the witness to notice"
    if missing == {SECCOMP, FILES}:
        assert any("escaped" in trace for trace in found.traces), "expected the witness to see the new file"


def test_every_way_of_switching_off_is_tried() -> None:
    assert {row.opened_by for row in ESCAPES} == {None, *map(frozenset, COMBINATIONS)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_hangs_is_ended_in_time(kind: Kind) -> None:
    began = time.monotonic()
    found = escapes.run(kind, action="hang")
    assert (found.status, found.traces) == (-9, ())
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_crashes_leaves_no_core(kind: Kind) -> None:
    found = escapes.run(kind, action="abort")
    assert found.status in (-6, -11)  # the first process of a namespace ignores its own SIGABRT, then dies of a fault
    assert found.traces == ()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, tuple[Mount, ...]]:
    """The built image, or the host's own root."""
    return behind_container.image(tmp_path_factory.mktemp("image"))


@pytest.mark.parametrize("runtime", launch.TOOLS)
def test_the_same_suite_in_a_container(runtime: Runtime, image: tuple[Image, tuple[Mount, ...]]) -> None:
    if not all(map(shutil.which, launch.TOOLS[runtime])):
        pytest.skip(f"no {runtime} on this host")
    status, said = behind_container.run(runtime, image, ["tests.tools.escapes"])
    assert status == 0, said[-4000:]
    for kind in KINDS:
        assert f"{kind:<6} {len(ESCAPES)} escapes, 0 not contained, 0 traces outside" in said


def test_a_worker_is_alone() -> None:
    """Its keeper waits for it outside, holds no descriptor, and ends as it ends."""
    plan = plan_for("eval", memory_bytes=256 << 20, threads=1)
    worker = spawn("tests.tools.hostile_worker", ["stubborn"], fds={}, plan=plan, log=print)
    try:
        assert os.read(worker.replies, 100) == b'"here"'
        keeper = Path(f"/proc/{worker.process.pid}")
        if (keeper / "comm").read_text() != "vitrine-keeper\n":
            pytest.skip("this host offers no PID namespace")
        assert list((keeper / "fd").iterdir()) == []
        (inside,) = (keeper / "task" / keeper.name / "children").read_text().split()
        assert escapes._status(int(inside), "NSpid").split() == [inside, "1"]
        assert escapes._of_session(worker.process.pid) == sorted([worker.process.pid, int(inside)])
    finally:
        assert worker.kill() == -9
    assert escapes.left_of(worker) == []


def test_a_worker_dies_with_its_keeper() -> None:
    plan = plan_for("eval", memory_bytes=256 << 20, threads=1)
    worker = spawn("tests.tools.hostile_worker", ["stubborn"], fds={}, plan=plan, log=print)
    try:
        assert os.read(worker.replies, 100) == b'"here"'
        os.kill(worker.process.pid, signal.SIGKILL)
        assert worker.process.wait(10) == -9
        assert escapes.left_of(worker) == []
    finally:
        worker.kill()
