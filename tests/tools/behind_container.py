"""Runs the escape suite, or another module of the tests, in our container: `python -m tests.tools.behind_container
RUNTIME MODULE [ARGUMENT ...]`.

It is the plan of a run, carried out by the same code: image, mounts, system call policy. Only the command differs, and
the folder `tests` is shown read-only below /in, where a run has its inputs: nothing of it is in the image. Without an
image in build/image/cpu a root of this host's own Python stands in for it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import cast

from appliance.enclave import container, launch, rootfs, seccomp
from appliance.enclave.container import ContainerPlan, Mount, Runtime
from appliance.enclave.discard import discard
from appliance.enclave.rootfs import Image
from attest.sealplan import SEALED_ID, Variable
from tests.tools import host_root

ROOT = Path(__file__).resolve().parents[2]
START = "import runpy, sys; sys.path.insert(0, '/in'); sys.argv = sys.argv[1:]; sys.path[1:1] = {more!r}; "
START += "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"


def image(folder: Path) -> tuple[Image, tuple[Mount, ...]]:
    """The built image, or the host's own root, unpacked or made in `folder`."""
    built = ROOT / rootfs.DEFAULT
    return (rootfs.open_image(built, folder), ()) if (built / "index.json").exists() else host_root.make(folder)


def plan_for(
    runtime: Runtime, found: tuple[Image, tuple[Mount, ...]], folder: Path, command: tuple[str, ...]
) -> ContainerPlan:
    """The plan of a run's container with another command; `folder` gets what it mounts."""
    (folder / "in" / "tests").mkdir(parents=True)
    out = folder / "out"
    out.mkdir()
    if os.geteuid() == 0 and runtime != "bubblewrap":
        os.chown(out, SEALED_ID, SEALED_ID)
    shown = (
        Mount(role="inputs", source=str(folder / "in"), target="/in"),
        Mount(role="tests", source=str(ROOT / "tests"), target="/in/tests"),
        Mount(role="output", source=str(out), target=container.OUT, writable=True),
    )
    return ContainerPlan(
        runtime=runtime,
        image=found[0].digest,
        root=str(found[0].root),
        command=command,
        environment=(
            *container.environment(found[0].environment),
            # The suite's files lie where a worker's new root does not hide them.
            Variable(name="TMPDIR", value=container.OUT),
        ),
        mounts=(*found[1], *shown),
        bounds=container.bounds_for(
            input_bytes=0,
            worker_bytes=1 << 30,
            workers=2,
            memory=launch.can_limit("memory"),
            tasks=launch.can_limit("pids"),
        ),
        seccomp=seccomp.digest(seccomp.read()),
    )


def run(runtime: Runtime, found: tuple[Image, tuple[Mount, ...]], arguments: list[str]) -> tuple[int, str]:
    """Run the module and arguments `arguments` in the container: its exit status, and what it printed."""
    folder = Path(tempfile.mkdtemp(prefix="vitrine-behind-")).resolve()
    folder.chmod(0o755)
    more = [str(ROOT)] if found[1] else []
    command = (found[0].command[0], "-I", "-B", "-c", START.format(more=more), *arguments)
    lines: list[bytes] = []
    try:
        plan = plan_for(runtime, found, folder, command)
        with launch.launched(plan, folder / "container", lines.append) as (process, _):
            printed = process.stdout.read() if process.stdout else b""
            process.wait()
        return process.returncode, b"\n".join([printed, *lines]).decode("utf-8", "replace")
    finally:
        discard(folder)


def main() -> int:
    """The command line."""
    runtime, *arguments = sys.argv[1:]
    with contextlib.ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vitrine-root-")))
        status, said = run(cast("Runtime", runtime), image(made), arguments)
    print(said)
    return status


if __name__ == "__main__":
    sys.exit(main())
