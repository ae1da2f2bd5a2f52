"""Prompts, completions and keys stay where they belong: canaries, planted in real runs, are looked for elsewhere.

Prompts and completions belong in the transcript, of a bundle or of the folder that a run which ended early leaves, and
in that folder's `failure.txt`. Passphrases and keys belong nowhere.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.redact import FAILURE_FILE
from attest import transcript
from tests.conftest import ROOT
from tests.tools.canaries import PROMPTS, RUN, Lab, completions, guarded, job, organism, outputs
from tests.tools.channels import Channels, hits, watch

pytestmark = pytest.mark.engine

__all__ = ["guarded"]
CORES = Path("/proc/sys/kernel/core_pattern")


@pytest.mark.parametrize("flags", [(), ("--verbose",)], ids=["quiet", "verbose"])
def test_a_run_says_nothing_of_prompts_completions_and_keys(
    flags: tuple[str, ...], tmp_path: Path, guarded: Lab, engine: Path
) -> None:
    arguments = ["run", job(tmp_path), *guarded.arguments(engine), "--out", "bundle"] + ["--json"] * bool(flags)
    channels = watch([*RUN, *flags, *arguments], tmp_path)
    assert channels.status == 0, channels.text("stderr")
    texts = completions(tmp_path / "bundle" / "transcript.jsonl")
    assert texts, "expected the organism to say something"
    assert len(channels.pids) >= 3, "expected to see the controller and both workers"
    found = hits(outputs(channels), {**PROMPTS, **texts, **guarded.secrets})
    assert {channel for _, channel in found} == {"left bundle/transcript.jsonl"}
    assert {canary for canary, _ in found} == {*PROMPTS, *texts}
    # Neither does the lab learn anything: its log holds digests.
    kept = {str(path): path.read_bytes() for path in guarded.path.rglob("*") if path.is_file()}
    assert hits(kept, {**PROMPTS, **texts, **guarded.secrets}) == set()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_run_that_is_interrupted_leaves_them_in_its_transcript_alone(
    tmp_path: Path, guarded: Lab, engine: Path
) -> None:
    left = tmp_path / "bundle.incomplete"

    sent: list[int] = []

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        script = left / "transcript.jsonl"
        if not sent and script.exists() and script.read_bytes().count(b"\n") > 1:
            process.send_signal(signal.SIGINT)
            sent.append(process.pid)

    arguments = ["run", job(tmp_path, rows=200), *guarded.arguments(engine), "--out", "bundle"]
    channels = watch([*RUN, "--verbose", *arguments], tmp_path, before=interruptible, while_running=interrupt)
    assert channels.status == 130, channels.text("stderr")
    assert sorted(path.name for path in left.iterdir()) == ["resume.json", "transcript.jsonl"]
    assert left.stat().st_mode & 0o077 == 0, "expected the folder to be its owner's alone"
    found = hits(outputs(channels), {**PROMPTS, **guarded.secrets})
    assert found == {(canary, "left bundle.incomplete/transcript.jsonl") for canary in PROMPTS}


def test_a_run_that_is_killed_leaves_them_in_its_transcript_alone(tmp_path: Path, guarded: Lab, engine: Path) -> None:
    left = tmp_path / "bundle.incomplete"

    def kill(process: subprocess.Popen[bytes]) -> None:
        script = left / "transcript.jsonl"
        if script.exists() and script.read_bytes().count(b"\n") > 1:
            process.kill()

    arguments = ["run", job(tmp_path, rows=200), *guarded.arguments(engine), "--out", "bundle"]
    channels = watch([*RUN, "--verbose", *arguments], tmp_path, while_running=kill)
    assert channels.status == -signal.SIGKILL, channels.text("stderr")
    assert left.stat().st_mode & 0o077 == 0, "expected the folder to be its owner's alone"
    found = hits(outputs(channels), {**PROMPTS, **guarded.secrets})
    assert found == {(canary, "left bundle.incomplete/transcript.jsonl") for canary in PROMPTS}


def interruptible() -> None:
    """Ctrl-C works, also where these tests were started in the background, with the signal ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_suite_whose_template_is_broken_is_not_quoted(tmp_path: Path, guarded: Lab, engine: Path) -> None:
    path = job(tmp_path, user="{{ {}[prompt].x }}")  # Jinja's message names the key that is not there
    channels = watch([*RUN, "-v", "run", path, *guarded.arguments(engine), "--out", "bundle"], tmp_path)
    assert channels.status == 30, channels.text("stderr")
    assert "suite canaries, row 0, template 'prompt.user'" in channels.text("stderr")
    found = hits(outputs(channels), {**PROMPTS, **guarded.secrets})
    assert found == {("row", f"left bundle.incomplete/{FAILURE_FILE}")}
    assert (tmp_path / "bundle.incomplete" / FAILURE_FILE).stat().st_mode & 0o177 == 0


