"""A container that was taken over: what it can do to its host is one clear error, and nothing stays behind.

The image's entry point is replaced by code that speaks the channel as it likes, or that runs the job as told and then
changes what it leaves.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import run
from appliance.enclave import delivery, wall
from appliance.enclave.channel import EnclaveFailure
from appliance.enclave.container import Mount, Runtime
from appliance.enclave.discard import discard
from appliance.enclave.rootfs import Image
from appliance.enclave.words import MAX_SHOWN_LINES, Words
from appliance.notary.lab import Lab
from attest import verify
from attest.errors import MalformedInput, VerificationError, VitrineError
from tests.conftest import ROOT, quiet
from tests.integration.test_container import (
    RUNTIMES,
    bubblewrap,
    image,
    installed,
    left,
    mounts,
    runtime,
    settled,
)

__all__ = ["bubblewrap", "image", "runtime"]

TALK = """
import os, struct, sys, time
def send(kind, payload, route=0, tag=1):
    data = struct.pack(">IBBI", len(payload), kind, route, tag) + payload
    while data:
        data = data[os.write(1, data):]
CONFIG, HELLO, REQUEST, REPLY, RESULTS, FAILURE = 1, 2, 4, 5, 7, 8
send(HELLO, b'{"format":"vitrine/enclave-hello/v1","version":"0"}')
os.read(0, 1 << 20)
FAILED = b'{"code":"X","message":"\\u001b[2J\\\\n","exit":10}'
"""
"""Says hello, takes its orders, and has `send` to say something else."""

OBEY = """
import os, sys
sys.argv = ["inside"]
from pathlib import Path
from appliance.enclave import inside
told = inside._run
out = Path("/out/bundle")
def changed(start, link, attester):
    outcome = told(start, link, attester)
    change()
    return outcome
