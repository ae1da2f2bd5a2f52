"""Programs that walls and images need: found, their versions, and tried where a trial is quick and leaves nothing."""

from __future__ import annotations

import json
import os
import platform
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from appliance.enclave.finding import Finding, Need, missing, ok, unusable
from appliance.enclave.vm import FIRMWARE

TIMEOUT_S = 10.0
"""For one call of one program; on a busy host they take their time."""
CONTAINER_RUNTIMES = ("runc", "podman", "bwrap")
"""The programs that can put up the container wall, in the order in which a run tries them."""
SUBORDINATE = (Path("/etc/subuid"), Path("/etc/subgid"))
PODMAN_ADVICE = "apt install uidmap; usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
"""What a user needs for containers whose user is another one."""
RUNC_ADVICE = "it needs root here: without, only its own root could be mapped, and user 65532 of the container not"


class Program(NamedTuple):
    """A program to look for."""

    id: str
    """Of its finding."""
    command: str
    """Its name on the path."""
    version: tuple[str, ...]
    """The arguments that make it print its version."""
    needed_for: tuple[Need, ...]
    """What needs it."""
    advice: str
    """What its absence means, and how to get it."""
    trial: Callable[[str], str] | None = None
    """Tries the program at a path: what went wrong, empty where nothing did."""
    how: str = "tried"
    """What a trial that found nothing has shown."""


class Ran(NamedTuple):
    """How a call of a program ended."""

    status: int
    """Its exit status; -1 where it could not be started or took too long."""
    words: str
    """The first line of what it printed, or the last one on standard error where it failed."""


def programs() -> tuple[Program, ...]:
    """What is looked for on this machine."""
    emulator = f"qemu-system-{platform.machine()}"
    package = "qemu-system-arm" if platform.machine() == "aarch64" else "qemu-system-x86"
    erofs = "It makes roots of VMs: apt install erofs-utils"
    one = "One of podman, runc and bubblewrap is enough for the container wall"
    return (
        Program(
            "podman", "podman", ("--version",), ("container",), f"{one}: apt install podman", _check_podman, "not tried"
        ),
        Program("runc", "runc", ("--version",), ("container",), f"{one}: apt install runc", _try_runc),
        Program("bwrap", "bwrap", ("--version",), ("container",), f"{one}: apt install bubblewrap", _try_bwrap),
        Program("qemu", emulator, ("--version",), ("vm",), f"It runs the measured VM: apt install {package}"),
        Program("swtpm", "swtpm", ("--version",), ("vm",), "It is the measured VM's TPM: apt install swtpm"),
        # Its option for the version came late, the one for help was always there.
        Program("mkfs-erofs", "mkfs.erofs", ("--help",), ("building",), erofs, _try_erofs),
        Program("veritysetup", "veritysetup", ("--version",), ("building",), "apt install cryptsetup-bin"),
    )


def look(program: Program) -> Finding:
    """Look for one program, and try it."""
    path = shutil.which(program.command)
    if path is None:
        return missing(program.id, program.command, "not on the path", program.needed_for, program.advice)
    version = run([path, *program.version])
    if version.status != 0:
        advice = f"It does not start; install it anew. {program.advice}"
        return unusable(program.id, program.command, version.words, program.needed_for, advice)
    words = version.words if any(char.isdigit() for char in version.words) else "no version told"
    if program.trial is None:
        return ok(program.id, program.command, f"{words} in {path}, not tried", program.needed_for)
    problem = program.trial(path)
    if problem:
        advice = f"It is there and failed a trial by this user: see to what it says. {program.advice}"
        return unusable(program.id, program.command, f"{words}: {problem}", program.needed_for, advice)
    return ok(program.id, program.command, f"{words} in {path}, {program.how}", program.needed_for)


def firmware() -> Finding:
    """OVMF, where a distribution puts it."""
    places = [str(code) for code, settings in FIRMWARE if code.is_file() and settings.is_file()]
    if places:
        return ok("ovmf", "OVMF", places[0], ("vm",))
    return missing("ovmf", "OVMF", "no firmware", ("vm",), "It boots and measures the VM: apt install ovmf")


def run(arguments: Sequence[str], timeout_s: float = TIMEOUT_S) -> Ran:
    """Call a program with nothing to read, and wait for it; it is killed when it is late."""
    try:
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False, cwd="/"
        )
    except subprocess.TimeoutExpired:
        return Ran(-1, f"expected it to end within {timeout_s:g} s, it did not")
    except OSError as error:
        return Ran(-1, error.strerror or str(error))
    good, bad = (data.decode("utf-8", "replace").strip().splitlines() for data in (done.stdout, done.stderr))
    if done.returncode == 0:
        return Ran(0, next(iter(good or bad), "no version"))
    return Ran(done.returncode, next(reversed(bad or good), f"status {done.returncode}")[:200])


def _try_bwrap(path: str) -> str:
    """Start a program in namespaces of its own, over the host's files."""
    sandbox = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    done = run([path, *sandbox, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", _true()])
    return "" if done.status == 0 else done.words


def _check_podman(_path: str) -> str:
    """Look for the ranges of users that it takes to show this user as another one. A container would leave traces in
    the user's store."""
    if os.geteuid() == 0:
        return ""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()} has no name, and so no range of other users"
    for path in SUBORDINATE:
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        if not any(line.split(":")[0] in (name, str(os.geteuid())) for line in lines):
            return f"{path} has no range for {name}: {PODMAN_ADVICE.replace('USER', name)}"
    return "" if shutil.which("newuidmap") else f"no newuidmap on the path: {PODMAN_ADVICE.replace('USER', name)}"


def _try_runc(path: str) -> str:
    """Start a program in a container of the host's programs and libraries, in a root of its own."""
    if os.geteuid() != 0:
        return RUNC_ADVICE
    with tempfile.TemporaryDirectory(prefix="vitrine-doctor-") as folder:
        bundle, state = Path(folder, "bundle"), Path(folder, "state")
        (bundle / "rootfs").mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps(_container(bundle / "rootfs")), "utf-8")
        name = f"vitrine-doctor-{os.getpid()}"
        done = run([path, "--root", str(state), "run", "--bundle", str(bundle), name])
        if done.status != 0:
            run([path, "--root", str(state), "delete", "--force", name])
        return "" if done.status == 0 else done.words


def _try_erofs(path: str) -> str:
    """Make a file system of an empty folder."""
    with tempfile.TemporaryDirectory(prefix="vitrine-doctor-") as folder:
        source, image = Path(folder, "source"), Path(folder, "image")
        source.mkdir()
        done = run([path, str(image), str(source)])
        return "" if done.status == 0 and image.stat().st_size else done.words


def _container(root: Path) -> dict[str, Any]:
    """The least configuration (OCI runtime specification 1.0) that starts a program of the host."""
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    ]
    for name in ("usr", "bin", "lib", "lib64"):
        host = Path("/", name)
        if host.is_symlink():
            (root / name).symlink_to(host.readlink())
        elif host.is_dir():
            (root / name).mkdir()
            mounts.append({"destination": str(host), "source": str(host), "options": ["rbind", "ro"]})
    linux = {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]}
    process = {"user": {"uid": 0, "gid": 0}, "args": [_true()], "cwd": "/", "noNewPrivileges": True}
    process["env"] = ["PATH=/usr/bin:/bin"]
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": str(root), "readonly": False},
        "mounts": mounts,
        "linux": linux,
    }


def _true() -> str:
    return shutil.which("true", path="/usr/bin:/bin") or "/bin/true"
