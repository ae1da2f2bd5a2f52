"""The container wall for a user who is not root: it works, or it says at once what is missing."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.enclave import launch, rootfs
from appliance.enclave.runtimes import SUBORDINATE
from tests.conftest import ROOT, SMALL_JOB
from tests.integration.test_seal_unprivileged import USER, python

__all__ = ["python"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root; a run as a user covers it by itself"),
    pytest.mark.skipif(
        not (ROOT / rootfs.DEFAULT / "index.json").exists(), reason="no image in build/image/cpu: `make image`"
    ),
]


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that can be given to any user."""
    folder = Path(tempfile.mkdtemp(prefix="vitrine-user-", dir="/var/tmp"))
    folder.chmod(0o755)
    (folder / "small.yaml").write_text(SMALL_JOB)
    (folder / "run").mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


def run(interpreter: str | Path, home: Path, user: int, runtime: str) -> subprocess.CompletedProcess[str]:
    """`appliance run` as `user`, with nothing in the environment but a home."""
    for path in (home, *home.iterdir()):
        os.chown(path, user, user)
    image = str(ROOT / rootfs.DEFAULT)
    arguments = ["run", "small.yaml", "--wall", "container", "--runtime", runtime, "--image", image, "--out", "bundle"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
    done = subprocess.run(
        [interpreter, "-P", "-s", "-B", "-m", "appliance", *arguments, "--require-seal", "full"],
        cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=300,
        user=user, group=user, extra_groups=[],
    )  # fmt: skip
    if "ModuleNotFoundError" in done.stderr or "Permission denied: '" in done.stderr:
        pytest.skip("the packages or the image of the tests are readable by root only")
    return done


def need(runtime: str) -> None:
    """Skip where it is not installed."""
    if not all(map(shutil.which, launch.TOOLS[runtime])):  # type: ignore[index]
        pytest.skip(f"no {runtime} on this host")


def test_bubblewrap_needs_nothing(python: Path, home: Path) -> None:
    need("bubblewrap")
    done = run(python, home, USER, "bubblewrap")
    assert done.returncode == 0, done.stderr
    assert (home / "bundle" / "results.json").stat().st_uid == USER


def test_runc_is_refused_at_once(python: Path, home: Path) -> None:
    done = run(python, home, USER, "runc")
    assert done.returncode == 1
    assert "it needs root here" in done.stderr
    assert "podman or bubblewrap" in done.stderr
    assert not list(home.glob("bundle*"))


def test_podman_without_ranges_of_users_says_how_to_get_them(python: Path, home: Path) -> None:
    need("podman")
    done = run(python, home, USER, "podman")
    assert done.returncode == 1
    assert "usermod --add-subuids" in done.stderr
    assert not list(home.glob("bundle*"))
    assert "registered" not in done.stderr


def test_podman_with_ranges_of_users_works(python: Path, home: Path) -> None:
    need("podman")
    names = [{line.split(":")[0] for line in path.read_text().splitlines()} for path in SUBORDINATE if path.exists()]
    users = [one for one in pwd.getpwall() if one.pw_uid and names and all(one.pw_name in each for each in names)]
    if not users:
        pytest.skip("no user of this host has ranges in /etc/subuid and /etc/subgid")
    done = run(python, home, users[0].pw_uid, "podman")
    assert done.returncode == 0, done.stderr
    assert (home / "bundle" / "results.json").stat().st_uid == users[0].pw_uid
