"""The ledger of a lab's log, with what dishonest labs do to a real lab directory: copy, restore, diverge, reuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from appliance.enrol import digest_of_key
from appliance.notary import lab as notary
from appliance.notary.lab import Lab
from appliance.notary.log_cli import app as log_app
from attest import canonical, leaf, ledger, trust, verify
from attest.errors import MalformedInput, Unsupported, VerificationError, VitrineError
from attest.ledger_cli import read_checkpoint, read_copy
from tests.tools.lab_logs import JOB, LOCK, OTHER, START, Clock, append, attest, register, sign

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "lab"
    notary.create(path, now=lambda: START)
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "lab"))


@pytest.fixture
def lab(path: Path) -> Lab:
    return notary.open_lab(path, now=Clock())


def read(path: Path) -> ledger.Ledger:
    return ledger.read(copy_of(path))


def copy_of(path: Path) -> Any:
    return read_copy(path / "log", trust.read((path / "public/trusted_root.json").read_bytes()).logs)


def codes(path: Path) -> list[str]:
    return [finding.code for finding in read(path).findings]


def test_every_attempt_is_listed_finished_or_not(lab: Lab, path: Path) -> None:
    first, _, other = register(lab), register(lab), register(lab, OTHER)
    sign(lab, other)
    sign(lab, first)
    found = read(path)
    assert [(one.intent.attempt, one.index, one.signatures) for one in found.of(JOB)] == [(1, 0, (4,)), (2, 1, ())]
    assert [one.signatures for one in found.of(OTHER)] == [(3,)]
    assert (found.entries, found.findings) == (5, ())
    found.require()


def test_an_empty_log_has_no_attempts(path: Path) -> None:
    assert read(path) == ledger.Ledger(0, (), ())


@pytest.mark.parametrize(
    ("code", "spec"),
    [
        ("number", {"attempt": 1}),
        ("number", {"attempt": 3}),
        ("number", {"attempt": 2, "job_digest": OTHER}),
        ("time", {"attempt": 2, "time": "2026-01-01T00:00:00Z"}),
    ],
)
def test_numbers_and_times_that_do_not_follow_are_told(lab: Lab, path: Path, code: str, spec: dict[str, Any]) -> None:
    register(lab)
    append(lab, **spec)
    assert codes(path) == [code]
    with pytest.raises(VerificationError, match=rf"ledger/{code}.*entry 1"):
        read(path).require()


def test_keys_that_sign_or_are_registered_twice_are_told(lab: Lab, path: Path) -> None:
    key = register(lab)
    sign(lab, key)
    sign(lab, key, b"[]")
    assert codes(path) == ["signed-twice"]
    append(lab, attempt=2, key_digest=digest_of_key(key))
    assert codes(path) == ["signed-twice", "key"]


def test_a_signature_needs_an_intent_before_it(lab: Lab, path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    sign(lab, key)
    assert codes(path) == ["unregistered"]
    append(lab, attempt=1, key_digest=digest_of_key(key))
    assert codes(path) == ["unregistered"]
    assert read(path).attempts[0].signatures == ()


# --- what a dishonest lab does to its directory ----------------------------------------------------------------------


def test_a_lab_directory_that_was_put_back_is_told_by_any_bundle_and_checkpoint(
    lab: Lab, path: Path, tmp_path: Path
) -> None:
    register(lab)
    saved = shutil.copytree(path, tmp_path / "saved")
    key = register(lab)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / verify.SIGNATURE).write_bytes(sign(lab, key))
    kept = read_checkpoint(tmp_path / "bundle", trust.read(lab.trusted_root).logs)
    copy_of(path).check_extends(kept)
    shutil.rmtree(path)
    shutil.copytree(saved, path)
    # The number is used again, and nothing in the log itself shows it.
    again = notary.open_lab(path, now=Clock())
    assert again.attempts(JOB) == 1
    with pytest.raises(VerificationError, match="log/rolled-back"):
        copy_of(path).check_extends(kept)
    register(again)
    register(again)
    assert (read(path).findings, read(path).attempts[1].intent.attempt) == ((), 2)
    with pytest.raises(VerificationError, match="log/forked"):
        copy_of(path).check_extends(kept)


def test_two_logs_under_one_key_do_not_extend_each_other(lab: Lab, path: Path, tmp_path: Path) -> None:
    register(lab)
    twin = shutil.copytree(path, tmp_path / "twin")
    register(lab)
    register(notary.open_lab(twin, now=Clock()))
    for one, other in ((path, twin), (twin, path)):
        with pytest.raises(VerificationError, match="log/forked"):
            copy_of(one).check_extends(copy_of(other).checkpoint)


def test_a_bundle_is_in_its_own_log_and_in_no_other(lab: Lab, path: Path, tmp_path: Path) -> None:
    twin = shutil.copytree(path, tmp_path / "twin")
    key = ec.generate_private_key(ec.SECP256R1())
    live = notary.open_lab(path, now=lambda: datetime.now(UTC))  # sigstore looks at the clock
    intent = {"job_digest": JOB, "lock_digest": LOCK, "key_digest": digest_of_key(key)}
    receipt = canonical.dump_model(live.register(intent))
    before = shutil.copytree(path, tmp_path / "before")
    signature = sign(live, key)
    found, signed = ledger.check_bundle(copy_of(path), signature, receipt, live.trusted_root)
    assert (found.attempt, found.log_index, signed.log_index) == (1, 0, 1)
    for older in (twin, before):
        with pytest.raises(VerificationError, match="log/rolled-back"):
            ledger.check_bundle(copy_of(older), signature, receipt, live.trusted_root)
    other = canonical.dump_model(live.register(intent | {"key_digest": OTHER}))
    with pytest.raises(VerificationError, match="ledger/bundle-key"):
        ledger.check_bundle(copy_of(path), signature, other, live.trusted_root)
    # An intent of a fork, for the same key: only the place of the intent differs.
    forked = notary.open_lab(twin, now=Clock())
    register(forked)
    stray = canonical.dump_model(forked.register(intent))
    with pytest.raises(VerificationError, match="log/forked"):
        ledger.check_bundle(copy_of(path), signature, stray, live.trusted_root)


# --- copies ----------------------------------------------------------------------------------------------------------


def test_another_labs_log_is_refused(lab: Lab, path: Path, tmp_path: Path) -> None:
    other = notary.create(tmp_path / "other", now=Clock())
    with pytest.raises(VerificationError, match="log/log-id"):
        read_copy(path / "log", trust.read(other.trusted_root).logs)
    with pytest.raises(VerificationError, match="log/origin"):
        copy_of(path).check_extends(copy_of(other.path).checkpoint)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (lambda data: data[:-1], "tile: expected whole leaves"),
        (lambda data: data + b"\0\1x", "log/entries"),
        (lambda data: data.replace(b'"attempt":1', b'"attempt":2'), "log/root"),
    ],
)
def test_an_altered_copy_is_refused(lab: Lab, path: Path, change: Callable[[bytes], bytes], refused: str) -> None:
    register(lab)
    tile = path / "log/tile/entries/000.p/1"
    tile.write_bytes(change(tile.read_bytes()))
    with pytest.raises(VitrineError, match=refused):
        read(path)
    tile.unlink()
    with pytest.raises(MalformedInput, match="readable file"):
        read(path)


def test_entries_of_other_kinds_are_not_passed_over(lab: Lab, path: Path) -> None:
    with lab.log.locked():
        lab.log.append(b'{"kind":"other"}')
    with pytest.raises(Unsupported, match="entry 0"):
        read(path)


def test_a_leaf_has_one_spelling(lab: Lab, path: Path) -> None:
    sign(lab, register(lab))
    for body in copy_of(path).leaves:
        leaf.read(body)
        with pytest.raises(MalformedInput):
            leaf.read(body.replace(b":", b": ", 1))


@given(st.binary(max_size=200))
def test_any_leaf_raises_our_errors_only(data: bytes) -> None:
    with pytest.raises((MalformedInput, Unsupported)):
        leaf.read(data)


# --- commands --------------------------------------------------------------------------------------------------------


def test_a_lab_hands_out_its_log_and_an_auditor_reads_it(lab: Lab, path: Path, tmp_path: Path) -> None:
    sign(lab, register(lab))
    runner, out, kept = CliRunner(), tmp_path / "copy", tmp_path / "kept"
    for command, target in (("copy", out), ("checkpoint", kept)):
        result = runner.invoke(log_app, [command, "--lab", str(path), "--out", str(target)])
        assert result.exit_code == 0, result.output
    assert {item.name for item in out.iterdir()} == {"checkpoint", "tile"}
    root = path / "public/trusted_root.json"
    code, text, _ = attest("ledger", out, "--trust", root, "--json")
    assert (code, [one["signatures"] for one in json.loads(text)["attempts"]]) == (0, [[1]])
    assert attest("consistency", kept, out, "--trust", root)[0] == 0
    register(lab)
    code, text, _ = attest("ledger", path / "log", "--trust", root)
    assert code == 0
    assert "attempt 2" in text
    assert "NOT FINISHED" in text
    append(lab, attempt=7)
    code, text, error = attest("ledger", path / "log", "--trust", root)
    assert (code, "WRONG ledger/number" in text) == (10, True)
    newer = tmp_path / "newer"
    newer.write_text(lab.log.note)
    code, _, error = attest("consistency", newer, out, "--trust", root)
    assert (code, isinstance(error, VerificationError) and error.code) == (10, "rolled-back")