inside._run = changed
"""
"""Runs what it is told, then calls `change`."""


@pytest.fixture
def hostile(
    image: tuple[Image, tuple[Mount, ...]], lab: Lab, engine: Path, files: Path, tmp_path: Path
) -> Callable[..., run.Outcome]:
    """Runs the small job in a container whose entry point is `code`: `hostile(code, runtime)`."""

    def start(code: str, runtime: Runtime) -> run.Outcome:
        python = image[0].command[0]
        head = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" if image[1] else ""
        entry = replace(image[0], command=(python, "-I", "-c", head + code))
        request = wall.Request(
            job=files, lab=lab, engine=engine, out=tmp_path / "out" / "bundle", image=entry, more=image[1],
            runtime=runtime,
        )  # fmt: skip
        return wall.run(request, quiet)

    return start


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ("os.write(1, os.urandom(4096))", EnclaveFailure, "expected frames of at most|known kind"),
        ("os.write(1, struct.pack('>IBBI', 1 << 31, 4, 0, 0))", EnclaveFailure, "expected frames of at most"),
        ("send(REPLY, b'')", MalformedInput, "a request, or the end of the run"),
        ("send(REQUEST, b'{}', 9)", MalformedInput, "a service that is open"),
        ("send(REQUEST, b'{}', 2)", MalformedInput, "expected no files over it"),
        ('send(REQUEST, b\'{"call":"certify"}\')', VerificationError, "notary/order"),
        ("send(REQUEST, b'[' * 100000)", MalformedInput, "notary question"),
        ('send(REQUEST, b\'{"phase":"x","done":-1,"total":1}\', 1)', MalformedInput, "progress"),
        ('send(RESULTS, b\'{"ended_by":"done"}\')', MalformedInput, "every question of a run"),
        ("send(RESULTS, b'x' * (1 << 20) * 7)", MalformedInput, "end of the run|expected at most"),
        ("send(FAILURE, FAILED)", EnclaveFailure, r"^\?\[2J\?$"),
        ("sys.exit(0)", EnclaveFailure, "it ended with 0"),
        ("os.abort()", EnclaveFailure, "the end of the stream"),  # a namespace's first process ignores its own SIGKILL
    ],
)
def test_what_is_out_of_place_ends_the_run(
    bubblewrap: Runtime, hostile: Callable[..., run.Outcome], said: str, error: type[Exception], words: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(error, match=words):
        hostile(TALK + said + "\ntime.sleep(100)", bubblewrap)
    assert left(tmp_path / "out" / "bundle") == []
    assert not (tmp_path / "out" / "bundle").exists()


def test_a_flood_of_words_is_read_and_withheld(
    bubblewrap: Runtime, hostile: Callable[..., run.Outcome], capfd: pytest.CaptureFixture[str]
) -> None:
    line = json.dumps({"level": "error", "event": "\u001b[31mflood\ud800", "self": 1, "Odd Name": 2, "n": "\u0007"})
    code = f"line = {line!r}.encode() + b'\\n'\nfor _ in range(200): os.write(2, line * 100)\nsend(REPLY, b'')\n"
    with pytest.raises(MalformedInput):
        hostile(TALK + code + "time.sleep(100)", bubblewrap)
    shown = capfd.readouterr()
    text = shown.out + shown.err
    assert MAX_SHOWN_LINES <= text.count("flood") <= MAX_SHOWN_LINES + 10
    assert "withheld from here on" in text
    assert "\u001b[31mflood" not in text
    assert "\u0007" not in text


RESULTS_NAME = "results.json"
CHANGES = {
    "a link in place of a file": (
        f"(out / '{RESULTS_NAME}').unlink(); (out / '{RESULTS_NAME}').symlink_to('/in/demo/small.yaml')",
        "results.json as a regular file",
    ),
    "a pipe in place of a file": (f"(out / '{RESULTS_NAME}').unlink(); os.mkfifo(out / '{RESULTS_NAME}')", None),
    "a link in place of the folder": ("out.rename('/out/real'); os.symlink('real', out)", "as a regular file"),
    "a link in place of a folder in it": (
        "(out / 'trust').rename('/out/trust'); os.symlink('/out/trust', out / 'trust')",
        "as a regular file",
    ),
    "a file that is too large": ("os.truncate(out / 'transcript.jsonl', 10 << 30)", None),
    "a file that is missing": ("os.unlink(out / 'transcript.jsonl')", "missing"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_bundle_with_anything_but_files_is_refused(
    what: str, bubblewrap: Runtime, hostile: Callable[..., run.Outcome], tmp_path: Path
) -> None:
    change, words = CHANGES[what]
    code = OBEY + f"def change():\n    {change}\n" + "sys.exit(inside.main())"
    # Where the wall's own rules refuse the change, that is what the host is told.
    with pytest.raises(VitrineError, match=words or ".") as caught:
        hostile(code, bubblewrap)
    assert isinstance(caught.value, MalformedInput if words else VitrineError)
    assert left(tmp_path / "out" / "bundle") == []
    assert not (tmp_path / "out" / "bundle").exists()


SWAPS = {
    "another signature": ("bundle.sigstore.json", "notary/delivered"),
    "other results": (RESULTS_NAME, "files/digest"),
}


@pytest.mark.parametrize("what", SWAPS)
def test_a_bundle_that_is_not_the_one_logged_is_refused(
    what: str, bubblewrap: Runtime, hostile: Callable[..., run.Outcome], tmp_path: Path
) -> None:
    """The lab logged one; what comes out has to be that one, before anything of it is shown or kept."""
    name, words = SWAPS[what]
    code = OBEY + f"def change():\n    (out / {name!r}).write_bytes((out / {name!r}).read_bytes() + b' ')\n"
    with pytest.raises(VerificationError, match=words):
        hostile(code + "sys.exit(inside.main())", bubblewrap)
    assert left(tmp_path / "out" / "bundle") == []
    assert not (tmp_path / "out" / "bundle").exists()


MESS = """
def change():
    (out / "more.txt").write_text("not of a bundle")
    (out / "link").symlink_to("/etc/passwd")
    os.chdir("/out")
    for _ in range(1500):
        os.mkdir("deep" * 50)
        os.chdir("deep" * 50)
    os.mkdir("/out/closed")
    os.mkdir("/out/closed/in")
    os.chmod("/out/closed/in", 0)
    os.chmod("/out/closed", 0)
