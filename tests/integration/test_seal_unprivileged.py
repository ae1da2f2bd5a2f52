"""The seal where the host gives less: a controller that is not root, and a container that refuses namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
USER = 12345

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the seal is made of Linux system calls"),
    pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root; a run as a user covers it by itself"),
]

SCRIPT = """
import json, sys
from appliance.seal import ReadOnlyPath, plan_for, seal_level, violations
from appliance.seal.trial import attempt
from attest.sealplan import layer_names
extra = [ReadOnlyPath(role="packages", path=sys.argv[1])]
plan = plan_for("eval", memory_bytes=1 << 28, threads=2, read_only=extra)
if sys.argv[2] == "none":
    plan = plan.model_copy(update={"namespaces": ()})
if sys.argv[2] == "refused":
    from appliance.seal import bpf, kernel, seccomp, syscalls
    number = syscalls.number("unshare", kernel.architecture())
    steps = [(bpf.LOAD_WORD, 0, 0, 0), (bpf.JUMP_EQUAL, 0, 1, number)]
    steps += [(bpf.RETURN, 0, 0, bpf.RET_ERRNO | 1), (bpf.RETURN, 0, 0, bpf.RET_ALLOW)]
    seccomp.install(plan.seccomp, tuple(bpf.Instruction(*step) for step in steps))
trial = attempt(plan, lambda line: print(line, file=sys.stderr))
print(json.dumps({
    "layers": {layer.name: [layer.state, layer.detail] for layer in trial.outcome.layers},
    "violations": [result.name for result in violations(trial.probes)],
    "level": seal_level(trial.outcome),
    "as published": tuple(layer.name for layer in trial.outcome.layers) == layer_names(plan),
}))
"""


@pytest.fixture(scope="module")
def python():
    """An interpreter that every user can run, which finds the packages of this one."""
    base = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    if not base.exists():
        pytest.skip(f"no {base}: the interpreter of the tests may be readable by root only")
    home = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        home.chmod(0o755)
        made = subprocess.run([base, "-m", "venv", "--without-pip", home / "v"], capture_output=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"{base} cannot make a virtual environment")
        target = home / "v/lib" / f"python3.{sys.version_info.minor}/site-packages/here.pth"
        target.write_text(f"{sysconfig.get_path('purelib')}\n{REPOSITORY}\n")
        yield home / "v/bin/python"
    finally:
        shutil.rmtree(home)


def trial(python, namespaces: str, **who):
    command = [python, "-P", "-s", "-B", "-c", SCRIPT, sysconfig.get_path("purelib"), namespaces]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=False, **who)
    if "ModuleNotFoundError" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("the packages of the tests are readable by root only")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["as published"]
    return report


def test_a_user_is_sealed(python):
    report = trial(python, "all", user=USER, group=USER, extra_groups=[])
    assert report["violations"] == []
    if report["layers"]["namespace-user"][0] == "enforced":
        assert report["level"] == "full"


def test_a_user_without_namespaces_is_sealed(python):
    report = trial(python, "none", user=USER, group=USER, extra_groups=[])
    assert report["violations"] == []
    assert report["layers"]["capabilities"][1].endswith("bounding set kept, which no_new_privs makes void")
    assert "shared" in report["layers"]["limits"][1]


def test_root_without_namespaces_becomes_a_user(python):
    report = trial(python, "none")
    assert report["violations"] == []
    assert report["layers"]["identity"][1].startswith("user 65532")
    assert report["layers"]["capabilities"][1].endswith("bounding set empty")


def test_root_that_may_not_make_namespaces_is_sealed_in_part(python):
    """As in a container whose runtime refuses unshare by a filter of its own."""
    report = trial(python, "refused")
    assert report["violations"] == []
    assert report["level"] == "partial"
    states = {name: state for name, (state, _) in report["layers"].items()}
    assert {states[f"namespace-{name}"] for name in ("user", "mount", "net", "ipc", "uts", "cgroup", "pid")} == {
        "unavailable"
    }
    assert states["landlock"] == states["seccomp"] == states["limits"] == "enforced"
