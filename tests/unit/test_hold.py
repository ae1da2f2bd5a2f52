"""A process that holds its memory: no core dump, nothing for its user's other processes, nothing in swap."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.notary import hold
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is made of Linux system calls")

SHOW = "print(open('/proc/self/status').read()); print(made.model_dump_json())"
NOBODY = 65534


def python(code: str, **fields: object) -> subprocess.CompletedProcess[str]:
    """Run some Python in a process that holds its memory."""
    start = "import os, resource; from appliance.notary import hold; made = hold.hold()\n"
    arguments = [sys.executable, "-c", start + code]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, **fields)  # type: ignore[call-overload, no-any-return]


def kib(status: str, name: str) -> int:
    """A size in /proc/PID/status."""
    return int(next(line for line in status.splitlines() if line.startswith(f"{name}:")).split()[1])


def test_memory_is_locked_where_that_is_allowed() -> None:
    done = python("more = bytearray(8 << 20)\n" + SHOW, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    locked = '"locked":true' in done.stdout
    assert locked == hold.may_lock()[0]
    if locked:
        assert kib(done.stdout, "VmLck") > kib(done.stdout, "VmRSS") - 1024, "expected what is there to be locked"
        assert kib(done.stdout, "VmLck") > 8 << 10, "expected memory that came later to be locked, too"
        assert kib(done.stdout, "VmRSS") < 200 << 10, "expected untouched memory to stay untouched"


def test_without_the_right_nothing_is_locked_and_nothing_fails() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give up rights here")
    child = (
        # Imported first: the project may lie where nobody else can read it.
        "import os, resource; from appliance.notary import hold\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))\n"
        f"os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
        f"made = hold.hold(); more = bytearray(8 << 20)\n{SHOW}\n"
        "assert os.stat('/proc/self/environ').st_uid == 0, 'expected its /proc to be out of its own hands'"
    )
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert '"locked":false' in done.stdout
    assert "RLIMIT_MEMLOCK is 64 KiB" in done.stdout
    assert kib(done.stdout, "VmLck") == 0


def test_another_process_of_the_user_cannot_read_it(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else here")
    user = f"os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})"
    target = f"import os, sys; from appliance.seal import kernel; {user}; kernel.prctl(4, int(sys.argv[1]))\n"
    target += "print('ready', flush=True); sys.stdin.read()"
    peer = f"import os, sys; {user}\nopen('/proc/' + sys.argv[1] + '/mem', 'rb').close()"

    def read(dumpable: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", target, dumpable], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        done = subprocess.run([sys.executable, "-c", peer, str(process.pid)], capture_output=True, timeout=60)
        process.communicate()
        return done.returncode

    assert (read("1"), read("0")) == (0, 1)


@pytest.mark.parametrize(("held", "core"), [(True, False), (False, True)])
def test_no_core_is_dumped(held: bool, core: bool, tmp_path: Path) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    if pattern.startswith(("|", "/")) or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("core dumps do not go to the working directory here")
    # A program that the kernel pipes dumps to gets them in spite of the limit, so the attribute has to do alone.
    call = "resource.setrlimit = lambda *limits: None; hold.hold()" if held else "0"
    code = f"import os, resource; from appliance.notary import hold; {call}; os.abort()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    limits = (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2

    def dumping() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, limits)

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, preexec_fn=dumping, timeout=60)
    assert done.returncode == -signal.SIGABRT
    assert bool(list(tmp_path.glob("core*"))) == core


def test_a_host_with_swap_is_warned_of(tmp_path: Path) -> None:
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename Type Size Used Priority\n/dev/sda2 partition 1000 0 -2\n")
    code = (
        "from pathlib import Path; from appliance import logs; from appliance.notary import hold;"
        f"logs.configure(verbose=False); hold.SWAPS = Path({str(swaps)!r});"
        "hold.may_lock = lambda: (False, 'no right');"
        "hold.hold()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "keys may be swapped out" in done.stderr
    assert "/dev/sda2" in done.stderr