"""


def test_what_is_no_file_of_a_bundle_is_thrown_away(
    runtime: Runtime, hostile: Callable[..., run.Outcome], tmp_path: Path, lab: Lab
) -> None:
    before = mounts()
    outcome = hostile(OBEY + MESS + "sys.exit(inside.main())", runtime)
    found = {str(path.relative_to(outcome.bundle)) for path in outcome.bundle.rglob("*") if not path.is_dir()}
    assert found == set(delivery.NAMES) - set(verify.MACHINE)
    assert left(outcome.bundle) == []
    assert settled(before)
    data = {name: (outcome.bundle / name).read_bytes() for name in found}
    assert verify.verify(data, lab.trusted_root).manifest.wall == "container"


STUBBORN = (
    TALK
    + """
import signal
for number in (1, 2, 15):
    signal.signal(number, signal.SIG_IGN)
os.close(0)
while True:
    time.sleep(1)  # MARK
"""
)

START = """
import sys
from dataclasses import replace
from pathlib import Path
from appliance.enclave import wall, rootfs
from appliance.enclave.container import Mount
from appliance.notary import lab as labs
from datetime import UTC, datetime
job, lab, engine, out, root, python, runtime, code, *more = sys.argv[1:]
image = rootfs.Image(Path(root), "sha256:" + "0" * 64, (python, "-I", "-c", code), ("PATH=/usr/bin",))
shown = tuple(Mount(role="host", source=path, target=path) for path in more)
lab = labs.open_lab(Path(lab), now=lambda: datetime.now(UTC))
wall.run(wall.Request(job=Path(job), lab=lab, engine=Path(engine), out=Path(out), image=image, runtime=runtime,
                      more=shown), lambda *_: None)
"""


def stubborn(mark: str) -> list[int]:
    """Processes in the container of the code with `mark` that would not end."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if words[1:3] == [b"-I", b"-c"] and mark.encode() in words[3]:
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("name", RUNTIMES)
def test_no_container_outlives_a_controller_that_is_killed(
    name: Runtime, image: tuple[Image, tuple[Mount, ...]], lab: Lab, engine: Path, files: Path, tmp_path: Path
) -> None:
    if not installed(name):
        pytest.skip(f"no {name} on this host")
    before, mark = mounts(), f"# {secrets.token_hex(8)}"
    places = [files, lab.path, engine, tmp_path / "out" / "bundle", image[0].root, image[0].command[0]]
    controller = subprocess.Popen(
        [
            *(sys.executable, "-c", START, *map(str, places), name, STUBBORN.replace("# MARK", mark)),
            *(mount.source for mount in image[1]),
        ],
        cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        wait_for(lambda: stubborn(mark), 60)
        time.sleep(0.5)
        assert controller.poll() is None
        os.kill(controller.pid, signal.SIGKILL)
        assert controller.wait(10) == -signal.SIGKILL
        wait_for(lambda: not stubborn(mark), 30)
        assert settled(before)
    finally:
        controller.kill()
        controller.wait()
    if name == "podman":
        listed = subprocess.run(["podman", "ps", "--all", "--format", "{{.Names}}"], capture_output=True, text=True)
        assert "vitrine-" not in listed.stdout


def wait_for(holds: Callable[[], object], seconds: float) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"expected it to hold within {seconds:g} s"
        time.sleep(0.05)


# --- without a container ---------------------------------------------------------------------------------------------


def test_any_line_of_the_inside_is_taken() -> None:
    words = Words()
    for line in (
        b"",
        b"\xff\xfe",
        b"[" * 4096,
        b'{"level":"error"}',
        b'{"level":[],"event":1}',
        b'{"level":"info","event":"x"}',
        b'{"level":"error","event":"\\u001b]0;t\\u0007","self":1,"event ":2,"n":' + b"9" * 3000 + b"}",
    ):
        words.take(line)
    assert "\u001b" not in str(words)
    assert str(words).endswith("?]0;t?")


def test_whatever_a_folder_holds_is_removed(tmp_path: Path) -> None:
    folder, canary = tmp_path / "folder", tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("stays")
    folder.mkdir()
    (folder / "link").symlink_to(canary)
    os.mkfifo(folder / "pipe")
    here = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 200, dir_fd=here)
        os.symlink(canary, "link to a folder", dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.fchmod(here, 0)
    os.close(here)
    discard(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]
    assert (canary / "file").read_text() == "stays"
    discard(folder)  # one that is gone
