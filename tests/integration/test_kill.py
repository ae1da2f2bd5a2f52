"""Kill -9 of controller, eval worker and model worker at random times: going on ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from appliance import run
from appliance.notary.lab import Lab
from appliance.resume import SAMPLE_LINE
from attest import verify
from attest.cli import app, read_bundle
from attest.errors import Exit, Unsupported, VerificationError
from attest.policy import Policy
from tests.conftest import ROOT, quiet

pytestmark = [pytest.mark.engine, pytest.mark.slow]
KILLS = 20
SEED = 20240601
VICTIMS = ("controller", "appliance.evals.worker", "appliance.runtime.worker")
AWAY_S = 20.0
"""How long after a kill all of the run's processes may take to be gone."""
DEMO = ROOT / "appliance" / "demo"
JOB = """
format: vitrine/job/v1
name: killed
seed: 11
models:
  - {id: organism, path: "resource:demo/organism-q8_0.gguf"}
suites:
  - {path: "resource:demo/suites/addition.yaml", limit: 14, shuffle: 5}
  - {path: "resource:demo/suites/facts.yaml", limit: 8}
  - {path: "resource:demo/suites/rude.yaml", limit: 16}
  - {path: judged.yaml, limit: 10, models: [organism], judge: organism}
  - {path: agent.yaml, limit: 6}
  - {path: attacked.yaml, limit: 6}
sampling: {temperature: "0.9", top_p: "0.95", max_tokens: 48}
limits: {context_tokens: 512, memory_bytes: 1073741824}
numerics: {sequences: 4}
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of sixty samples: plain ones, weighed options, a judge, an agent with a tool, attacks."""
    folder = tmp_path_factory.mktemp("job")
    judge = {
        "scorer": "judge",
        "name": "refused",
        "user": "Is it rude? {{ reply }}",
        "verdicts": {"yes": "1", "no": "0"},
    }
    sources = {
        "judged": (DEMO / "suites" / "chat.yaml", {"scorers": [judge]}),
        "agent": (ROOT / "examples" / "suites" / "agent-calculator.yaml", {}),
        "attacked": (ROOT / "examples" / "suites" / "redteam-rude.yaml", {}),
    }
    for name, (path, changes) in sources.items():
        suite = {**yaml.safe_load(path.read_text()), "name": name, **changes}
        suite["dataset"]["path"] = str(path.parent / suite["dataset"]["path"])
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(suite))
    (folder / "job.yaml").write_text(JOB)
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def whole(job: Path, tmp_path_factory: pytest.TempPathFactory, lab: Lab, engine: Path) -> Path:
    """The bundle of the run that nobody interrupts."""
    out = tmp_path_factory.mktemp("whole") / "bundle"
    return run.run(run.Request(job=job, lab=lab, engine=engine, out=out), quiet).bundle


def start(job: Path, lab: Lab, engine: Path, *options: str) -> subprocess.Popen[bytes]:
    """`appliance run` in a process of its own."""
    command = [sys.executable, "-m", "appliance", "run", str(job), "--lab", str(lab.path), "--engine", str(engine)]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def samples(folder: Path) -> int:
    """How many samples the transcript in `folder` has."""
    with contextlib.suppress(OSError):
        return sum(line.startswith(SAMPLE_LINE) for line in (folder / "transcript.jsonl").read_bytes().split(b"\n"))
    return 0


def descendants(pid: int) -> dict[int, str]:
    """The processes below `pid`, and their command lines."""
    parents, lines = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return {child: lines[child] for child in below - {pid}}


def kill(process: subprocess.Popen[bytes], victim: str) -> bool:
    """SIGKILL for the victim, where it is there; whether it was."""
    below = descendants(process.pid)
    if victim == "controller":
        found = [process.pid] if process.poll() is None else []
    else:
        # The keeper is the worker's parent, and has the same command line: the worker is the youngest.
        found = [pid for pid, line in below.items() if victim in line][-1:]
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


