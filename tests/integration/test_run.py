"""The whole way on the real engine: run, verify, repeat, tamper, interrupt."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import relay, run
from appliance.boot import BootRefused
from appliance.notary.lab import Lab
from attest import transcript, verify
from attest.cli import read_bundle
from attest.errors import EnvironmentProblem, Exit, VerificationError, VitrineError
from attest.policy import Policy
from attest.verify import Verified
from tests.conftest import ROOT, SMALL_JOB, Made, quiet

NONCE = "00112233445566778899aabbccddeeff"


def check(made: Made, **fields: object) -> Verified:
    """Verify the made bundle."""
    return verify.verify(read_bundle(made.bundle), made.trusted_root, **fields)  # type: ignore[arg-type]


def test_bundle_verifies_and_says_what_is_not_proven(made: Made) -> None:
    verified = check(made, nonce=NONCE)
    assert verified.assurance == ("signed", "measured")
    assert verified.manifest.counts.model_dump() == {"planned": 10, "run": 10, "failed": 0}
    assert [(s.suite, s.run) for s in verified.results.suites] == [("addition", 4), ("facts", 3), ("chat", 3)]
    assert any("no hardware evidence" in line for line in verified.not_proven)
    assert any("made for this run" in line for line in verified.not_proven)
    assert all(section.violations == 0 and section.probes > 20 for section in verified.manifest.seal)


def test_samples_carry_tokens_likelihoods_and_fingerprints(made: Made) -> None:
    records = [line.record for line in transcript.read((made.bundle / "transcript.jsonl").read_bytes()).samples]
    generated = [record["generation"] for record in records if "generation" in record]
    assert len(generated) == 7
    assert all(len(item["tokens"]) == len(item["logprobs"]) for item in generated)
    assert len({item["logits_digest"] for item in generated}) == len(generated)
    weighed = [record["choices"] for record in records if "choices" in record]
    assert [len(choices) for choices in weighed] == [4, 4, 4]
    assert all(record["prompt_tokens"] for record in records)


def test_same_job_gives_the_same_bytes(made: Made, tmp_path: Path, execute: Callable[..., run.Outcome]) -> None:
    again = execute(made.job, tmp_path / "again").bundle
    for name in ("results.json", "transcript.jsonl", "evidence/job.json"):
        assert (again / name).read_bytes() == (made.bundle / name).read_bytes()
    first, second = check(made).manifest, verify.verify(read_bundle(again), made.trusted_root).manifest
    assert first.transcript == second.transcript
    assert second.job.attempt > first.job.attempt


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"nonce": "ff" * 16}, "job/nonce-given"),
        ({"lock": b"{}"}, "lock/given"),
        ({"policy": Policy(reviewed_lock=True)}, "policy/reviewed-lock"),
        ({"policy": Policy(walls=("vm",))}, "policy/wall"),
        ({"policy": Policy(locks=("sha256:" + "0" * 64,))}, "policy/lock"),
        ({"policy": Policy(identity="https://other.example/appliance/*")}, "signature/identity"),
    ],
)
def test_valid_bundle_that_is_not_what_was_asked_for_is_rejected(
    made: Made, fields: dict[str, object], code: str
) -> None:
    with pytest.raises(VerificationError) as caught:
        check(made, **fields)
    assert f"{caught.value.layer}/{caught.value.code}" == code


def test_bundle_of_another_lab_is_rejected(made: Made, tmp_path: Path) -> None:
    from appliance.notary import lab as labs
    from tests.conftest import now

    other = labs.create(tmp_path / "other", now=now)
    with pytest.raises(VerificationError):
        verify.verify(read_bundle(made.bundle), other.trusted_root)


def offsets(size: int) -> list[int]:
    """The first and last bytes of a file, and many between."""
    step = max(1, size // 40)
    return sorted({0, 1, size - 2, size - 1, *range(0, size, step)} & set(range(size)))


@pytest.mark.parametrize("name", [verify.SIGNATURE, *verify.FILES])
def test_any_flipped_byte_is_rejected(made: Made, name: str) -> None:
    files = read_bundle(made.bundle)
    good = files[name]
    for offset in offsets(len(good)):
        for mask in (0x01, 0x20, 0x80):
            files[name] = good[:offset] + bytes([good[offset] ^ mask]) + good[offset + 1 :]
            with pytest.raises(VitrineError) as caught:
                verify.verify(files, made.trusted_root)
            assert caught.value.exit_code in (Exit.REJECTED, Exit.MALFORMED, Exit.UNSUPPORTED)


@pytest.mark.parametrize("name", [verify.SIGNATURE, *verify.FILES])
def test_missing_file_and_surplus_file_are_refused(made: Made, name: str) -> None:
    files = read_bundle(made.bundle)
    data = files.pop(name)
    with pytest.raises(VitrineError):
        verify.verify(files, made.trusted_root)
    with pytest.raises(VitrineError):
        verify.verify(files | {name: data, "evidence/more.json": b"{}"}, made.trusted_root)


@pytest.mark.parametrize("artifact", ["model", "suite", "dataset", "library", "lock"])
def test_one_flipped_byte_stops_the_boot(artifact: str, tmp_path: Path, engine: Path, lab: Lab) -> None:
    shutil.copytree(ROOT / "appliance" / "demo", tmp_path / "demo")
    shutil.copytree(engine, tmp_path / "engine")
    job = tmp_path / "demo" / "job.yaml"
    job.write_text(SMALL_JOB.replace("resource:demo/", ""))
    lock = tmp_path / "demo" / "job.lock"
    appliance("lock", str(job), "--out", str(lock), "--engine", str(tmp_path / "engine"))
    target = {
        "model": tmp_path / "demo" / "organism-q8_0.gguf",
        "suite": tmp_path / "demo" / "suites" / "addition.yaml",
        "dataset": tmp_path / "demo" / "data" / "facts.jsonl",
        "library": tmp_path / "engine" / "libllama.so",
        "lock": lock,
    }[artifact]
    content = bytearray(target.read_bytes())
    at = content.index(b"sha256:") + 10 if artifact == "lock" else len(content) // 2
    content[at] ^= 1
    target.write_bytes(content)
    with pytest.raises((VitrineError, BootRefused)) as caught:
        run.run(run.Request(job=job, lab=lab, engine=tmp_path / "engine", out=tmp_path / "out", lock=lock), quiet)
    assert caught.value.exit_code in (Exit.REJECTED, Exit.MALFORMED) or isinstance(caught.value, EnvironmentProblem)
    assert not (tmp_path / "out").exists()


def appliance(*arguments: str, status: int = 0) -> str:
    """Run the command line; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "appliance", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C works, also where these tests were started in the background, with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("victim", ["controller", "model worker"])
