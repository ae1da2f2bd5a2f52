"""Another lab's run beside a verified one: the same records, some of them, or the one that was changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from appliance import run
from appliance.notary import lab as labs
from appliance.notary.lab import Lab
from attest import canonical, reproduction, transcript, verify
from attest.cli import app, read_bundle
from attest.digest import digest_of
from attest.errors import VerificationError
from attest.reproduction import chance, difference
from attest.verify import Verified
from tests.conftest import Made, now
from tests.tools.resign import describe, resign

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def partner(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return labs.create(tmp_path_factory.mktemp("partner") / "lab", "partner.example", now=now)


@pytest.fixture(scope="module")
def again(made: Made, partner: Lab, execute: Callable[..., run.Outcome], tmp_path_factory: Any) -> Path:
    """The partner's run of the same job."""
    return execute(made.job, tmp_path_factory.mktemp("again") / "bundle", lab=partner).bundle


def seen(bundle: Path | dict[str, bytes], root: bytes) -> Verified:
    return verify.verify(bundle if isinstance(bundle, dict) else read_bundle(bundle), root)


def test_a_run_of_another_lab_reproduces_it(made: Made, partner: Lab, again: Path) -> None:
    verified = seen(made.bundle, made.trusted_root)
    rerun = seen(again, partner.trusted_root)
    both = reproduction.add(verified, [rerun])
    (found,) = both.reproductions
    assert (found.whole, found.same_lab, found.same_engine, found.compared) == (True, False, True, 10)
    assert found.issuer == rerun.issuer
    assert any("another lab" in line and "byte for byte" in line for line in both.proven)
    assert not any("that the outputs come from the model" in line for line in both.not_proven)
    assert any("that the outputs come from the model" in line for line in verified.not_proven)


def test_the_verdict_says_so(made: Made, partner: Lab, again: Path, tmp_path: Path) -> None:
    (tmp_path / "ours.json").write_bytes(made.trusted_root)
    (tmp_path / "theirs.json").write_bytes(partner.trusted_root)
    command = ["verify", str(made.bundle), "--trust", str(tmp_path / "ours.json"), "--rerun", str(again)]
    result = CliRunner().invoke(app, [*command, "--rerun-trust", str(tmp_path / "theirs.json")])
    assert result.exit_code == 0
    assert "reproduced (1)" in result.stdout
    result = CliRunner().invoke(app, [*command, "--rerun-trust", str(tmp_path / "theirs.json"), "--json"])
    assert json.loads(result.stdout)["reproductions"][0]["whole"] is True
    assert CliRunner().invoke(app, command).exit_code == 2


def test_a_part_that_was_drawn_again_is_a_sample(
    made: Made, execute: Callable[..., run.Outcome], tmp_path: Path
) -> None:
    text = made.job.read_text()
    assert "limit: 3" in text
    (tmp_path / "part.yaml").write_text(text.replace("limit: 3", "limit: 2"))
    rerun = seen(execute(tmp_path / "part.yaml", tmp_path / "bundle").bundle, made.trusted_root)
    both = reproduction.add(seen(made.bundle, made.trusted_root), [rerun])
    (found,) = both.reproductions
    assert (found.whole, found.same_lab) == (False, True)
    assert 0 < found.compared < found.samples == 10
    assert any(f"{10 - found.compared} samples were not drawn again" in line for line in both.not_proven)
    assert any("every rerun is its own" in line for line in both.not_proven)


def test_a_run_does_not_reproduce_itself(made: Made) -> None:
    verified = seen(made.bundle, made.trusted_root)
    assert refusal(verified, verified) == "same-run"


def test_a_rerun_counts_once_and_a_lab_is_known_by_its_name(made: Made, partner: Lab, again: Path) -> None:
    verified, rerun = seen(made.bundle, made.trusted_root), seen(again, partner.trusted_root)
    with pytest.raises(VerificationError, match="reproduction/same-run"):
        reproduction.add(verified, [rerun, rerun])
    respelled = replace(rerun, issuer=verified.issuer, log_index=verified.log_index + 1)
    assert respelled.trusted_root != verified.trusted_root
    assert reproduction.compare(verified, respelled).same_lab


