"""A worker that misbehaves is contained and reported; the controller survives, and nothing half-done is signed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import relay, run, workers
from appliance.relay import WorkerFailure
from attest import transcript
from attest.errors import MalformedInput

JOB = """
format: vitrine/job/v1
name: rogue
models: [{{id: {behaviour}, path: "resource:demo/organism-q8_0.gguf"}}]
suites: [{{path: "resource:demo/suites/chat.yaml", limit: 1}}]
limits: {{context_tokens: 256, memory_bytes: 1073741824, sample_timeout_s: 1}}
"""


@pytest.fixture(autouse=True)
def rogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model worker is the rogue one, and nobody waits long for it."""
    monkeypatch.setitem(workers.MODULES, "model", "tests.integration.rogue")
    monkeypatch.setattr(relay, "GRACE_S", 1.0)


def start(behaviour: str, folder: Path, execute: Callable[..., run.Outcome], **fields: object) -> run.Outcome:
    """Run the rogue job."""
    path = folder / "rogue.yaml"
    path.write_text(JOB.format(behaviour=behaviour))
    return execute(path, folder / "bundle", **fields)


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("huge", "expected frames of at most"),
        ("malformed", "expected frames of at most|expected a known kind"),
        ("wrong-kind", "RESULTS is out of place"),
        ("wrong-tag", "REPLY is out of place"),
        ("flood", "REPLY is out of place"),
        ("hang", "expected an answer in time"),
        ("die", "SIGABRT|SIGSEGV"),
        ("memory", "found the end of the stream"),
    ],
)
def test_worker_that_breaks_the_rules_ends_the_run(
    behaviour: str,
    why: str,
    tmp_path: Path,
    execute: Callable[..., run.Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if behaviour == "memory":
        monkeypatch.setattr(relay, "GRACE_S", 60.0)  # its limit has to end it, not ours
    with pytest.raises(WorkerFailure, match=why) as caught:
        start(behaviour, tmp_path, execute)
    assert caught.value.worker == f"model.{behaviour}"
    assert not (tmp_path / "bundle").exists()
    left = transcript.read((tmp_path / "bundle.incomplete" / "transcript.jsonl").read_bytes())
    assert left.closing == {"ended_by": "failed"}


def test_self_test_that_is_not_whole_ends_the_run(tmp_path: Path, execute: Callable[..., run.Outcome]) -> None:
    with pytest.raises(MalformedInput, match="expected the cells"):
        start("liar", tmp_path, execute)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("behaviour", ["connect", "unix", "write", "read", "exec", "fork", "kill"])
def test_what_the_seal_forbids_is_denied(behaviour: str, tmp_path: Path, execute: Callable[..., run.Outcome]) -> None:
    outcome = start(behaviour, tmp_path, execute)
    script = transcript.read((outcome.bundle / "transcript.jsonl").read_bytes())
    assert [line.record["error"]["code"] for line in script.samples] == ["rogue"]
    assert script.samples[0].record["error"]["message"].startswith("denied: ")
    assert outcome.results.suites[0].failed == 1
    assert not Path("/tmp/vitrine-rogue").exists()


def test_output_on_stdout_goes_to_the_log_and_not_into_the_frames(
    tmp_path: Path, execute: Callable[..., run.Outcome]
) -> None:
    outcome = start("chatter", tmp_path, execute)
    assert outcome.results.suites[0].failed == 1


def test_reply_that_is_not_json_fails_the_sample_alone(tmp_path: Path, execute: Callable[..., run.Outcome]) -> None:
    outcome = start("garbage", tmp_path, execute)
    script = transcript.read((outcome.bundle / "transcript.jsonl").read_bytes())
    assert script.samples[0].record["error"]["code"] == "reply"


def test_incomplete_run_is_signed_only_on_request_and_says_so(
    tmp_path: Path, execute: Callable[..., run.Outcome]
) -> None:
    outcome = start("die", tmp_path, execute, sign_incomplete=True)
    assert (outcome.ended_by, outcome.results.complete) == ("failed", False)
