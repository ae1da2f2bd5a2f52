"""What happens to a lab that puts its directory back, forks it or numbers an attempt again: by the commands alone.

The runs are real, and every bundle here verifies by itself: what is wrong is between them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance import run
from appliance.notary import lab as notary
from tests.tools.lab_logs import appliance_log, attest


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Story:
    """A lab, and an auditor who is a witness of its log, after two attempts at a job."""

    at: Path
    """Everybody's files."""
    lab: Path
    """The lab's directory."""
    saved: Path
    """The same after the first attempt."""
    run: Callable[[Path, str], Path]
    """One more attempt by the lab in a directory; the bundle."""

    def attest(self, *arguments: object) -> tuple[int, str]:
        """Exit code, and what is said."""
        code, text, error = attest(*arguments, "--trust", self.at / "trusted_root.json")
        return code, f"{text}{error or ''}"

    def log(self, lab: Path, *arguments: object) -> tuple[int, str]:
        """`appliance log` of the lab in a directory."""
        code, text, error = appliance_log(*arguments, "--lab", lab)
        return code, f"{text}{error or ''}"

    def cosign(self, lab: Path, old: int, name: str) -> tuple[int, str]:
        """What the witness says to the log as it is, with a proof from `old` entries on."""
        new, proof, out = (self.at / f"{name}.{kind}" for kind in ("checkpoint", "growth", "cosigned"))
        for arguments in (("checkpoint", "--out", new), ("prove", "--old", old, "--out", proof)):
            code, text = self.log(lab, *arguments)
            assert code == 0, text
        key = ("--state", self.at / "seen", "--key", self.at / "auditor")
        first = ("--first",) if old == 0 else ("--proof", proof)
        return self.attest("witness", "cosign", new, *first, *key, "--out", out)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, job_file: Path, execute: Callable[..., run.Outcome]) -> Story:
    at = tmp_path_factory.mktemp("story")
    notary.create(at / "lab", now=now)

    def attempt(lab: Path, name: str) -> Path:
        return execute(job_file, at / name, lab=notary.open_lab(lab, now=now)).bundle

    story = Story(at, at / "lab", at / "saved", attempt)
    shutil.copy(story.lab / "public/trusted_root.json", at)
    assert attest("witness", "keygen", "auditor.example", "--out", at / "auditor")[0] == 0
    attempt(story.lab, "first")
    assert story.cosign(story.lab, 0, "one")[0] == 0
    shutil.copytree(story.lab, story.saved)
    attempt(story.lab, "second")
    assert story.cosign(story.lab, 2, "two")[0] == 0
    seen = ("witnessed", at / "second", "--cosigned", at / "two.cosigned", "--out", at / "second.witnessed")
    assert story.log(story.lab, *seen)[0] == 0
    return story


def test_a_witnessed_bundle_says_who_saw_it(story: Story) -> None:
    seen = ("--witnessed", story.at / "second.witnessed", "--witness-key", story.at / "auditor.pub")
    code, text = story.attest("verify", story.at / "second", *seen)
    assert code == 0, text
    assert ", witnessed\n" in text
    assert "auditor.example saw intent and signature" in text
    assert "shows everybody the same log" not in text
    _, text = story.attest("verify", story.at / "second", *seen, "--json")
    (witness,) = json.loads(text)["witnesses"]
    assert witness["key"] == (story.at / "auditor.pub").read_text().strip()
    _, text = story.attest("verify", story.at / "second")
    assert "shows everybody the same log" in text


def test_a_policy_requires_witnesses_and_versions(story: Story) -> None:
    seen = ("--witnessed", story.at / "second.witnessed", "--witness-key", story.at / "auditor.pub")
    policy = story.at / "policy.toml"
    for text, arguments, code in (
        ("required_witnesses = 1", seen, ""),
        ("required_witnesses = 1", (*seen, "--witness-key", story.at / "auditor.pub"), ""),
        ("required_witnesses = 1", (), "policy/witnesses"),
        ("required_witnesses = 2", (*seen, "--witness-key", story.at / "auditor.pub"), "policy/witnesses"),
        ("minimum_lock_version = 1", (), ""),
        ("minimum_lock_version = 2", (), "policy/lock-version"),
        ("minimum_image_version = 0", (), "policy/image-version"),
    ):
        policy.write_text(text + "\n")
        found, said = story.attest("verify", story.at / "second", "--policy", policy, *arguments)
        assert (found, code in said) == (10 if code else 0, True), said


def test_another_bundle_or_witness_is_not_what_was_seen(story: Story) -> None:
    seen = ("--witnessed", story.at / "second.witnessed")
    known = ("--witness-key", story.at / "auditor.pub")
    code, text = story.attest("verify", story.at / "first", *seen, *known)
    assert (code, "witness/inclusion" in text) == (10, True), text
    assert attest("witness", "keygen", "auditor.example", "--out", story.at / "other")[0] == 0
    code, text = story.attest("verify", story.at / "second", *seen, "--witness-key", story.at / "other.pub")
    assert (code, "witness/cosignature" in text) == (10, True), text
    assert story.attest("verify", story.at / "second", *seen)[0] == 2


def test_an_attempt_that_was_numbered_again_in_a_restored_directory_is_caught(story: Story) -> None:
    restored = Path(shutil.copytree(story.saved, story.at / "restored"))
    again = story.run(restored, "again")
    # By itself nothing is wrong with it: attempt 2, as the one before, in a log that is in order.
    code, text = story.attest("verify", again)
    assert (code, "attempt 2" in text) == (0, True), text
    assert story.log(restored, "copy", "--out", story.at / "copy")[0] == 0
    assert story.attest("ledger", story.at / "copy", "--bundle", again)[0] == 0
    # 1. Whoever has the other bundle, or kept a checkpoint, sees the fork.
    for kept in ("second", "two.checkpoint", "two.cosigned"):
        code, text = story.attest("consistency", story.at / kept, story.at / "copy")
        assert (code, "log/forked" in text) == (10, True), text
    code, text = story.attest("ledger", story.at / "copy", "--bundle", story.at / "second")
    assert (code, "log/forked" in text) == (10, True), text
    # 2. The witness does not cosign it, also not when it has grown, ...
    code, text = story.cosign(restored, 4, "forked")
    assert (code, "log/forked" in text) == (10, True), text
    lab = notary.open_lab(restored, now=now)
    job, lock, key = ("sha256:" + digit * 64 for digit in "123")
    lab.register({"job_digest": job, "lock_digest": lock, "key_digest": key})
    code, text = story.cosign(restored, 4, "grown")
    assert (code, "log/consistency" in text) == (10, True), text
    # 3. ... so that there is nothing that this bundle could be proven under.
    arguments = ("witnessed", again, "--cosigned", story.at / "two.cosigned", "--out", story.at / "none")
    code, text = story.log(restored, *arguments)
    assert (code, "log/forked" in text) == (10, True), text
    seen = ("--witnessed", story.at / "second.witnessed", "--witness-key", story.at / "auditor.pub")
    code, text = story.attest("verify", again, *seen)
    assert (code, "witness/inclusion" in text) == (10, True), text
    # The honest directory goes on.
    assert story.cosign(story.lab, 4, "on")[0] == 0


def test_a_directory_that_was_put_back_and_rests_is_caught(story: Story) -> None:
    for kept in ("second", "two.cosigned"):
        code, text = story.attest("consistency", story.at / kept, story.saved / "log")
        assert (code, "log/rolled-back" in text) == (10, True), text
    code, text = story.cosign(story.saved, 1, "older")
    assert (code, "log/rolled-back" in text) == (10, True), text