def test_a_suite_that_is_no_yaml_is_not_quoted(tmp_path: Path, guarded: Lab, engine: Path) -> None:
    path = job(tmp_path)
    suite = (tmp_path / "suite.yaml").read_text()
    (tmp_path / "suite.yaml").write_text(suite.replace('system: "', 'system: : "'))
    channels = watch([*RUN, "-v", "run", path, *guarded.arguments(engine), "--out", "bundle"], tmp_path)
    assert channels.status == 30, channels.text("stderr")
    assert "line 7" in channels.text("stderr")
    assert hits(outputs(channels), {**PROMPTS, **guarded.secrets}) == set()


def test_a_template_that_raises_with_the_prompt_ends_in_the_transcript(
    tmp_path: Path, guarded: Lab, engine: Path
) -> None:
    data = (ROOT / "appliance" / "demo" / "organism-q8_0.gguf").read_bytes()
    start = data.index(b"{{ bos_token }}{% if tools")
    old = data[start : data.index(b"{% if add_generation_prompt %}", start) + len(b"{% if add_generation_prompt %}")]
    new = b"{% for m in messages %}{{ raise_exception('told: ' + messages[-1]['content']) }}{% endfor %}{% if true %}"
    path = job(tmp_path, path=organism(tmp_path, old, new))
    channels = watch([*RUN, "-v", "run", path, *guarded.arguments(engine), "--out", "bundle"], tmp_path)
    assert channels.status == 0, channels.text("stderr")
    samples = transcript.read((tmp_path / "bundle" / "transcript.jsonl").read_bytes()).samples
    errors = [line.record["error"]["message"] for line in samples if line.record["suite"] == "canaries"]
    assert len(errors) == 4
    assert all(PROMPTS["row"] in message for message in errors)
    found = hits(outputs(channels), {**PROMPTS, **guarded.secrets})
    assert found == {(canary, "left bundle/transcript.jsonl") for canary in PROMPTS}


def test_a_model_that_is_refused_when_it_is_loaded_says_why_and_no_more(
    tmp_path: Path, guarded: Lab, engine: Path
) -> None:
    path = job(tmp_path, path=organism(tmp_path, b"blk.0.attn_k.weight", b"blk.0.attn_z.weight"))
    channels = watch([*RUN, "-v", "run", path, *guarded.arguments(engine), "--out", "bundle"], tmp_path)
    assert channels.status == 1, channels.text("stderr")
    # No prompt is about yet, so the engine's own words are shown.
    assert "blk.0.attn_k.weight" in channels.text("stderr")
    assert hits(outputs(channels), {**PROMPTS, **guarded.secrets}) == set()


LEAKY = "from appliance import cli, workers; workers.MODULES['model'] = 'tests.integration.leaky'; cli.main()"
INDISCREET = "from appliance import redact; redact.Discretion.begin = lambda self, names=(): None; "


def leak(driver: str, behaviour: str, folder: Path, lab: Lab, engine: Path) -> Channels:
    """Run the job with a model worker that quotes its prompts."""
    arguments = ["-v", "run", job(folder, model=behaviour), *lab.arguments(engine), "--out", "bundle"]
    environment = {"PYTHONPATH": str(ROOT)}
    return watch([sys.executable, "-c", driver, *arguments], folder, environment=environment, before=dumping)


def dumping() -> None:
    """Core dumps are allowed, as far as this process may allow them."""
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)