def test_run_that_is_ended_early_leaves_a_transcript_that_says_so(
    victim: str, tmp_path: Path, job_file: Path, execute: Callable[..., run.Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = relay._store

    def store(frame: object, evals: object, writer: object) -> None:
        original(frame, evals, writer)  # type: ignore[arg-type]
        if len(writer.samples) == 2:  # type: ignore[attr-defined]
            if victim == "controller":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                for pid in children(b"appliance.runtime.worker"):
                    os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(relay, "_store", store)
    with pytest.raises((KeyboardInterrupt, relay.WorkerFailure)):
        execute(job_file, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    left = transcript.read((tmp_path / "bundle.incomplete" / "transcript.jsonl").read_bytes())
    assert left.closing == {"ended_by": "interrupted" if victim == "controller" else "failed"}
    assert 2 <= len(left.samples) < 10


@pytest.mark.usefixtures("interruptible")
def test_incomplete_run_that_is_signed_says_so(
    tmp_path: Path, job_file: Path, execute: Callable[..., run.Outcome], monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    timer = threading.Timer(0, lambda: None)
    original = relay._store

    def store(frame: object, evals: object, writer: object) -> None:
        original(frame, evals, writer)  # type: ignore[arg-type]
        if len(writer.samples) == 3 and not timer.finished.is_set():  # type: ignore[attr-defined]
            timer.finished.set()
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(relay, "_store", store)
    outcome = execute(job_file, tmp_path / "bundle", sign_incomplete=True)
    assert (outcome.ended_by, outcome.results.complete) == ("interrupted", False)
    files = read_bundle(outcome.bundle)
    with pytest.raises(VerificationError, match="policy/complete"):
        verify.verify(files, made.trusted_root)
    verified = verify.verify(files, made.trusted_root, policy=Policy(complete=False))
    assert not verified.manifest.complete
    assert not any(result.holds for result in verified.results.claims if result.claim.suite == "chat")
    assert any("missing" in line for line in verified.not_proven)


def children(module: bytes) -> list[int]:
    """The processes of this one that run `module`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and module in (entry / "cmdline").read_bytes():
                status = (entry / "status").read_text()
                if f"PPid:\t{os.getpid()}\n" in status:
                    found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def test_no_worker_outlives_its_run(made: Made) -> None:
    time.sleep(0.1)
    assert children(b"appliance.runtime.worker") == []
    assert children(b"appliance.evals.worker") == []
