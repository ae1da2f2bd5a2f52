"""A lock that is older than one that ran on a machine is refused there, by the commands: its TPM remembers, no folder.

The TPM is real software (swtpm) that was told of a recorded boot; the runs are real.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from appliance.attester import host, versions
from appliance.cli import app
from attest import policy, rollback, verify
from attest.cli import read_bundle
from attest.errors import Exit, VerificationError
from tests.tools import swtpm
from tests.tools.lab_logs import attest


@dataclass(frozen=True)
class Story:
    """A job with locks of versions 2 and 3, and a lab with a TPM."""

    at: Path
    job: Path
    engine: Path

    @property
    def lab(self) -> Path:
        return self.at / "lab"

    @property
    def root(self) -> bytes:
        return (self.lab / "public/trusted_root.json").read_bytes()

    def command(self, *arguments: object) -> Any:
        """`appliance`, in this process, whose logging is as before when it ends."""
        before = structlog.get_config()
        try:
            return CliRunner().invoke(app, [str(argument) for argument in arguments])
        finally:
            structlog.configure(**before)

    def run(self, name: str, lock: int | None) -> Any:
        """A run that the TPM speaks for, with the lock of a version, or with one that is made for it."""
        given = ("--lock", self.at / f"{lock}.lock") if lock else ()
        asked = ("--engine", self.engine, "--lab", self.lab, "--out", self.at / name, "--attester", "tpm")
        return self.command("run", self.job, *given, *asked)

    def entries(self) -> int:
        """How many entries the lab's log has."""
        done = self.command("log", "checkpoint", "--lab", self.lab, "--out", self.at / "now")
        assert done.exit_code == 0, done.output
        text = (self.at / "now").read_text()
        (self.at / "now").unlink()
        return int(text.splitlines()[1])


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, job_file: Path, engine: Path) -> Iterator[Story]:
    at = tmp_path_factory.mktemp("rollback")
    story = Story(at, Path(shutil.copy(job_file, at)), engine)
    for version in (2, 3):
        made = ("--engine", engine, "--version", version, "--out", at / f"{version}.lock")
        assert story.command("lock", story.job, *made).exit_code == 0
    assert story.command("init", story.lab, "--name", "evals.lab.example").exit_code == 0
    shutil.copytree(story.lab, at / "saved")
    with swtpm.served(at / "tpm") as socket, pytest.MonkeyPatch.context() as patched:
        with swtpm.opened(socket) as device:
            swtpm.measured_boot(device)
        here = partial(host.Devices, tpm=lambda: swtpm.connected(socket), event_log=swtpm.EVENT_LOG)
        patched.setattr(host, "Devices", here)
        done = story.run("three", 3)
        assert done.exit_code == 0, done.exception
        yield story


def refused(done: Any) -> str:
    assert isinstance(done.exception, VerificationError), done.output
    assert done.exception.exit_code == Exit.REJECTED
    return str(done.exception)


def test_an_older_lock_is_refused_before_the_lab_logs_anything(story: Story) -> None:
    before = story.entries()
    for name, lock, found in (("two", 2, "version 2"), ("none", None, "version 1")):
        text = refused(story.run(name, lock))
        assert "rollback/version: expected lock small of version 3 or later" in text
        assert found in text
        assert not (story.at / name).exists()
    assert story.entries() == before


def test_the_auditor_sees_what_the_tpm_keeps(story: Story) -> None:
    found = verify.verify(read_bundle(story.at / "three"), story.root, policy=policy.read(b"rollback_refused = true"))
    assert any("kept 3 as the newest version of the lock small" in line for line in found.proven)
    assert any("forget a newer version" in line for line in found.not_proven)
    (story.at / "strict.toml").write_text("rollback_refused = true\n")
    root = story.lab / "public/trusted_root.json"
    code, text, _ = attest("verify", story.at / "three", "--trust", root, "--policy", story.at / "strict.toml")
    assert (code, "newest version of the lock small" in text) == (0, True)


def test_a_lab_folder_that_was_put_back_does_not_help(story: Story) -> None:
    shutil.rmtree(story.lab)
    shutil.copytree(story.at / "saved", story.lab)
    assert "rollback/version" in refused(story.run("two-again", 2))
    assert story.run("three-again", 3).exit_code == 0


def test_an_appliance_that_refuses_nothing_is_told_by_the_tpm(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that leaves the TPM as it was: the bundle has the older lock beside the TPM's newer version."""
    monkeypatch.setattr(rollback, "admit", lambda _asked, _kept: None)
    monkeypatch.setattr(versions.commands, "nv_write", lambda *_: None)
    assert story.run("liar", 2).exit_code == 0
    with pytest.raises(VerificationError, match=r"rollback/lock.*\('small', 2\).*\('small', 3\)"):
        verify.verify(read_bundle(story.at / "liar"), story.root)
    # One that does not let the TPM speak of versions at all.
    monkeypatch.setattr(versions, "admit", lambda _tpm, _asked: {})
    assert story.run("silent", 2).exit_code == 0
    files = read_bundle(story.at / "silent")
    assert not [line for line in verify.verify(files, story.root).proven if "newest version" in line]
    with pytest.raises(VerificationError, match="policy/rollback"):
        verify.verify(files, story.root, policy=policy.read(b"rollback_refused = true"))
