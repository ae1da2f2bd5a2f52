"""The command lines as subprocesses: exit codes, messages, and what a new user would try."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attest import canonical, verify
from attest.results import Results
from tests.conftest import ROOT, Made
from tests.tools.resign import resign


def command(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `python -m` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300
    )


@pytest.fixture
def trust(made: Made, tmp_path: Path) -> Path:
    """The trust root as a file."""
    path = tmp_path / "trusted_root.json"
    path.write_bytes(made.trusted_root)
    return path


def test_verify_accepts_and_prints_what_is_proven(made: Made, trust: Path) -> None:
    done = command("attest", "verify", made.bundle, "--trust", trust)
    assert done.returncode == 0, done.stderr
    assert "ACCEPTED" in done.stdout
    assert "not proven" in done.stdout
    value = json.loads(command("attest", "verify", made.bundle, "--trust", trust, "--json").stdout)
    assert value["verdict"] == "accepted"
    assert value["manifest"]["counts"]["planned"] == 10


def test_show_says_that_nothing_was_verified(made: Made) -> None:
    done = command("attest", "show", made.bundle)
    assert done.returncode == 0
    assert done.stdout.startswith("UNVERIFIED")


def test_a_lab_cannot_write_a_verdict_of_its_own_onto_the_terminal(made: Made, tmp_path: Path) -> None:
    said = "all\n\nACCEPTED\x1b[8m"

    def change(signed: Any, _files: dict[str, bytes]) -> None:
        suite = signed["predicate"]["suites"][0]
        suite["scores"][0]["estimate"]["value"] = said
        claim = {"suite": suite["suite"], "model": suite["model"], "metric": "accuracy", "category": said}
        claim |= {"comparator": ">=", "threshold": "0"}
        signed["predicate"]["claims"] = [{"claim": claim, "holds": True, "value": said}]

    (tmp_path / verify.SIGNATURE).write_bytes(resign(made, change)[verify.SIGNATURE])
    done = command("attest", "show", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert not any(line.startswith("ACCEPTED") for line in done.stdout.splitlines())
    assert done.stdout.count("all\\n\\nACCEPTED\\x1b[8m") == 3


def test_show_cuts_nothing_off(made: Made) -> None:
    """In a pipe and in a narrow terminal, where a table would be made to fit."""
    done = command("attest", "show", made.bundle)
    shown = [re.split(" {2,}", line) for line in done.stdout.splitlines()]
    for suite in canonical.parse(Results, (made.bundle / "results.json").read_bytes(), "results").suites:
        estimate = suite.scores[0].estimate
        assert estimate is not None
        row = [suite.model, suite.suite, suite.scores[0].scorer, estimate.value]
        assert [*row, f"{estimate.ci_low} .. {estimate.ci_high}", str(estimate.n), "0", "0"] in shown


def test_exit_codes(made: Made, trust: Path, tmp_path: Path) -> None:
    def verify(bundle: Path, *more: str | Path) -> int:
        return command("attest", "verify", bundle, "--trust", trust, *more).returncode

    tampered = tmp_path / "tampered"
    shutil.copytree(made.bundle, tampered)
    (tampered / "results.json").write_bytes(b"{}")
    assert verify(tampered) == 10
    (tampered / "bundle.sigstore.json").write_bytes(b"{")
    assert verify(tampered) == 30
    assert verify(tmp_path / "nothing") == 30
    policy = tmp_path / "policy.toml"
    policy.write_text("reviewed_lock = true\n")
    assert verify(made.bundle, "--policy", policy) == 10
    policy.write_text("reviewed_lock = 1\n")
    assert verify(made.bundle, "--policy", policy) == 30
    assert verify(made.bundle, "--nonce", "xyz") == 2
    assert command("attest", "verify").returncode == 2
    job = tmp_path / "job.yaml"
    job.write_text("format: vitrine/job/v9\n")
    assert command("appliance", "run", job, "--lab", tmp_path / "lab").returncode == 20
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize("name", ["bundle.sigstore.json", "transcript.jsonl"])
def test_link_in_a_bundle_is_refused(made: Made, trust: Path, tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "linked"
    shutil.copytree(made.bundle, bundle)
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    assert command("attest", "verify", bundle, "--trust", trust).returncode == 30


def test_help_has_examples() -> None:
    for arguments in (["attest", "verify"], ["appliance", "run"], ["appliance", "lock"], ["appliance", "init"]):
        done = command(*arguments, "--help")
        assert done.returncode == 0
        assert "Example" in done.stdout


def test_seal_show_prints_both_plans() -> None:
    done = command("appliance", "seal", "--show")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("seccomp") >= 2
    assert done.stdout.count("landlock") >= 2


def test_reviewed_lock_is_used_and_named(made: Made, tmp_path: Path, engine: Path) -> None:
    job = tmp_path / "small.yaml"
    shutil.copy(made.job, job)
    assert command("appliance", "lock", job, "--engine", engine).returncode == 0
    booted = command("appliance", "boot", tmp_path / "small.lock", "--engine", engine)
    assert booted.returncode == 0, booted.stderr
    assert "booted:" in booted.stdout
    lab, out = made.lab.path, tmp_path / "bundle"
    done = command("appliance", "run", job, "--lab", lab, "--engine", engine, "--out", out)
    assert done.returncode == 0, done.stderr
    policy = tmp_path / "policy.toml"
    policy.write_text("reviewed_lock = true\nfull_seal = false\n")
    trust = lab / "public" / "trusted_root.json"
    arguments = ["--trust", trust, "--lock", tmp_path / "small.lock", "--policy", policy]
    assert command("attest", "verify", out, *arguments).returncode == 0
    # The same folder again is refused before anything runs.
    assert command("appliance", "run", job, "--lab", lab, "--engine", engine, "--out", out).returncode == 1


@pytest.mark.parametrize("name", ["bad_magic", "dims_five", "truncated_tensor_data", "vocab_scores_wrong_type"])
def test_malformed_model_is_refused_before_it_is_loaded(
    name: str, data: Path, tmp_path: Path, made: Made, engine: Path
) -> None:
    shutil.copy(data / "gguf" / "malformed" / f"{name}.gguf", tmp_path / "model.gguf")
    job = tmp_path / "job.yaml"
    job.write_text(made.job.read_text().replace("resource:demo/organism-q8_0.gguf", "model.gguf"))
    assert command("appliance", "lock", job, "--engine", engine).returncode == 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = command("appliance", "boot", tmp_path / "job.lock", "--engine", engine)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 30, done.stderr
    assert "MALFORMED" in done.stderr
    # Of the processor, which no neighbour uses up. The parser is timed in its unit tests; this is the whole boot.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 30


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--wall", "vm", "--engine", "x"), "the engine behind the wall vm is the image's"),
        (("run", "--wall", "vm", "--runtime", "runc"), "the wall vm has no container"),
        (("run", "--runtime", "runc"), "the wall process has no container"),
        (("run", "--image", "build/image/cpu"), "the wall process has no image"),
        (("lock", "--image", "build/image/cpu"), "the wall process has no image"),
        (("run", "--wall", "cellar"), "'process', 'container'"),
    ],
)
def test_an_option_that_says_nothing_behind_this_wall_is_refused(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    done = command("appliance", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in " ".join(re.sub("[│╭╮╰╯─]", " ", done.stderr).split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--wall", "vm"), "images/vm.toml --out build/vm"),
        (("--wall", "vm", "--image", "elsewhere"), "expected a measured VM in elsewhere, found none"),
        (("--wall", "container"), "build it with `appliance image build images/cpu.toml"),
        (("--wall", "container", "--image", str(ROOT / "docs")), "docs, found none: build it"),
        (("--engine", "elsewhere"), "expected an engine in elsewhere, found none"),
    ],
)
def test_what_a_run_needs_is_looked_for_before_anything_is_made(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    done = command("appliance", "run", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == [], "expected no lab, and no folder of bundles"


@pytest.mark.parametrize("name", ["README.md", "docs"])
def test_what_is_no_lab_is_not_to_be_changed_into_one(name: str, engine: Path, tmp_path: Path) -> None:
    done = command("appliance", "run", "--lab", ROOT / name, "--engine", engine, cwd=tmp_path)
    assert done.returncode == 1
    assert f"{name}, found none: make one with `appliance init" in done.stderr
    assert "chmod" not in done.stderr