def test_killed_at_random_times_it_ends_with_identical_digests(
    job: Path, whole: Path, tmp_path: Path, lab: Lab, engine: Path
) -> None:
    dice, kills, chains = random.Random(SEED), dict.fromkeys(VICTIMS, 0), 0
    while sum(kills.values()) < KILLS:
        chains += 1
        out = tmp_path / f"chain-{chains}"
        folder = tmp_path / f"chain-{chains}.incomplete"
        while not out.exists():
            resumed = samples(folder) > 0
            process = start(job, lab, engine, *(("--resume", str(folder)) if resumed else ("--out", str(out))))
            if sum(kills.values()) < KILLS:
                victim, more, delay_s = dice.choice(VICTIMS), dice.randrange(0, 7), dice.random() * 0.3
                wanted = samples(folder) + more
                while process.poll() is None and not (samples(folder) >= wanted and len(descendants(process.pid)) >= 2):
                    time.sleep(0.01)
                time.sleep(delay_s)
                kills[victim] += kill(process, victim)
            _, said = process.communicate(timeout=300)
            assert process.returncode in (0, 1, -signal.SIGKILL), said.decode()
            assert process.returncode or out.exists()
        same(out, whole)
    assert min(kills.values()) >= 3


def same(out: Path, whole: Path) -> None:
    """The bundle in `out` has the bytes of the uninterrupted run's, and says which attempts it is made of."""
    for name in ("transcript.jsonl", "results.json", "evidence/job.json", "evidence/disclosure.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    trust = (out / "trust" / "trusted_root.json").read_bytes()
    verified = verify.verify(read_bundle(out), trust)
    first = verify.verify(read_bundle(whole), trust)
    assert verified.manifest.transcript == first.manifest.transcript
    assert verified.manifest.results_digest == first.manifest.results_digest
    assert verified.manifest.complete
    told = any("is the lab's word" in line for line in verified.not_proven)
    assert told == (verified.manifest.resumed is not None)
    shown = CliRunner().invoke(app, ["verify", str(out), "--trust", str(out / "trust" / "trusted_root.json")])
    assert ("\nresumed    yes: " in shown.stdout) == told, shown.output
    if told:
        with pytest.raises(VerificationError, match=r"policy/uninterrupted"):
            verify.verify(read_bundle(out), trust, policy=Policy(uninterrupted=True))


@pytest.fixture
def cut(job: Path, whole: Path, tmp_path: Path, lab: Lab, engine: Path) -> Path:
    """The folder of a run that was killed after its tenth sample, or soon after."""
    folder = tmp_path / "bundle.incomplete"
    process = start(job, lab, engine, "--out", str(tmp_path / "bundle"))
    while process.poll() is None and samples(folder) < 10:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert samples(folder) >= 10
    return folder


def again(job: Path, lab: Lab, engine: Path, folder: Path, **fields: object) -> run.Outcome:
    """Go on with the run in `folder`."""
    request = run.Request(
        job=job, lab=lab, engine=engine, out=folder.with_suffix(""), resume_key=lab.resume_key, resume=True
    )
    return run.run(run.Request(**{**vars(request), **fields}), quiet)


def test_what_was_cut_off_is_neither_forgotten_nor_taken_up_changed(
    cut: Path, job: Path, whole: Path, lab: Lab, engine: Path, tmp_path: Path
) -> None:
    # Not forgotten.
    process = start(job, lab, engine, "--out", str(tmp_path / "bundle"))
    _, said = process.communicate(timeout=300)
    assert process.returncode == Exit.FAULT
    assert b"finished samples" in said
    assert b"--resume" in said
    # Not another job's.
    other = job.with_name("other.yaml")
    other.write_text(JOB.replace("seed: 11", "seed: 12"))
    with pytest.raises(VerificationError) as caught:
        again(other, lab, engine, cut)
    assert (caught.value.layer, caught.value.code) == ("resume", "mark")
    # Not without the lab's key, nor while another run writes there.
    with pytest.raises(Unsupported):
        again(job, lab, engine, cut, resume_key=None)
    # Nor with a sample changed.
    script = cut / "transcript.jsonl"
    good = script.read_bytes()
    script.write_bytes(good.replace(b'"index":3,', b'"index":4,', 1))
    with pytest.raises(VerificationError):
        again(job, lab, engine, cut)
    script.write_bytes(good)
    # As it is, it ends as the whole one.
    outcome = again(job, lab, engine, cut)
    same(outcome.bundle, whole)
    assert not cut.exists()
    manifest = verify.verify(
        read_bundle(outcome.bundle), (outcome.bundle / "trust" / "trusted_root.json").read_bytes()
    ).manifest
    assert manifest.resumed is not None
    (earlier,) = manifest.resumed
    assert earlier.attempt < manifest.job.attempt
    assert earlier.samples >= 9  # the last one may have been written, and not marked yet