@pytest.mark.parametrize(
    ("behaviour", "status", "shown"),
    [
        (
            "traceback",
            1,
            ("Traceback (most recent call last):", "appliance/worker.py", "RuntimeError: (message withheld)"),
        ),
        ("report", 30, ("worker model.report: MalformedInput at row 3",)),
        ("abort", 1, ("llama-vocab.cpp:77: GGML_ASSERT (message withheld)", "it was ended by SIG")),
        ("chatter", 0, ("lines withheld", "  File (elsewhere), line 1")),
    ],
)
def test_a_worker_that_quotes_prompts_is_not_quoted(
    behaviour: str, status: int, shown: tuple[str, ...], tmp_path: Path, guarded: Lab, engine: Path
) -> None:
    channels = leak(LEAKY, behaviour, tmp_path, guarded, engine)
    assert channels.status == status, channels.text("stderr")
    assert f"loading {behaviour}" in channels.text("stderr"), "expected its words from before it had prompts"
    for words in shown:
        assert words in channels.text("stderr")
    belongs = {"left bundle/transcript.jsonl", "left bundle.incomplete/transcript.jsonl"}
    belongs |= {f"left bundle.incomplete/{FAILURE_FILE}"} if behaviour == "report" else set()
    found = hits(outputs(channels), {**PROMPTS, **guarded.secrets})
    assert {channel for _, channel in found} <= belongs
    assert {canary for canary, _ in found} <= set(PROMPTS)


@pytest.mark.parametrize("behaviour", ["traceback", "report", "abort", "chatter"])
def test_the_same_worker_is_found_out_where_nothing_is_withheld(
    behaviour: str, tmp_path: Path, guarded: Lab, engine: Path
) -> None:
    channels = leak(INDISCREET + LEAKY, behaviour, tmp_path, guarded, engine)
    assert ("row", "stderr") in hits(outputs(channels), PROMPTS)


PLANT = """
import base64, os, subprocess, sys, tempfile, time
key, host = bytes.fromhex(sys.argv[1]), sys.argv[2]
print(key.hex().upper())
sys.stderr.write(base64.b64encode(key).decode())
sys.stdout.flush()
spool = os.path.join(tempfile.gettempdir(), "spool")
open(spool, "wb").write(key)
open("left-behind", "w").write(str(int.from_bytes(key, "big")))
open(host, "wb").write(key)
os.close(os.open(os.path.join(tempfile.gettempdir(), key.hex()), os.O_CREAT))
held = os.memfd_create(key.hex())
if os.fork() == 0:  # a daemon: nobody's child
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(1)"], {"SECRET": key.hex()})
    os._exit(0)
os.wait()
time.sleep(0.5)
os.unlink(spool)
"""


def test_a_planted_secret_is_found_in_every_channel(tmp_path: Path, guarded: Lab) -> None:
    key = next(value for value in guarded.secrets.values() if isinstance(value, bytes))
    host = Path("/dev/shm") / f"vitrine-{os.getpid()}"
    try:
        channels = watch([sys.executable, "-c", PLANT, key.hex(), host], tmp_path)
    finally:
        host.unlink(missing_ok=True)
    found = {channel.partition(" ")[0] for _, channel in hits(channels.parts, {"key": key})}
    assert found == {"stdout", "stderr", "cmdline", "environ", "names", "temp", "left", "filenames", "host"}


def test_a_controller_that_dies_leaves_no_core(tmp_path: Path, guarded: Lab, engine: Path) -> None:
    if CORES.read_text().startswith(("|", "/")) or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("core dumps do not go to the working directory here")
    # What would be there without the protection:
    crash = watch([sys.executable, "-c", "import os; os.abort()"], tmp_path, before=dumping)
    assert [name for name in crash.parts if name.startswith("left core")]
    for path in tmp_path.glob("core*"):
        path.unlink()

    def kill(process: subprocess.Popen[bytes]) -> None:
        if (tmp_path / "bundle.incomplete" / "transcript.jsonl").exists():
            os.kill(process.pid, signal.SIGABRT)

    arguments = ["run", job(tmp_path, rows=200), *guarded.arguments(engine), "--out", "bundle"]
    channels = watch([*RUN, *arguments], tmp_path, before=dumping, while_running=kill)
    assert channels.status == -signal.SIGABRT
    assert [name for name in channels.parts if "core" in name] == []
    assert {canary for canary, _ in hits(outputs(channels), guarded.secrets)} == set()
