"""Prompts, completions and keys stay where they belong behind the walls, too, and on the host around them.

What a runtime keeps of a container is searched, and the folder beside the bundle while the wall stands.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from appliance.enclave import launch, rootfs
from appliance.enclave.built import MACHINE
from appliance.enclave.container import Runtime
from appliance.enclave.discard import discard
from tests.conftest import ROOT
from tests.tools.canaries import PROMPTS, RUN, Lab, completions, guarded, job, outputs
from tests.tools.channels import Channels, files, hits, watch

__all__ = ["guarded"]
pytestmark = pytest.mark.engine


def image() -> Path:
    """The folder of the built image."""
    if not (ROOT / rootfs.DEFAULT / "index.json").exists():
        pytest.skip("no image in build/image/cpu: `make image`")
    return ROOT / rootfs.DEFAULT


def installed(runtime: Runtime) -> Runtime:
    """That runtime, where it is."""
    if not all(map(shutil.which, launch.TOOLS[runtime])):
        pytest.skip(f"no {runtime} on this host")
    return runtime


class Beside:
    """Looks at the private folder beside the bundle while the wall stands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modes: set[int] = set()
        self.parts: dict[str, bytes] = {}
        """What lies there, but for what is handed in and what comes out."""

    def __call__(self, _process: subprocess.Popen[bytes]) -> None:
        """One look."""
        for place in self.folder.glob(".bundle.wall-*"):
            try:
                self.modes.add(place.stat().st_mode & 0o777)
                for path in (*files(place / "container"), *place.glob("*")):
                    if path.is_file() and path.name != "inputs.img":
                        self.parts[f"beside {path.relative_to(place)}"] = path.read_bytes()[: 1 << 22]
            except OSError:
                continue  # it goes while it is looked at


def check(channels: Channels, beside: Beside, folder: Path, guarded: Lab) -> None:
    """A run that ended well has its words in the transcript, and nowhere else."""
    assert channels.status == 0, channels.text("stderr")
    texts = completions(folder / "bundle" / "transcript.jsonl")
    canaries = {**PROMPTS, **texts, **guarded.secrets}
    assert beside.modes == {0o700}
    found = hits(outputs(channels) | beside.parts, canaries)
    assert found == {(canary, "left bundle/transcript.jsonl") for canary in {*PROMPTS, *texts}}
    kept = {str(path): path.read_bytes() for path in files(guarded.path)}
    assert hits(kept, canaries) == set(), "the lab learns digests"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["bundle", "tmp"]
    assert list((folder / "tmp").iterdir()) == []


@pytest.mark.parametrize("runtime", launch.TOOLS)
def test_a_run_in_a_container_says_as_little(runtime: Runtime, tmp_path: Path, guarded: Lab, engine: Path) -> None:
    behind = ["--wall", "container", "--runtime", installed(runtime), "--image", image(), "--out", "bundle"]
    arguments = ["--verbose", "run", job(tmp_path), *guarded.arguments(engine), *behind]
    beside = Beside(tmp_path)
    channels = watch([*RUN, *arguments], tmp_path, while_running=beside)
    assert bool(beside.parts) == (runtime != "bubblewrap"), "expected to see what the runtime was told, if in files"
    check(channels, beside, tmp_path, guarded)


@pytest.mark.slow
@pytest.mark.skipif("VITRINE_WHOLE" not in os.environ, reason="minutes without KVM: set VITRINE_WHOLE=1")
def test_a_run_in_the_machine_says_as_little(tmp_path: Path, guarded: Lab) -> None:
    if not (ROOT / MACHINE / "reference.json").exists() or not shutil.which("swtpm"):
        pytest.skip("no machine in build/vm: `make vm`, or no swtpm on this host")
    behind = ["--wall", "vm", "--image", ROOT / MACHINE, "--out", "bundle"]
    lab = ["--lab", guarded.path, "--passphrase-file", guarded.passphrase]
    beside = Beside(tmp_path)
    channels = watch(
        [*RUN, "--verbose", "run", job(tmp_path), *lab, *behind], tmp_path, while_running=beside, timeout_s=400
    )
    check(channels, beside, tmp_path, guarded)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_container_whose_controller_ends_leaves_them_to_its_owner_alone(
    end: signal.Signals, tmp_path: Path, guarded: Lab, engine: Path
) -> None:
    behind = ["--wall", "container", "--runtime", installed("bubblewrap"), "--image", image(), "--out", "bundle"]
    sent: list[int] = []

    def stop(process: subprocess.Popen[bytes]) -> None:
        scripts = list(tmp_path.glob(".bundle.wall-*/out/bundle.incomplete/transcript.jsonl"))
        if not sent and scripts and scripts[0].read_bytes().count(b"\n") > 1:
            process.send_signal(end)
            sent.append(process.pid)

    arguments = ["run", job(tmp_path, rows=1000), *guarded.arguments(engine), *behind]
    channels = watch([*RUN, "--verbose", *arguments], tmp_path, while_running=stop)
    assert channels.status == (130 if end == signal.SIGINT else -signal.SIGKILL), channels.text("stderr")
    found = hits(outputs(channels), {**PROMPTS, **guarded.secrets})
    assert {canary for canary, _ in found} == set(PROMPTS)
    places = {Path(name.removeprefix("left ")) for _, name in found}
    if end == signal.SIGINT:
        assert places == {Path("bundle.incomplete/transcript.jsonl")}
    else:
        inside = {place.relative_to(place.parts[0]).parts[0] for place in places}
        assert {place.parts[0].partition("-")[0] for place in places} == {".bundle.wall"}
        assert inside <= {"in", "out"}
    for top in {place.parts[0] for place in places}:
        assert (tmp_path / top).stat().st_mode & 0o077 == 0, "expected the folder to be its owner's alone"
        discard(tmp_path / top)


def test_what_podman_would_keep_is_found(tmp_path: Path, guarded: Lab) -> None:
    """The counter-test: with a log and an annotation, which a run's container does not have."""
    installed("podman")
    if os.geteuid() != 0:
        pytest.skip("needs root: podman's store is elsewhere for others")
    root = rootfs.open_image(image(), tmp_path / "images")
    name, code = f"vitrine-{secrets.token_hex(8)}", f"print({PROMPTS['row']!r}, flush=True)"
    options = ["--name", name, "--network", "none", "--log-driver", "k8s-file", "--ulimit", "nofile=4096:4096"]
    options += ["--ulimit", "nproc=4096:4096", "--annotation", f"vitrine.test={PROMPTS['system']}"]
    command = ["podman", "run", *options, "--entrypoint", root.command[0], "--rootfs", f"{root.root}:O", "-c", code]
    try:
        channels = watch([*command], tmp_path / "images")
        assert channels.status == 0, channels.text("stderr")
        kept = {name: data for name, data in channels.parts.items() if name.startswith("host ")}
        assert {canary for canary, _ in hits(kept, PROMPTS)} == set(PROMPTS)
    finally:
        subprocess.run(["podman", "rm", "--force", "--ignore", "--time", "0", name], check=False)