@pytest.mark.parametrize(
    ("field", "place"), [("tokens", "generation.tokens[0]"), ("text", "generation.text"), ("id", "")]
)
def test_a_changed_sample_is_found(made: Made, partner: Lab, again: Path, field: str, place: str) -> None:
    """The lab signs a transcript that it changed; its own bundle verifies, and no other run agrees."""
    doctored = seen(resign(made, lambda signed, files: doctor(signed, files, field)), made.trusted_root)
    rerun = seen(again, partner.trusted_root)
    if field == "id":  # a sample that nobody else has: the others still agree
        assert not reproduction.compare(doctored, rerun).whole
        return
    with pytest.raises(VerificationError) as caught:
        reproduction.compare(doctored, rerun)
    assert (caught.value.layer, caught.value.code) == ("reproduction", "divergent")
    assert place in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [("seed: 7", "seed: 8", "settings"), ("max_tokens: 24", "max_tokens: 23", "settings")],
)
def test_another_job_is_no_rerun(
    made: Made, execute: Callable[..., run.Outcome], tmp_path: Path, old: str, new: str, code: str
) -> None:
    text = made.job.read_text()
    assert old in text
    (tmp_path / "other.yaml").write_text(text.replace(old, new))
    other = seen(execute(tmp_path / "other.yaml", tmp_path / "bundle").bundle, made.trusted_root)
    assert refusal(seen(made.bundle, made.trusted_root), other) == code


def test_chance() -> None:
    assert chance(300, 3, 0) == 1
    assert chance(10, 1, 10) == 0
    assert chance(10, 1, 5) == 1 / 2
    # PEERS of this method say: 300 samples catch one doctored in a hundred with 95 percent.
    assert chance(100_000, 1000, 300) < 0.05


@pytest.mark.parametrize(
    ("ours", "theirs", "place"),
    [
        ({"a": 1}, {"a": 2}, "a"),
        ({"a": 1}, {}, "a"),
        ({"a": [1, 2]}, {"a": [1, 3]}, "a[1]"),
        ({"a": [1]}, {"a": [1, 2]}, "a, its length"),
        ({"generation": {"text": "x", "tokens": [1]}}, {"generation": {"text": "y", "tokens": [2]}}, "tokens[0]"),
    ],
)
def test_the_first_difference_is_named(ours: Any, theirs: Any, place: str) -> None:
    assert difference(ours, theirs)[0].endswith(place)


def refusal(first: Verified, second: Verified) -> str:
    with pytest.raises(VerificationError) as caught:
        reproduction.compare(first, second)
    assert caught.value.layer == "reproduction"
    return caught.value.code


def doctor(signed: Any, files: dict[str, bytes], field: str) -> None:
    """Change the third sample, and bring up everything that follows from it."""
    script = transcript.read(files[verify.TRANSCRIPT])
    records = [line.record for line in script.samples]
    changed: Any = records[2]
    if field == "tokens":
        changed["generation"]["tokens"][0] += 1
    elif field == "text":
        changed["generation"]["text"] += " "
    else:
        changed["id"] = "nobody"
    head, lines = transcript.genesis(), []
    for seq, line in enumerate(script.lines):
        record = canonical.dumps(changed) if line is script.samples[2] else line.raw_record
        lines.append(transcript.frame_line(line.kind, head, record, seq))
        head = digest_of(lines[-1])
    files[verify.TRANSCRIPT] = b"\n".join(lines) + b"\n"
    key = bytes.fromhex(json.loads(files[verify.DISCLOSURE])["salt_key"])
    root = transcript.root([canonical.dumps(record) for record in records], key)
    predicate = signed["predicate"]
    predicate["transcript"] |= {"head": head, "root": root}
    for entry in predicate["files"]:
        if entry["name"] == verify.TRANSCRIPT:
            describe(entry, files[verify.TRANSCRIPT])
    signed["subject"][1]["digest"] = {"sha256": root.removeprefix("sha256:")}
